"""Constants of large models stay in their files, and are mapped into memory where they are read.

In the place of its data such a constant has a handle (see `wire`), a number of a table that this process has. Data that
are the same have the same number, in whichever file they lie. So messages are equal where their data are, and may be
copied, cut, compared and serialized without a look at them. Where data lie is found as onnx itself finds it, and what
`wire` finds in a model's file is confirmed by protobuf: a place that the fold reads wrong is not read wrong here.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from onnx import FunctionProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from ..errors import ModelProblem
from ..model import datafiles
from ..model.messages import all_tensors, inner_graphs
from ..model.wire import DETACHED_FROM, FileBytes, Span, Unreadable, detach, handle_of, set_handle
from .data_place import READ_AT_ONCE, Place
from .protos import Array, is_constant_node

MOST_READ = 1 << 36  # bytes of one constant
WHOLE_UP_TO = 1 << 30  # bytes of a model, with its data files, up to which it is read whole
PAGE = mmap.PAGESIZE
SHARE = 16  # of so many pages of a large constant one is changed, in the place of all


@dataclass(frozen=True, eq=False)
class Changed:
    """Data of which most is that at a place: a mapping of it, in which some pages were changed (copy on write)."""

    place: Place
    values: Array


_table: list[Place | Changed] = []
_alike: dict[tuple[int, bytes], list[int]] = {}  # numbers of data, by length and first bytes
_known: dict[object, int] = {}  # numbers of what data were changed to


def bytes_in_memory(tensor: TensorProto) -> int:
    """Bytes of the values of a tensor in memory."""
    return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def bytes_of(path: Path) -> int:
    """Bytes that a model and its data files have, where it can be read."""
    with suppress(OSError, ValueError, KeyError, DecodeError, Unreadable), datafiles.open_regular(path) as stream:
        model = ModelProto()
        model.ParseFromString(detach(FileBytes(stream))[0])
        outer = (
            bytes_in_memory(t) for t in all_tensors(model) if uses_external_data(t) and handle_of(t.raw_data) is None
        )
        return path.stat().st_size + sum(outer)
    return 0


def read_detached(path: Path, outside: bool = False) -> ModelProto:
    """A model without the data of its large constants; any other tensor has its own.

    Raises what `datafiles` and protobuf raise, and ModelProblem where data are not as many as type and shape need.
    """
    with datafiles.open_regular(path) as stream:
        try:
            content, spans = detach(FileBytes(stream))
        except Unreadable:
            stream.seek(0)
            content, spans = stream.read(), []
    model = ModelProto()
    model.ParseFromString(content)
    may_stay = list(constants(model))
    chosen = set(map(id, may_stay))  # protobuf keeps the object of a message while somebody has it
    for tensor in list(filter(uses_external_data, all_tensors(model))):
        span = handle_of(tensor.raw_data)
        place = _named(tensor, path.parent, outside) if span is None else _confirmed(tensor, path, spans[span])
        if id(tensor) in chosen and place.length == bytes_in_memory(tensor) >= DETACHED_FROM:
            tensor.ClearField("external_data")
            set_handle(tensor, _number(place))
        else:
            fill(tensor, place)
    return model


def _named(tensor: TensorProto, folder: Path, outside: bool) -> Place:
    """The place that a message names, as onnx reads it: without a length, the data go to the end of the file."""
    info = ExternalDataInfo(tensor)
    place = Place(folder / info.location, info.offset or 0, info.length or 0, None if outside else folder)
    with place.open() as file:
        end = file.seek(0, 2)
    length = place.length or max(0, end - place.offset) * bool(prod(tensor.dims))
    if place.offset + length > end:
        raise ModelProblem(
            f"{place.file} ends before the data of '{tensor.name}' does", "The data file is cut off; make it again."
        )
    return Place(place.file, place.offset, length, place.folder)


def _confirmed(tensor: TensorProto, path: Path, span: Span) -> Place:
    """Where data lie in the model's file, once protobuf reads the same there, in a message of that name and shape."""
    (start, stop), (first, last) = span.message, span.data
    content = Place(path, start, stop - start).read()
    message = TensorProto.FromString(content)
    data = message.raw_data
    same = [(t.name, t.data_type, *t.dims) for t in (tensor, message)]
    if same[0] != same[1] or len(data) != last - first or not content.startswith(data, first - start):
        raise ModelProblem(f"the data of '{tensor.name}' are not found in {path}", "Is the file complete?")
    return Place(path, first, last - first)


