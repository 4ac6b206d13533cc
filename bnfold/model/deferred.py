"""Constants that are computed when the model is written, straight into the file."""

from __future__ import annotations

import sys
from bisect import bisect
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import numpy_helper

from ..algebra.affine import Array
from ..process import native
from ..system.staging import Sink
from .storage import Computed

MUCH = 1 << 24  # bytes of new constants
WRITING_SECONDS = 600.0  # which a fork has to write them
Places = list[tuple[Computed, int]]  # constants, and where in a file they belong


def write_all(file: Path, places: Places) -> int:
    """Write constants to their places in a file; how many of their numbers became zero.

    Where there is much, a fork writes half: threads would wait for each other. What the fork does not do, for whatever
    reason, is done here.
    """
    here, there = halved(places)
    finish = (
        native.start_guarded("writing new constants", partial(write_some, file, there), WRITING_SECONDS)
        if there
        else None
    )
    try:
        flushed = int(write_some(file, here))
    except BaseException:
        if finish:
            finish(wanted=False)
        raise
    if finish:
        flushed += int(_answer(finish) or write_some(file, there))
    return flushed


def halved(places: Places) -> tuple[Places, Places]:
    """Two lists of about as many bytes each; the second is empty where a fork is not worth its time."""
    sizes = [*accumulate(constant.length for constant, _ in places)]
    if not sizes or sizes[-1] < MUCH:
        return places, []
    middle = 1 + bisect(sizes, sizes[-1] // 2)
    return places[:middle], places[middle:]


def write_some(file: Path, places: Places) -> bytes:
    """Write constants to their places; how many of their numbers became zero, in digits."""
    flushed = 0
    with Sink(file, "r+b", places[0][1] if places else 0) as sink:
        for constant, at in places:
            sink.seek(at)
            flushed += write_constant(constant, sink)
    return b"%d" % flushed


def _answer(finish: Callable[[], bytes]) -> bytes:
    """The answer of a fork; nothing where it failed."""
    try:
        answer = finish()
    except native.Failed:
        return b""
    return answer if answer.isdigit() else b""


def write_constant(constant: Computed, sink: BinaryIO) -> int:
    """Write rounded values as ONNX stores them; how many became zero."""
    flushed = 0
    for part, small in constant.rounded():
        sink.write(little_endian(part))
        flushed += small
    return flushed


def little_endian(values: Array) -> memoryview:
    """The bytes of an array as ONNX stores them: the very memory, where this machine stores numbers like that.

    Numbers of less than a byte, of which NumPy knows none, are packed.
    """
    if values.dtype.kind == "V":
        return memoryview(numpy_helper.from_array(values).raw_data)
    if sys.byteorder == "big":
        return memoryview(numpy_helper.tobytes_little_endian(values))
    return np.ascontiguousarray(values).view(np.uint8).data
