"""Whether `bnfold.fold` is right about one graph: valid, runs, computes the same, folds nothing twice, mutates nothing."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

import bnfold
from bnfold.errors import BnfoldError
from bnfold.folding import driver

from . import noise, running
from .closeness import difference, distance, largest, within
from .draw import Drawn
from .running import Values

TIMES = 16  # so many times the movement by one roundoff is rounding
LEAST = 24  # roundoffs of the largest value of a channel that are rounding
DRAWS = 3
DECLINED = re.compile("is in training mode|holds NaN or infinity")  # what fold says it raises for

Found = dict[str, Any]
Fault = tuple[str, str]  # its kind, and words


class Dropped(Exception):
    """The graph itself is not valid, or does not run: nothing is expected of it."""


def words(why: BaseException) -> str:
    return f"{type(why).__name__}: {' '.join(str(why).split())}"[:300]


def strict(model: ModelProto) -> bool:
    """Whether onnx's full check takes the model. Its inference knows no operator that reads sparse tensors."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as why:  # of onnx's checker
        if "sparse_tensor(" not in str(why):
            raise Dropped(f"checker: {words(why)}") from why
        try:
            onnx.checker.check_model(model)
        except Exception as worse:  # of onnx's checker
            raise Dropped(f"checker: {words(worse)}") from worse
        return False
    return True


def judged(drawn: Drawn, begin: Callable[[], None] = lambda: None) -> Found:
    """What became of it: counts, and `faults`, each a kind and words. Raises Dropped.

    `begin` is called once the original has run.
    """
    model = drawn.model
    full = strict(model)
    trial = Trial(drawn)
    begin()
    before = model.SerializeToString(deterministic=True)
    try:
        result = driver.fold(model)
    except BnfoldError as refused:
        found = declined(refused)
    except Exception as why:  # whatever it raises
        found = raised(why)
    else:
        faults = trial.compare(result.model, result.flushed)
        faults += [*invalid(result.model, full), *again(result), *miscounted(model, result), *lost(model, result.model)]
        found = {"faults": faults, "folded": len(result.folded), "kept": len(result.kept)}
        found |= {"directions": [f.direction for f in result.folded], "overflows": trial.overflows}
    if model.SerializeToString(deterministic=True) != before:
        found["faults"].append(("argument mutated", ""))
    return found


def declined(refused: BnfoldError) -> Found:
    """No fault where `fold` says that it raises for such models."""
    faults = [] if DECLINED.search(str(refused)) else [("refused", words(refused))]
    return {"faults": faults, "folded": 0, "kept": 0, "refused": words(refused)}


def raised(why: Exception) -> Found:
    place = traceback.extract_tb(why.__traceback__)[-1]
    said = f"{words(why)} at {place.filename.rsplit('/', 2)[-1]}:{place.lineno} {place.name}"
    return {"faults": [("exception", said)], "folded": 0, "kept": 0}


def invalid(model: ModelProto, full: bool) -> list[Fault]:
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception as why:  # of onnx's checker
        return [("invalid", words(why))]
    return []


def again(result: bnfold.FoldResult) -> list[Fault]:
    """Folding what is folded folds nothing, and gives the same bytes."""
    try:
        second = driver.fold(result.model)
    except Exception as why:  # whatever it raises
        return [("exception in the second fold", words(why))]
    if second.folded:
        return [("not idempotent", ", ".join(f"{f.operator} {f.direction} into {f.into}" for f in second.folded))]
    same = second.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    return [] if same else [("second fold differs", "")]


def miscounted(model: ModelProto, result: bnfold.FoldResult) -> list[Fault]:
    """Every BatchNormalization is folded or kept; functions may be copied."""
    if model.functions:
        return []
    before, after = (sum(n.op_type == "BatchNormalization" for n in noise.nodes_of(m)) for m in (model, result.model))
    kept = sum(k.operator == "BatchNormalization" for k in result.kept)
    folded = sum(f.operator == "BatchNormalization" for f in result.folded)
    if (before, after) == (kept + folded, kept):
        return []
    return [("miscounted", f"{before} before, {after} after; {folded} folded and {kept} kept")]


