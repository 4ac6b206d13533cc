"""If, Loop and Scan as onnx specifies them, in the float64 evaluation.

onnx 1.23's reference takes an absent condition of a Loop for False, concatenates scan outputs of a Loop along an axis
that they have already, knows Scan along the first axis forwards only, and in a body reads an initializer of the graph
around it instead of the body's own of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from .operators import Standard
from .windows import Array


class _WithBody(Standard):
    """An operator whose bodies may read the tensors of the graph around it."""

    body: Any

    def need_context(self) -> bool:
        return True

    def evaluate(self, body: str, around: Mapping[str, Any], fed: Sequence[Any], more: Mapping[str, Any]) -> list[Any]:
        """What the graph in the attribute `body` returns for the inputs `fed`; its own names come before `around`."""
        graph = getattr(self, body)
        seen = {name: value for name, value in around.items() if name not in graph.rt_inits_}
        seen.update(zip(graph.input_names, fed, strict=True))
        return list(getattr(self, f"_run_{body}")(seen, **more))

    def stacked(self, rows: Sequence[Array], output: int, axis: int = 0) -> Array:
        """One output of the body in every round, stacked along a new axis; without rounds, of the stated shape."""
        if rows:
            return np.stack(rows, axis)
        stated = self.body.output_types_[output].tensor_type
        sizes = [dim.dim_value for dim in stated.shape.dim]
        return np.zeros([*sizes[:axis], 0, *sizes[axis:]], helper.tensor_dtype_to_np_dtype(stated.elem_type))


class If(_WithBody):
    """One of two graphs."""

    def _run(self, condition, context=None, then_branch=None, else_branch=None, **more):  # type: ignore[no-untyped-def]
        branch = "then_branch" if condition.item() else "else_branch"
        return tuple(self.evaluate(branch, context or {}, (), more))


class Loop(_WithBody):
    """A graph that is run up to `most` times, while its condition is true; both may be absent."""

    def _run(self, most=None, goes_on=None, *carried, context=None, body=None, **more):  # type: ignore[no-untyped-def]
        round_, state, collected = 0, list(carried), list[list[Array]]()
        goes_on = np.array(True) if goes_on is None else goes_on
        collected = [[] for _ in self.body.output_names[1 + len(state) :]]
        while goes_on.item() and (most is None or round_ < most.item()):
            fed = (np.array(round_, np.int64), goes_on, *state)
            goes_on, *outputs = self.evaluate("body", context or {}, fed, more)
            state = outputs[: len(carried)]
            for rows, row in zip(collected, outputs[len(carried) :], strict=True):
                rows.append(row)
            round_ += 1
        return (*state, *(self.stacked(rows, 1 + len(state) + i) for i, rows in enumerate(collected)))


class Scan(_WithBody):
    """A graph that is run on one slice of its scanned inputs after another; opset 9 and later."""

    def _run(self, *inputs, context=None, body=None, num_scan_inputs=None, **more):  # type: ignore[no-untyped-def]
        count = self.setting("num_scan_inputs", 1)
        state, scanned = list(inputs[:-count]), inputs[-count:]
        slices = [self._sliced(value, i) for i, value in enumerate(scanned)]
        collected: list[list[Array]] = [[] for _ in self.body.output_names[len(state) :]]
        options = {name: value for name, value in more.items() if not name.startswith("scan_")}
        for rows_in in zip(*slices, strict=True):
            outputs = self.evaluate("body", context or {}, (*state, *rows_in), options)
            state = outputs[: len(state)]
            for rows, row in zip(collected, outputs[len(state) :], strict=True):
                rows.append(row)
        return (*state, *(self._laid(rows, i, len(state)) for i, rows in enumerate(collected)))

    def _sliced(self, value: Array, i: int) -> list[Array]:
        rows = list(np.moveaxis(value, self._of("scan_input_axes", i), 0))
        return rows[::-1] if self._of("scan_input_directions", i) else rows

    def _laid(self, rows: list[Array], i: int, states: int) -> Array:
        rows = rows[::-1] if self._of("scan_output_directions", i) else rows
        axis = self._of("scan_output_axes", i)
        return self.stacked(rows, states + i, axis + rows[0].ndim + 1 if axis < 0 and rows else axis)

    def _of(self, name: str, i: int) -> int:
        return int((self.setting(name, None) or [0] * (i + 1))[i])


WITH_BODIES = (If, Loop, Scan)
