"""Sizes that a piece looks up, as constants: what they are follows from the shapes of the tensors that enter it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...runtime.protos import called
from ..float64.oracle import Oracle
from ..float64.windows import Array
from .pieces import SIZES, Piece


def with_known_sizes(model: onnx.ModelProto, piece: Piece, examples: Mapping[str, Array]) -> Piece:
    """A piece of `model` that has the sizes of data as constants: those for tensors that enter as large as `examples`.

    Raises CannotEvaluate where they are not known.
    """
    data = piece.data()
    looks = [node for node in piece.nodes if called(node) in SIZES and node.input[0] in data]
    if not looks or not all(name in examples for name in piece.entering):
        return piece
    names = [node.output[0] for node in looks]
    kinds = {name: helper.np_dtype_to_tensor_dtype(examples[name].dtype) for name in piece.entering}
    zeros = {name: np.zeros(examples[name].shape) for name in piece.entering}
    made = Oracle(piece.model(model, kinds, names[0])).evaluate(zeros, names)
    constants = [numpy_helper.from_array(np.asarray(made[name], np.int64), name) for name in names]
    nodes = [node for node in piece.nodes if node not in looks]
    return replace(piece, nodes=nodes, constants=[*piece.constants, *constants])