def lost(model: ModelProto, folded: ModelProto) -> list[Fault]:
    """What a fold never touches: inputs, outputs, documentation, metadata, operator sets."""
    faults = []
    stored = {t.name for t in model.graph.initializer}
    for name in ("doc_string", "domain", "model_version", "producer_name", "ir_version"):
        if getattr(model, name) != getattr(folded, name):
            faults.append(("lost", name))
    for name in ("metadata_props", "opset_import"):
        if list(getattr(model, name)) != list(getattr(folded, name)):
            faults.append(("lost", name))
    pairs = [
        (
            [i for i in m.graph.input if i.name not in stored | {t.name for t in m.graph.initializer}],
            list(m.graph.output),
        )
        for m in (model, folded)
    ]
    if (
        pairs[0] != pairs[1]
        or model.graph.doc_string != folded.graph.doc_string
        or model.graph.name != folded.graph.name
    ):
        faults.append(("lost", "inputs, outputs or notes of the graph"))
    return faults


class Trial:
    """What the original computes for several draws of inputs, and how far that moves."""

    def __init__(self, drawn: Drawn) -> None:
        self.model = drawn.model
        self.names = [o.name for o in drawn.model.graph.output]
        try:
            self.original = running.session(drawn.model)
        except Exception as why:  # of onnxruntime
            raise Dropped(f"onnxruntime: {words(why)}") from why
        self.overflows = 0  # outputs that overflow on the way in one of the two models, not in float64
        self.runs = [*self._runs(drawn)]
        self._again()

    def _runs(self, drawn: Drawn) -> list[tuple[Values, list[Any]]]:
        found = []
        overrides = overridden(drawn.model)
        for turn, feeds in enumerate(running.draws(drawn.model, drawn.conditions, drawn.trips, 1)):
            try:
                found.append((feeds, running.ran(self.original, feeds)))
                if overrides and turn == 0:
                    found.append(({**feeds, **overrides}, running.ran(self.original, {**feeds, **overrides})))
            except Exception as why:  # of onnxruntime: perhaps other batches do not fit
                if not turn:
                    raise Dropped(f"does not run: {words(why)}") from why
        return found

    def _again(self) -> None:
        """A second session gives the same: where not, onnxruntime reads what nobody has written."""
        session = running.session(self.model)
        for feeds, want in self.runs:
            if any(
                np.asarray(a).tobytes() != np.asarray(b).tobytes()
                for a, b in zip(want, running.ran(session, feeds), strict=True)
            ):
                raise Dropped("onnxruntime: two runs differ")

    def compare(self, folded: ModelProto, flushed: int) -> list[Fault]:
        """The first difference that rounding does not explain."""
        if infinite(folded) > infinite(self.model):
            return [("infinite constant", f"{infinite(folded)} numbers, {infinite(self.model)} before")]
        try:
            session = running.session(folded)
        except Exception as why:  # of onnxruntime
            return [("does not load", words(why))]
        self.flushed = bool(flushed)
        self.moved = [noise.moved(self.model, np.random.default_rng(i), 1.0, self.flushed) for i in range(DRAWS)]
        for turn, (feeds, want) in enumerate(self.runs):
            try:
                got = running.ran(session, feeds)
            except Exception as why:  # of onnxruntime
                return [("does not run", words(why))]
            for place in range(len(want)):
                fault = self._output(folded, feeds, want, got, place)
                if fault:
                    return [(fault[0], f"draw {turn}, output '{self.names[place]}': {fault[1]}")]
        return []

    def _output(self, folded: ModelProto, feeds: Values, want: list[Any], got: list[Any], place: int) -> Fault | None:
        a, b = np.asarray(want[place]), np.asarray(got[place])
        if a.shape != b.shape or a.dtype != b.dtype:
            return "wrong", f"{b.dtype}{list(b.shape)}, not {a.dtype}{list(a.shape)}"
        if a.tobytes() == b.tobytes():
            return None
        more = self._nearby(feeds, place, self.moved, 1.0)
        if within(a, b, more, self.floor, TIMES):
            return None
        far = self._far(feeds, place)
        if within(a, b, [*more, *far], self.floor, TIMES) or self._small(a, b, place):
            return None
        return self._by_truth(folded, feeds, a, b, place)

    def _small(self, a: np.ndarray, b: np.ndarray, place: int) -> bool:
        """Whether a shift is rounded that the original, for a batch of no items, never adds: see its other outputs."""
        usual = max(largest(np.asarray(want[place])) for _, want in self.runs)
        return largest(a) < 1e-3 * usual and difference(a, b) <= self.floor * usual

    def _far(self, feeds: Values, place: int) -> list[np.ndarray]:
        """Where steps are near: more draws, and farther."""
        copies = [noise.moved(self.model, np.random.default_rng(100 + i), 4.0, self.flushed) for i in range(16)]
        return self._nearby(feeds, place, copies, 4.0)

    def _nearby(self, feeds: Values, place: int, copies: list[ModelProto], times: float) -> list[np.ndarray]:
        """One output of copies with other constants, for other inputs; without those that do not run."""
        found = []
        for i, copy in enumerate(copies):
            with suppress(Exception):  # of onnxruntime
                moved = noise.feeds_moved(feeds, np.random.default_rng(i), times)
                found.append(running.ran(running.session(copy), moved)[place])
        return found

    @property
    def floor(self) -> float:
        return LEAST * roundoff(self.model)

    def _by_truth(self, folded: ModelProto, feeds: Values, a: np.ndarray, b: np.ndarray, place: int) -> Fault | None:
        """In float64 the folded model may be as near as the original, where that is far off."""
        said, empty = f"{difference(a, b):.3g} off, of {largest(a):.3g}", any(v.size == 0 for v in feeds.values())
        try:
            t = np.asarray(running.truth(self.model, feeds)[place], np.float64)
            if empty and not np.isfinite(t).all():  # the mean of nothing, which ONNX leaves undefined
                return None
            off = [distance(x, t) for x in (a, b)]
            rounding = self.floor * largest(t)
            if off[1] <= 8 * rounding or (off[1] <= 4 * off[0] and off[0] <= 64 * rounding):
                return None
            if np.isfinite(t).all() and not np.isfinite(off).all():
                wide = np.asarray(running.truth(folded, feeds)[place], np.float64)
                self.overflows += distance(wide, t) <= 64 * rounding
                return None if distance(wide, t) <= 64 * rounding else ("range", said)
        except Exception as why:  # whatever onnx's evaluator cannot do
            return "wrong", f"{said}; no float64 ({words(why)[:80]})"
        return "wrong", f"{said}; from float64: {off[0]:.3g} before, {off[1]:.3g} after"


