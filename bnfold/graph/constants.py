"""Values that are known before run time: initializers, Constant nodes, and what is computed from them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Array, Refused
from ..algebra.computing import COMPUTED, computed, element_type, narrowed, valued_inputs
from ..algebra.rounding import widened
from ..model.messages import SCALARS

CHANCE = {"Bernoulli", "Multinomial", *(f"Random{name}" for name in ("Normal", "NormalLike", "Uniform", "UniformLike"))}


def is_evaluable(tensor: gs.Tensor) -> bool:
    """Whether `value_of` knows the value."""
    return _follows(tensor, "evaluable", _operands) and not tensor.is_empty()


def is_known(tensor: gs.Tensor) -> bool:
    """Whether a tensor is the same in every run, be it by operators that `value_of` does not compute."""
    return _follows(tensor, "known", _sources) and not tensor.is_empty()


def _follows(tensor: gs.Tensor, what: str, operands: Callable[[gs.Tensor], list[gs.Tensor] | None]) -> bool:
    """Whether `operands` lists, instead of None, what a tensor depends on, and what that depends on, and so on.

    Tensors keep the answer as attribute `what`: folding does not change it.
    """
    agenda = [] if hasattr(tensor, what) else [tensor]
    while agenda:
        t = agenda[-1]
        read = operands(t)
        new = [x for x in read or () if not hasattr(x, what)]
        setattr(t, what, read is not None and not new and all(getattr(x, what) for x in read))
        agenda += new
        if not new:
            agenda.pop()
    return bool(getattr(tensor, what))


def _sources(tensor: gs.Tensor) -> list[gs.Tensor] | None:
    """What a tensor depends on; None for an input, and for what bodies or chance decide."""
    if isinstance(tensor, gs.Constant) or tensor.is_empty():
        return []
    if len(tensor.inputs) != 1 or tensor.inputs[0].op in CHANCE or any(tensor.inputs[0].subgraphs()):
        return None
    return list(tensor.inputs[0].inputs)


def _operands(tensor: gs.Tensor) -> list[gs.Tensor] | None:
    """What the value of a tensor is computed from; None if that is not known before run time."""
    if isinstance(tensor, gs.Constant) or tensor.is_empty():
        return []
    if len(tensor.inputs) != 1 or not _computes_a_constant(tensor.inputs[0]):
        return None
    return valued_inputs(tensor.inputs[0])


def _computes_a_constant(node: gs.Node) -> bool:
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1:
        return False
    if any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()):
        return False
    if node.op == "Constant":
        return "value" in node.attrs or any(name in node.attrs for name in SCALARS)
    if node.op == "Shape":
        return _is_static(node.inputs[0].shape)
    if node.op == "CastLike":
        return node.inputs[1].dtype is not None
    return node.op in COMPUTED


def _is_static(dims: Any) -> bool:
    return dims is not None and all(isinstance(n, int) for n in dims)


def value_of(tensor: gs.Tensor) -> Array:
    """The value of an evaluable tensor, floating point widened to float64.

    What nodes compute is computed type by type: every result is rounded to the type that its operator says, once.
    Refuses where it turns out that it cannot be computed, or would be too large.
    """
    if isinstance(tensor, gs.Constant):
        return widened(tensor.values)
    values: dict[int, Array | None] = {}
    agenda = [tensor]
    while agenda:
        t = agenda[-1]
        new = [x for x in _operands(t) or () if id(x) not in values]
        agenda += new
        if not new:
            values[id(t)] = _value(t, values)
            agenda.pop()
    result = values[id(tensor)]
    assert result is not None
    return widened(result)


def _value(tensor: gs.Tensor, values: dict[int, Array | None]) -> Array | None:
    """The value of a tensor, in its own type, by those of what it is computed from; None for an omitted one."""
    if isinstance(tensor, gs.Constant):
        return _typed(tensor)
    if tensor.is_empty():
        return None
    node = tensor.inputs[0]
    if node.op == "Constant":
        return _literal(node)
    if node.op == "Shape":
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        return np.asarray(node.inputs[0].shape[start:end], np.int64)
    with _said(tensor):
        return computed(node, [values[id(x)] for x in valued_inputs(node)])


@contextmanager
def _said(tensor: gs.Tensor) -> Iterator[None]:
    """Refuses, naming the constant, what its operator cannot compute or leaves open."""
    try:
        yield
    except Refused as why:
        words = f"the constant '{tensor.name}' is {why}" if why.code == "NOT_CONSTANT" else str(why)
        raise Refused(why.code, words) from why
    except Exception as why:  # whatever the reference raises where shapes do not fit, or it knows no such node
        raise Refused("NOT_CONSTANT", f"the constant '{tensor.name}' cannot be computed: {type(why).__name__}") from why


def _typed(constant: gs.Constant) -> Array:
    """A stored constant in the type in which it is stored."""
    return narrowed(np.asarray(constant.values), element_type(constant.dtype))


def _literal(node: gs.Node) -> Array:
    if "value" in node.attrs:
        return _typed(node.attrs["value"])
    name = next(name for name in SCALARS if name in node.attrs)
    return np.asarray(node.attrs[name], SCALARS[name])
