"""What callers see of a model: B has to accept every input that A accepts, and to give the same outputs.

Names, order and types of inputs and outputs are the same. The shape of an input may become more general, never less;
that of an output may be known better or less well, but not contradict A's, nor fix a size that callers choose. Symbols
of dimensions may have other names as long as the same dimensions are equal. An input with a default, an initializer
that callers may override (IR version 4 or later), keeps its default and stays overridable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from ..runtime.protos import caller_inputs, overridable
from .influence.meaning import of_tensor

DeclaredShape = list[int | str | None]
ValueInfos = list[onnx.ValueInfoProto]

LISTED_NAMES = 8  # of inputs or outputs that a sentence lists


def differences(original: onnx.ModelProto, folded: onnx.ModelProto, frozen: bool = False) -> Iterator[str]:
    """A sentence for each difference that a caller of the original meets; `frozen`: nothing need be overridable."""
    ours, theirs = original.graph, folded.graph
    yield from _side("input", caller_inputs(ours), caller_inputs(theirs))
    yield from _side("output", list(ours.output), list(theirs.output), {*_symbols(ours, ("input",)).values()})
    if not frozen:
        yield from _defaults(original, folded)
    yield from _equalities(original, folded)


def _side(what: str, old: ValueInfos, new: ValueInfos, chosen: Collection[str] = ()) -> Iterator[str]:
    """Differences of the inputs or of the outputs; dimensions that callers choose, by symbol, must not be fixed."""
    if [v.name for v in old] != [v.name for v in new]:
        yield f"the {what}s changed from {_list(old)} to {_list(new)}"
        return
    for before, after in zip(old, new, strict=True):
        accepting = what == "input"
        if _contradicts(before.type, after.type, accepting) or _fixes(before.type, after.type, chosen):
            yield f"{what} {before.name!r} changed from {_type(before.type)} to {_type(after.type)}"


def _list(values: ValueInfos) -> str:
    more = f" and {len(values) - LISTED_NAMES} more" if len(values) > LISTED_NAMES else ""
    return (", ".join(value.name for value in values[:LISTED_NAMES]) or "none") + more


def _contradicts(old: onnx.TypeProto, new: onnx.TypeProto, accepting: bool) -> bool:
    """Whether two types cannot both be true of a value; of an input (`accepting`) also where the new one takes less."""
    kind: str | None = old.WhichOneof("value")
    if kind != new.WhichOneof("value") or kind is None:
        return kind is not None
    before, after = getattr(old, kind), getattr(new, kind)
    if kind in ("sequence_type", "optional_type"):
        return _contradicts(before.elem_type, after.elem_type, accepting)
    if kind == "map_type":
        return before.key_type != after.key_type or _contradicts(before.value_type, after.value_type, accepting)
    if kind == "opaque_type":
        return bool(before != after)
    return before.elem_type != after.elem_type or _other_shape(_dims(before), _dims(after), accepting)


def _fixes(old: onnx.TypeProto, new: onnx.TypeProto, chosen: Collection[str]) -> bool:
    pairs = zip(_dims(old.tensor_type) or (), _dims(new.tensor_type) or (), strict=False)
    return any(before in chosen and isinstance(after, int) for before, after in pairs)


def declared_otherwise(original: onnx.GraphProto, folded: onnx.GraphProto, values: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each output whose shape, when the model runs, is not what the folded model alone declares."""
    before = {output.name: _dims(output.type.tensor_type) for output in original.output}
    for output in folded.output:
        shape, dims = np.shape(values.get(output.name, ())), _dims(output.type.tensor_type)
        if not dims or len(dims) != len(shape) or before.get(output.name) == dims:
            continue
        if any(isinstance(dim, int) and dim != size for dim, size in zip(dims, shape, strict=True)):
            yield f"output {output.name!r} is declared {_type(output.type)} and has the shape {list(shape)}"


