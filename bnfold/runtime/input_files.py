"""Inputs from files: .npz by names of inputs, .npy for a model with one input, ONNX's own test data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelProblem, UsageProblem, first_line
from ..model.datafiles import open_regular
from .dimensions import Sizes
from .input_options import named_sizes
from .protos import Array, caller_inputs


def read_inputs(graph: onnx.GraphProto, path: str) -> dict[str, Array]:
    """A value for every input a caller has to feed. Raises ModelProblem where the file does not hold it."""
    inputs = {value.name: value for value in caller_inputs(graph)}
    arrays = _read(Path(path), list(inputs))
    missing, more = [n for n in inputs if n not in arrays], [n for n in arrays if n not in inputs]
    if missing or more:
        what = f"has no {', '.join(missing)}" if missing else f"has {', '.join(more)}, which no input is called"
        raise ModelProblem(f"{path} {what}", f"The inputs of the model: {', '.join(inputs)}.")
    return {name: _fitting(value, arrays[name], path) for name, value in inputs.items()}


def _read(path: Path, names: list[str]) -> dict[str, Array]:
    try:
        if os.path.isdir(path):
            return _test_data(path, names)
        with open_regular(path) as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return dict.fromkeys(names, content) if len(names) == 1 else {path.stem: content}
            return dict(content)
    except Exception as why:  # numpy and zipfile raise errors of several unrelated classes
        raise ModelProblem(
            f"{path} cannot be read: {first_line(why)}", "Save inputs with numpy.savez, by their names."
        ) from why


def _test_data(folder: Path, names: list[str]) -> dict[str, Array]:
    """`input_0.pb`, `input_1.pb`, ...: serialized tensors in the order of the inputs."""
    arrays = {}
    for i, name in enumerate(names):
        tensor = onnx.TensorProto()
        with open_regular(folder / f"input_{i}.pb") as stream:
            tensor.ParseFromString(stream.read())
        arrays[name] = numpy_helper.to_array(tensor)
    return arrays


def _fitting(value: onnx.ValueInfoProto, array: Array, path: str) -> Array:
    """The array in the input's own type, between floating types; its shape must be one that the input can have."""
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if array.dtype != wanted and not (array.dtype.kind == "f" and (wanted.kind == "f" or wanted.name == "bfloat16")):
        raise ModelProblem(f"{path}: {value.name!r} is {array.dtype}", f"The model takes {wanted}.")
    try:
        named_sizes(value, array.shape)
    except UsageProblem as why:
        raise ModelProblem(f"{path}: {why}", why.hint) from why
    return array.astype(wanted)


def sizes_of(graph: onnx.GraphProto, path: str) -> Sizes:
    """The sizes that the data of a file gives to the dynamic dimensions of the model."""
    arrays = read_inputs(graph, path)
    sizes: dict[str, int] = {}
    for value in caller_inputs(graph):
        sizes |= named_sizes(value, arrays[value.name].shape)
    return sizes
