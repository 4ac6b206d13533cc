"""From whatever the API takes as a model to what bnfold works on: a path, or an onnx.ModelProto.

Bytes are read; an onnx_ir.Model and a torch.onnx.ONNXProgram are converted. Neither onnx_ir nor torch is imported here:
where there is such an object, its package has been.
"""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from onnx import ModelProto
from onnx.external_data_helper import uses_external_data

from ..errors import ModelProblem
from .bounds import require_bounded
from .messages import all_tensors

if TYPE_CHECKING:
    from onnx_ir import Model as IrModel
    from torch.onnx import ONNXProgram
else:
    IrModel = ONNXProgram = Any

Model = ModelProto | str | PathLike[str] | bytes | IrModel | ONNXProgram
ACCEPTED = "a path, bytes, an onnx.ModelProto, an onnx_ir.Model or a torch.onnx.ONNXProgram"


def path_or_proto(model: Model) -> Path | ModelProto:
    """A path, or a ModelProto: the very one that was given, or a new one of what is converted.

    Raises TypeError for what is no model, ModelProblem for bytes that hold none, for an object that cannot be
    converted, and for a model in memory whose tensors lie in files: there is no folder to look for them in.
    """
    if isinstance(model, str | PathLike):
        return Path(model)
    message = _message(model)
    elsewhere = next(filter(uses_external_data, all_tensors(message)), None)
    if elsewhere is not None:
        raise ModelProblem(
            f"the data of '{elsewhere.name}' is in another file, and a model in memory has no folder to find it in",
            "Give the path of the model, or what onnx.load(path) returns.",
        )
    return message


def _message(model: Any) -> ModelProto:
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, bytes | bytearray | memoryview):
        return parsed(bytes(model), "the model")
    if _is(model, "torch.onnx", "ONNXProgram"):
        model = model.model
    if _is(model, "onnx_ir", "Model"):
        return _of_ir(model)
    raise TypeError(f"a model is {ACCEPTED}; this is of type {type(model).__name__}")


def parsed(data: bytes, name: object) -> ModelProto:
    """The model that bytes hold; `name` is what errors call it. Raises ModelProblem if they hold no sound one."""
    from .validity import NOT_ONNX_HINT, require_known  # which know what folding is, as the children of `verify` do not

    if not data:
        raise ModelProblem(f"{name} is empty", "Was the export or download interrupted? Make the file again.")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as problem:
        raise ModelProblem(f"{name} is not an ONNX model, or is cut off", NOT_ONNX_HINT) from problem
    require_known(model, name)
    require_bounded(model, name)
    return model


def _is(model: object, module: str, name: str) -> bool:
    """An instance of a class of a module that need not be there."""
    return isinstance(model, getattr(sys.modules.get(module), name, ()))


def _of_ir(model: Any) -> ModelProto:
    """An onnx_ir.Model as a message that holds all of its tensors."""
    from onnx_ir import ExternalTensor, serde

    from .tensors import loaded

    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    folders = {tensor.name: Path(tensor.base_dir) for tensor in tensors if isinstance(tensor, ExternalTensor)}
    try:
        message: ModelProto = serde.serialize_model(model)
        for tensor in filter(uses_external_data, all_tensors(message)):
            tensor.CopyFrom(loaded(tensor, folders[tensor.name]))
    except Exception as problem:  # whatever its tensors are made of
        raise ModelProblem(
            f"the {type(model).__name__} of onnx_ir cannot be converted: {problem}".splitlines()[0],
            "Save it with onnx_ir.save, and give the path.",
        ) from problem
    return message