def _other_shape(old: DeclaredShape | None, new: DeclaredShape | None, accepting: bool) -> bool:
    """Whether a shape contradicts another.

    Not of an output that was declared a scalar: so exporters declare one whose shape they do not know, and what it is
    shows when the model runs.
    """
    if new is None or (not old and not accepting):
        return False
    if old is None or len(old) != len(new):
        return True
    return any(_other_size(*pair, accepting) for pair in zip(old, new, strict=True))


def _other_size(old: int | str | None, new: int | str | None, accepting: bool) -> bool:
    """Whether two sizes contradict each other; of an input also where it took any size, and now takes one alone."""
    if not isinstance(new, int):
        return False
    return old != new if isinstance(old, int) else accepting


def _dims(tensor: Any) -> DeclaredShape | None:
    if not tensor.HasField("shape"):
        return None
    fixed = (d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim)
    return [d.dim_value if known else d.dim_param or None for d, known in zip(tensor.shape.dim, fixed, strict=True)]


def _type(kind: onnx.TypeProto) -> str:
    """`FLOAT[N,3]`, `sequence of INT64[?]`"""
    which: str = kind.WhichOneof("value") or "no type"
    fields: Any = getattr(kind, which, None)
    if which == "map_type":
        return f"map from {onnx.TensorProto.DataType.Name(fields.key_type)} to {_type(fields.value_type)}"
    if which in ("sequence_type", "optional_type"):
        return f"{which.removesuffix('_type')} of {_type(fields.elem_type)}"
    if fields is None or which == "opaque_type":
        return which.replace("_", " ")
    dims = _dims(fields)
    shape = "" if dims is None else f"[{','.join('?' if d is None else str(d) for d in dims)}]"
    return f"{onnx.TensorProto.DataType.Name(fields.elem_type)}{shape or ' of any shape'}"


def _equalities(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """Dimensions with one symbol are equal: two that have one in both models share it in both or in neither.

    A dimension of an output may share one only in the folded model: more is known of it then.
    """
    symbols = [_symbols(model.graph) for model in (original, folded)]
    there: dict[str, tuple[str, str]] = {}  # the symbol in the other model, and where
    back: dict[str, tuple[str, str]] = {}
    for place, old in symbols[0].items():
        new = symbols[1].get(place)
        if new is None:
            continue
        known, first = there.setdefault(old, (new, place))
        if known != new:
            yield f"{first} and {place} had one size {old!r}, now {known!r} and {new!r}"
        known, first = back.setdefault(new, (old, place))
        if known != old and place.startswith("input"):
            yield f"{first} and {place} could have sizes of their own, {known!r} and {old!r}, and now have one, {new!r}"


def _symbols(graph: onnx.GraphProto, sides: Collection[str] = ("input", "output")) -> dict[str, str]:
    """The symbol of each dimension that has one, inputs first, by its place: `input 'x' axis 0`."""
    both = (("input", caller_inputs(graph)), ("output", graph.output))
    dims = ((f"{side} {v.name!r}", _dims(v.type.tensor_type)) for side, values in both if side in sides for v in values)
    return {
        f"{where} axis {axis}": size
        for where, sizes in dims
        for axis, size in enumerate(sizes or ())
        if isinstance(size, str)
    }


def _defaults(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    before, after = overridable(original), overridable(folded)
    gone = [name for name in before if name not in after]
    if gone:
        yield f"callers can no longer override {_few(gone)}"
    kept = {name: tensor for name, tensor in before.items() if name in after}
    other = [name for name, tensor in kept.items() if of_tensor(tensor) != of_tensor(after[name])]
    if other:
        yield f"another default of {_few(other)}, which callers may override"
    yield from _side("input", *(_typed(model.graph, kept) for model in (original, folded)))


def _typed(graph: onnx.GraphProto, names: Mapping[str, object]) -> ValueInfos:
    """The inputs with these `names`, sorted by name: the order of inputs that have a default does not matter."""
    return sorted((value for value in graph.input if value.name in names), key=lambda value: value.name)


def _few(names: list[str]) -> str:
    noun = "initializer" if len(names) == 1 else "initializers"
    return f"{len(names)} {noun}: {', '.join(names[:4])}{', ...' if names[4:] else ''}"