def fill(tensor: TensorProto, place: Place) -> None:
    """Read the data of a tensor into its message."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = place.read()


def constants(model: ModelProto | FunctionProto) -> Iterator[TensorProto]:
    """Initializers, and values of Constant nodes; in bodies and functions, too."""
    parts = [model.graph, *model.functions] if isinstance(model, ModelProto) else [model]
    for part in [*parts, *(graph for each in parts for graph in inner_graphs(each.node))]:
        yield from getattr(part, "initializer", ())
        yield from (a.t for node in part.node if is_constant_node(node) for a in node.attribute if a.name == "value")


def _number(place: Place) -> int:
    """The number that the data at a place have in the table of this process: that of the same data, if it has some.

    Raises MemoryError for data beyond MOST_READ, as a file with holes may state.
    """
    if place.length > MOST_READ:
        raise MemoryError
    numbers = _alike.setdefault((place.length, place.read(PAGE)), [])
    index = next((number for number in numbers if _is_same(_table[number], place)), len(_table))
    if index == len(_table):
        numbers.append(index)
    _table[index : index + 1] = [place]  # the newest one: the file of an earlier model may be gone
    return index


def _is_same(entry: Place | Changed, place: Place) -> bool:
    """Whether the same bytes lie at both places; not if one of them can be read no more."""
    with suppress(OSError, ValueError, ModelProblem):
        assert isinstance(entry, Place)
        return all(first == second for first, second in zip_longest(entry.blocks(), place.blocks()))
    return False


def data_number(tensor: TensorProto) -> int | None:
    """The number that the data of a tensor have in the table of this process; None where they are in the message."""
    return handle_of(tensor.raw_data) if uses_external_data(tensor) else None


def place_of(tensor: TensorProto) -> Place:
    """Where the data of a tensor lie that was read, and not changed, of which the data stay in a file."""
    entry = _table[data_number(tensor) or 0]
    assert isinstance(entry, Place)
    return entry


def stays(tensor: TensorProto) -> bool:
    """Whether the data of a tensor lie in a file."""
    return data_number(tensor) is not None


def values(tensor: TensorProto) -> Array:
    """The values of a tensor, mapped where they lie in a file."""
    at = data_number(tensor)
    if at is None:
        return np.asarray(numpy_helper.to_array(tensor))
    entry = _table[at]
    if isinstance(entry, Changed):
        return entry.values
    return entry.mapped().view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))


def length(model: ModelProto) -> int:
    """Bytes of the constants of the main graph that lie in files."""
    return sum(bytes_in_memory(tensor) for tensor in model.graph.initializer if stays(tensor))


def largest(model: ModelProto) -> int:
    """Bytes of the largest constant of the main graph that lies in a file."""
    return max((bytes_in_memory(tensor) for tensor in model.graph.initializer if stays(tensor)), default=0)


def change(tensor: TensorProto, seed: int, by: Callable[[Array, Array], Array]) -> None:
    """Let a tensor have other numbers: what `by` makes of numbers and their places, in one page of `SHARE`.

    The same seed changes the same numbers.
    """
    kind, entry = helper.tensor_dtype_to_np_dtype(tensor.data_type), place_of(tensor)
    key = (entry, tensor.data_type, tuple(tensor.dims), seed)
    if key not in _known:
        flat, first = entry.mapped(mmap.ACCESS_COPY).view(kind), -entry.offset % PAGE // kind.itemsize
        for rows in _pages(flat.size, first, PAGE // kind.itemsize, np.random.default_rng([seed, len(_table)])):
            flat[rows] = by(flat[rows], rows)
        _known[key] = len(_table)
        _table.append(Changed(entry, flat.reshape(tuple(tensor.dims))))
    set_handle(tensor, _known[key])


def _pages(count: int, first: int, size: int, random: np.random.Generator) -> Iterator[Array]:
    """Places of numbers of one page, drawn from each `SHARE` pages; all, where there are no more."""
    wide = size * SHARE
    if count < first + wide:
        yield np.arange(count)
        return
    starts = np.append(np.arange(first, count - wide, wide), first + (count - wide - first) // size * size)
    drawn = starts + random.integers(SHARE, size=starts.size) * size
    for some in np.array_split(drawn, -(-drawn.size * size * 8 // READ_AT_ONCE)):
        yield (some[:, None] + np.arange(size)).reshape(-1)


@dataclass(frozen=True)
class Skeleton:
    """A model as onnxruntime takes it: its bytes, in which constants are named by their path from `root`, and those
    that have other values than the file."""

    model: bytes
    root: str
    values: dict[str, Array]


def skeleton_of(model: ModelProto) -> Skeleton:
    """A model, of which only constants of the main graph lie in files, as onnxruntime takes it."""
    copy, changed, root = _copied(model), {}, ""
    for tensor in filter(stays, copy.graph.initializer):
        entry = _table[data_number(tensor) or 0]
        if isinstance(entry, Changed):
            changed[tensor.name] = entry.values
        place = entry.place if isinstance(entry, Changed) else entry
        path = place.file.resolve()
        root = path.anchor
        where = path.relative_to(root).as_posix()
        _point(tensor, location=where, offset=place.offset, length=place.length)
    return Skeleton(copy.SerializeToString(), root, changed)


def file_without_data(model: ModelProto, folder: str) -> str:
    """A file in `folder` for onnx's checker, which does not look at data that lie in files; "" for another model."""
    if not any(map(stays, constants(model))):
        return ""
    copy = _copied(model)
    for tensor in filter(stays, list(constants(copy))):
        _point(tensor, location="data")
    Path(folder, "data").touch()
    path = Path(folder, "model.onnx")
    path.write_bytes(copy.SerializeToString())
    return str(path)


def _copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _point(tensor: TensorProto, **entries: Any) -> None:
    """Say, as ONNX does, where the data of a tensor lies."""
    tensor.ClearField("raw_data")
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
