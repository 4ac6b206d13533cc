"""Constants of large models stay in their files, and are mapped into memory where they are read.

In the place of its data such a constant has a handle (see `wire`), a number of a table that this process has. Data that
are the same have the same number, in whichever file they lie. So messages are equal where their data are, and may be
copied, cut, compared and serialized without a look at them.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import FunctionProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from ..model import external, onnx_io
from ..model.messages import all_tensors, inner_graphs
from ..model.storage import Place
from ..model.tensors import Elsewhere
from ..model.wire import LARGE, handle_of, set_handle
from .protos import Array, is_constant

WHOLE = 1 << 30  # bytes of a model, with its data files, up to which it is read whole
BLOCK = 1 << 24  # bytes of a file that are read at a time
PAGE = mmap.PAGESIZE
SHARE = 16  # of so many pages of a large constant one is changed, in the place of all


@dataclass(frozen=True, eq=False)
class Changed:
    """Numbers of which most are those at a place: of a mapping, whose pages become memory where they are written."""

    place: Place
    values: Array


_table: list[Place | Changed] = []
_known: dict[object, int] = {}  # numbers of data, by place and by digest, and of what they were changed to
_stamps: dict[Path, str] = {}  # of the files, when they were read


def is_large(model: ModelProto, path: Path) -> bool:
    """Whether a model, read without its data files, is too large to be read whole."""
    outer = sum(map(external.size, filter(uses_external_data, all_tensors(model))))
    return path.stat().st_size + outer > WHOLE


def read(path: Path, outside: bool = False) -> ModelProto:
    """A model without the data of its large constants; any other tensor has its own.

    Raises ModelProblem as `onnx_io.load` does, and where data are missing, or are not what type and shape need.
    """
    model, storage = onnx_io.detached(path)
    external.require_data(model, storage, outside)
    may_stay = list(constants(model))
    chosen = set(map(id, may_stay))  # protobuf keeps the object of a message while somebody has it
    for tensor in list(filter(uses_external_data, all_tensors(model))):
        place = external.place(tensor, storage, outside)
        if id(tensor) in chosen and place.length >= LARGE:
            tensor.ClearField("external_data")
            set_handle(tensor, _number(place))
        else:
            _fill(tensor, place)
    return model


def _fill(tensor: TensorProto, place: Place) -> None:
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    with place.opened() as file:
        file.seek(place.offset)
        tensor.raw_data = file.read(place.length)


def constants(model: ModelProto | FunctionProto) -> Iterator[TensorProto]:
    """Initializers, and values of Constant nodes; in bodies and functions, too."""
    parts = [model.graph, *model.functions] if isinstance(model, ModelProto) else [model]
    for part in [*parts, *(graph for each in parts for graph in inner_graphs(each.node))]:
        yield from getattr(part, "initializer", ())
        yield from (a.t for node in part.node if is_constant(node) for a in node.attribute if a.name == "value")


def _number(place: Place) -> int:
    """That of the data at a place."""
    _stamps.setdefault(place.file, external.stamp(place.file))
    here = (place.inode, place.offset, place.length, _stamps[place.file])
    if here not in _known:
        _known[here] = _known.setdefault((place.length, _digest(place)), len(_table))
        if _known[here] == len(_table):
            _table.append(place)
    return _known[here]


def _digest(place: Place) -> bytes:
    left, found = place.length, hashlib.sha256()
    with place.opened() as file:
        file.seek(place.offset)
        while left and (block := file.read(min(left, BLOCK))):
            found.update(block)
            left -= len(block)
    return found.digest()


def require_unchanged() -> None:
    """Raises ModelProblem if somebody wrote to a file whose data is mapped: what was read may be anything."""
    for file, stamp in _stamps.items():
        external.require_unchanged(file, stamp)
    _stamps.clear()


def number(tensor: TensorProto) -> int | None:
    """That of the data of a tensor; None where the message has them."""
    return handle_of(tensor.raw_data) if uses_external_data(tensor) else None


def stays(tensor: TensorProto) -> bool:
    """Whether the data of a tensor lie in a file."""
    return number(tensor) is not None


def values(tensor: TensorProto) -> Array:
    """The values of a tensor, mapped where they lie in a file."""
    at = number(tensor)
    if at is None:
        return np.asarray(numpy_helper.to_array(tensor))
    entry = _table[at]
    if isinstance(entry, Changed):
        return entry.values
    return Elsewhere(tensor.name, tensor.data_type, tuple(tensor.dims), entry).mapped()


def length(model: ModelProto) -> int:
    """Bytes of the constants of the main graph that lie in files."""
    return sum(external.size(tensor) for tensor in model.graph.initializer if stays(tensor))


def largest(model: ModelProto) -> int:
    """Bytes of the largest of them."""
    return max((external.size(tensor) for tensor in model.graph.initializer if stays(tensor)), default=0)


def change(tensor: TensorProto, seed: int, by: Callable[[Array, Array], Array]) -> None:
    """Let a tensor have other numbers: what `by` makes of numbers and their places, in one page of `SHARE`.

    The same seed changes the same numbers.
    """
    at, kind = number(tensor), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    entry = _table[at] if at is not None else None
    assert isinstance(entry, Place)
    key = (at, tensor.data_type, tuple(tensor.dims), seed)
    if key not in _known:
        flat, first = _private(entry, kind)
        for rows in _pages(flat.size, first, PAGE // kind.itemsize, np.random.default_rng([seed, len(_table)])):
            flat[rows] = by(flat[rows], rows)
        _known[key] = len(_table)
        _table.append(Changed(entry, flat.reshape(tuple(tensor.dims))))
    set_handle(tensor, _known[key])


def _private(place: Place, kind: np.dtype[np.generic]) -> tuple[Array, int]:
    """The numbers at a place, of which this process may write others; and which is the first of a page."""
    before = place.offset % mmap.ALLOCATIONGRANULARITY
    with place.opened() as file:
        mapping = mmap.mmap(file.fileno(), before + place.length, access=mmap.ACCESS_COPY, offset=place.offset - before)
    return np.frombuffer(mapping, np.uint8, place.length, before).view(kind), -before % PAGE // kind.itemsize


def _pages(count: int, first: int, size: int, random: np.random.Generator) -> Iterator[Array]:
    """Places of numbers of one page, drawn from each `SHARE` pages; all, where there are no more."""
    wide = size * SHARE
    if count < first + wide:
        yield np.arange(count)
        return
    starts = np.append(np.arange(first, count - wide, wide), first + (count - wide - first) // size * size)
    drawn = starts + random.integers(SHARE, size=starts.size) * size
    for some in np.array_split(drawn, -(-drawn.size * size * 8 // BLOCK)):
        yield (some[:, None] + np.arange(size)).reshape(-1)


@dataclass(frozen=True)
class Skeleton:
    """A model as onnxruntime takes it: its bytes, in which constants are named by their path from `root`, and those
    that have other values than the file."""

    model: bytes
    root: str
    values: dict[str, Array]


def skeleton(model: ModelProto) -> Skeleton:
    """A model of which only constants of the main graph lie in files."""
    copy, changed, root = onnx_io.copied(model), {}, ""
    for tensor in filter(stays, copy.graph.initializer):
        entry = _table[number(tensor) or 0]
        if isinstance(entry, Changed):
            changed[tensor.name] = entry.values
        place = entry.place if isinstance(entry, Changed) else entry
        path = place.file.resolve()
        root = path.anchor
        where = path.relative_to(root).as_posix()
        external.point(tensor, location=where, offset=str(place.offset), length=str(place.length))
    return Skeleton(copy.SerializeToString(), root, changed)


def without_data(model: ModelProto, folder: str) -> str:
    """A file in `folder` for onnx's checker, which does not look at data that lie in files; "" for another model."""
    copy = onnx_io.copied(model)
    tensors = list(filter(stays, constants(copy)))
    for tensor in tensors:
        external.point(tensor, location="data")
    if not tensors:
        return ""
    Path(folder, "data").touch()
    path = Path(folder, "model.onnx")
    path.write_bytes(copy.SerializeToString())
    return str(path)
