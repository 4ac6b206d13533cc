"""What a model computes from constants alone, in the types that it states: a Cast of a weight to float16 rounds it.

The oracle computes everything else in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ...runtime import detached
from ...runtime.protos import caller_inputs, domain, overridable, stored
from .operators import Slice
from .windows import Array

FIXED = frozenset(  # operators that give the same numbers in every runtime
    ["Abs", "Add", "Cast", "CastLike", "Clip", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather"]
    + ["Identity", "Max", "Min", "Mul", "Neg", "QuantizeLinear", "Reciprocal", "Relu", "Reshape", "Shape", "Slice"]
    + ["Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"]
)


FREE_INITIALIZERS = 4  # the version of the format from which on initializers need not be inputs as well
MOST_STORED = 1 << 28  # bytes of all results: a message may have 2 GiB


def evaluate_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy in which initializers replace the nodes of the main graph that read only constants.

    Nodes stay that the reference cannot compute, sums of products, DequantizeLinear (a runtime need not round its
    product), and those whose results would exceed MOST_STORED. Callers can override what they could before.
    """
    values = _Values(model)
    left = [node for node in model.graph.node if not values.takes(node)]
    if len(left) == len(model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept, free, copy.ir_version = (
        caller_inputs(model.graph),
        overridable(model),
        max(model.ir_version, FREE_INITIALIZERS),
    )
    del copy.graph.node[:], copy.graph.input[:]
    copy.graph.input.extend([*kept, *(value for value in model.graph.input if value.name in free)])
    copy.graph.node.extend(left)
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.made.items())
    return copy


class _Values:
    """Values that are known before run time: stored ones, and those `made` of them, node after node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored, self.made, self.bytes = stored(model.graph), dict[str, Array](), 0
        self.opsets, self.ir = model.opset_import, model.ir_version
        typed = (*caller_inputs(model.graph), *model.graph.value_info)
        self.types = {value.name: value.type.tensor_type.elem_type for value in typed}

    def value(self, name: str) -> Array | None:
        if name in self.stored:
            return detached.values(self.stored[name])
        return self.made.get(name)

    def takes(self, node: onnx.NodeProto) -> bool:
        """Compute a node, if that is possible; whether it was."""
        if domain(node) or node.op_type not in FIXED:
            return False
        node = self.plain(node)
        names = [name for name in node.input if name]
        if not names or any(name not in self.stored and name not in self.made for name in names):
            return False
        if sum(detached.bytes_in_memory(self.stored[name]) for name in names if name in self.stored) > MOST_STORED:
            return False
        try:
            results = self.run(node, {name: self.value(name) for name in names})
        except Exception:  # whatever the reference raises: the node stays
            return False
        if (total := self.bytes + sum(each.nbytes for each in results)) > MOST_STORED:
            return False
        self.bytes = total
        self.made.update(zip(filter(None, node.output), results, strict=True))
        return True

    def plain(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A CastLike as a Cast, which has no second input."""
        if node.op_type != "CastLike":
            return node
        like = self.value(node.input[1])
        kind = self.types.get(node.input[1], 0) if like is None else helper.np_dtype_to_tensor_dtype(like.dtype)
        cast = helper.make_node("Cast", node.input[:1], node.output, to=kind)
        cast.attribute.extend(node.attribute)
        return cast if kind else node

    def run(self, node: onnx.NodeProto, feeds: dict[str, Any]) -> list[Array]:
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "known", infos, outputs)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=self.ir)
        with np.errstate(all="ignore"):
            return [np.asarray(each) for each in ReferenceEvaluator(model, new_ops=[Slice]).run(None, feeds)]