def infinite(model: ModelProto) -> int:
    """How many stored numbers are none, or infinite."""
    tensors = [t for g in noise.every_graph(model.graph) for t in g.initializer]
    tensors += [a.t for n in noise.nodes_of(model) if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    floats = [onnx.numpy_helper.to_array(t).astype(np.float64) for t in tensors if t.data_type in noise.ROUNDOFF]
    return sum(int((~np.isfinite(v)).sum()) for v in floats)


def overridden(model: ModelProto) -> Values:
    """Other numbers for initializers that are inputs, where the file lists some of them and not all."""
    stored = {t.name: t for t in model.graph.initializer}
    listed = [i.name for i in model.graph.input if i.name in stored]
    if model.ir_version < 4 or len(listed) == len(stored):
        return {}
    arrays = {n: onnx.numpy_helper.to_array(stored[n]) for n in listed}
    return {n: (v * 0.5 + 0.25).astype(v.dtype) for n, v in arrays.items() if v.dtype.kind == "f"}


def roundoff(model: ModelProto) -> float:
    """The coarsest of the types in which the model computes; what rounds constants alone does not count."""
    constant = running.constant_names(model.graph, set())
    kinds = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output) if v.name not in constant}
    computed = [n for n in noise.nodes_of(model) if n.op_type in ("Cast", "CastLike") and not {*n.output} & constant]
    kinds |= {a.i for n in computed for a in n.attribute if a.name == "to"}
    stored = {t.name: t.data_type for g in noise.every_graph(model.graph) for t in g.initializer}
    kinds |= {stored[n.input[1]] for n in computed if n.op_type == "CastLike" and n.input[1] in stored}
    return max((noise.ROUNDOFF[k] for k in kinds if k in noise.ROUNDOFF), default=2**-24)
