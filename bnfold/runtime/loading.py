"""Reading models that are to be run, and placing changed copies of them where onnxruntime can load them."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from ..errors import ModelProblem
from ..model import datafiles
from ..model.bounds import require_bounded
from ..system.sizes import words
from . import detached
from .detached import Skeleton

_numbers = itertools.count()


def load_to_run(path: str, outside: bool = False) -> onnx.ModelProto:
    """The model at `path` with its external data, also that from `outside` its folder.

    The large constants of a model beyond `detached.WHOLE_UP_TO` stay in their files: `detached.values` reads them.
    Raises ModelProblem for a model that cannot be read, or is beyond the limits.
    """
    return with_constants(without_constants(path, outside))


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that was read without its large constants, now with them, unless they are beyond `WHOLE_UP_TO`."""
    left = list(filter(detached.stays, detached.constants(model)))
    for tensor in left if sum(map(detached.bytes_in_memory, left)) <= detached.WHOLE_UP_TO else ():
        detached.fill(tensor, detached.place_of(tensor))
    return model


def without_constants(path: str, outside: bool = False) -> onnx.ModelProto:
    """As `load_to_run`, of any model: its large constants stay in their files."""
    try:
        model = detached.read_detached(Path(path), outside)
    except FileNotFoundError as why:
        raise ModelProblem(f"a file of the model is missing: {why.filename or path}", _AT_ITS_PLACE) from why
    except (datafiles.LocationError, IsADirectoryError, PermissionError) as why:
        raise ModelProblem(f"the external data of {path} cannot be read: {_first(why)}", _AT_ITS_PLACE) from why
    except (ModelProblem, MemoryError):
        raise
    except Exception as why:  # protobuf's DecodeError is private to its implementation
        raise ModelProblem(f"{path} is not a readable ONNX model", "Is the file complete, and really ONNX?") from why
    if not model.graph.node and not model.graph.output:
        raise ModelProblem(f"{path} holds no ONNX graph", "Is the file complete, and really ONNX?")
    require_bounded(model, path)
    return model


_AT_ITS_PLACE = "External data is looked for next to the model; keep the files together."


def _first(why: Exception) -> str:
    return (str(why).splitlines() or [""])[0]


def nodes_and_inputs(model: onnx.ModelProto) -> bytes:
    """What a model does, serialized, but for the numbers of its initializers."""
    graph = onnx.GraphProto(node=model.graph.node, input=model.graph.input)
    return bytes(onnx.ModelProto(graph=graph, functions=model.functions).SerializeToString(deterministic=True))


def is_alone(path: str) -> bool:
    """Whether onnxruntime can open the file of a model, which holds all of it."""
    return path.isascii() and detached.bytes_of(Path(path)) == os.path.getsize(path)


def require_whole(model: onnx.ModelProto, what: str) -> None:
    """Raises ModelProblem for a large model, of which `what` would need a copy."""
    if any(map(detached.stays, detached.constants(model))):
        raise ModelProblem(
            f"the model is too large for {what}", f"Models of up to {words(detached.WHOLE_UP_TO)} can have it."
        )


def for_onnxruntime(model: onnx.ModelProto, folder: str) -> bytes | str | Skeleton:
    """`model` as onnxruntime takes it: serialized or, where that is too large for protobuf, as a file in `folder`.

    Constants that lie in files stay there.
    """
    if detached.length(model):
        return detached.skeleton_of(model)
    with suppress(ValueError, EncodeError):  # of 2 GiB; to ask for the size first takes as long as to serialize
        return bytes(model.SerializeToString())
    from ..model.onnx_io import save  # which few models need

    path = Path(folder, f"copy{next(_numbers)}.onnx")
    save(model, path)
    return str(path)


def require_model_file(path: Path) -> Path:
    """`path`, if a model can be there. Raises ModelProblem for a missing file, a folder, a pipe, an empty file."""
    if os.path.isdir(path):
        raise ModelProblem(f"{path} is a folder, not a model", "Name the .onnx file in it.")
    if not os.path.exists(path):
        raise ModelProblem(f"no model at {path}", "Paths are relative to the current directory.")
    if not os.path.isfile(path):
        raise ModelProblem(f"{path} cannot be read: it is not a regular file", "Give a regular file that you may read.")
    if path.stat().st_size == 0:
        raise ModelProblem(f"{path} is empty", "Was the export or download interrupted? Make the file again.")
    return path
