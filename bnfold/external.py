"""Data of tensors that lies outside their messages: in data files beside the model, or in the model file itself."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from . import wire
from .errors import ModelProblem
from .messages import all_tensors
from .promises import Promises

BLOCK = 1 << 24
NARROW = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}  # types of less than a byte, in bits
PAGE = 4096  # bytes: at such places data can be mapped into memory
TOGETHER = "Keep data files beside the model."


@dataclass(frozen=True)
class Place:
    """Where the data of a tensor lies."""

    file: Path
    offset: int
    length: int


def belongs_outside(tensor: TensorProto) -> bool:
    """Its data lies in a data file of the model; or is new, and that of the tensor before it did."""
    return uses_external_data(tensor) and (not wire.reference(tensor) or wire.OUTSIDE in wire.reference(tensor))


def place(tensor: TensorProto, folder: Path) -> Place:
    """Where the data of an external tensor lies. Raises ModelProblem where they cannot, or not all of them."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "").removeprefix(wire.MARK)
    file = folder / location
    if not (wire.reference(tensor) or _is_inside(location, folder)):
        raise ModelProblem(f"'{tensor.name}' refers to {location[:200]!r}, outside the model's folder", TOGETHER)
    if not os.path.isfile(file):  # no error for a name that the system refuses
        raise ModelProblem(f"the data of '{tensor.name}' cannot be read from {str(file)[:200]}", TOGETHER)
    offset, length = (_number(tensor, entries.get(key, "0")) for key in ("offset", "length"))
    found = Place(file, offset, length or max(0, file.stat().st_size - offset))
    if offset + found.length > file.stat().st_size:
        raise ModelProblem(
            f"{file} ends before the data of '{tensor.name}' does", "The data file is cut off; make it again."
        )
    if found.length < size(tensor):
        raise ModelProblem(
            f"'{tensor.name}' holds {found.length} bytes of data; its type and shape need {size(tensor)}",
            "The file is damaged; make it again.",
        )
    return found


def _is_inside(location: str, folder: Path) -> bool:
    try:
        inside = (folder / location).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a name that is no file's
        return False
    return bool(location) and inside


def _number(tensor: TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ModelProblem(f"'{tensor.name}' refers to its data by {text!r}, which is no number", TOGETHER)
    return int(text)


def size(tensor: TensorProto) -> int:
    """Bytes that the data of a tensor take by its type and shape; 0 if its type is unknown."""
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
        bits = NARROW.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError):
        return 0
    return int(-(-math.prod(tensor.dims) * bits // 8))


def require_data(model: ModelProto, folder: Path) -> None:
    """Raises ModelProblem unless the data of every external tensor are at their place, and enough of them."""
    for tensor in filter(uses_external_data, all_tensors(model)):
        place(tensor, folder)


def gathered(model: ModelProto, folder: Path, target: Path, promises: Promises) -> ModelProto:
    """A copy of a model whose data files became one, `target`, with their bytes and those that were promised."""
    result = ModelProto()
    result.CopyFrom(model)
    with target.open("wb") as sink:
        for tensor in filter(belongs_outside, all_tensors(result)):
            sink.seek(-(-sink.tell() // PAGE) * PAGE)
            start, number = sink.tell(), wire.reference(tensor).get("promise")
            if number is None:
                copy(place(tensor, folder), sink)
            else:
                promises.keep(int(number), sink)
            wire.point(tensor, location=target.name, offset=str(start), length=str(sink.tell() - start))
        flush(sink)
    return result


def copy(source: Place, sink: BinaryIO) -> None:
    """Copy a range of a file to where another one is being written: by the system, if it can."""
    at, left = source.offset, source.length
    with source.file.open("rb") as file:
        if hasattr(os, "copy_file_range"):
            sink.flush()  # and so at its place, also where that is behind the end of the file
            with suppress(OSError):  # between file systems, say: what is left is copied here
                while left and (done := os.copy_file_range(file.fileno(), sink.fileno(), left, at)):
                    at, left = at + done, left - done
            sink.seek(0, os.SEEK_END)
        file.seek(at)
        while left and (block := file.read(min(left, BLOCK))):
            sink.write(block)
            left -= len(block)
    if left:
        raise ModelProblem(f"{source.file} became shorter while it was read", "Fold it again when nobody writes to it.")


def require_unchanged(file: Path, stamp: str) -> None:
    """Raises ModelProblem if somebody wrote to a file since it had this stamp."""
    if stamp and wire.stamp(file) != stamp:
        raise ModelProblem(f"{file} changed while it was read", "Fold it again when nobody writes to it.")


def flush(sink: BinaryIO) -> None:
    """Bring what was written to the disk."""
    sink.flush()
    os.fsync(sink.fileno())
