"""What a model computes of its constants alone, type by type as it is written: there a Cast rounds for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .operators import Slice
from .protos import domain, fed, stored, subgraphs
from .windows import Array

LEFT = {"Constant", "DequantizeLinear", "Bernoulli", "Multinomial"}  # as they are, or widened like everything else


def settled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which what nodes of the main graph make of stored values alone is stored.

    What the reference cannot compute stays a node; so do DequantizeLinear, whose product no runtime need round, and
    what chance decides.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values, found = _Values(copy), []
    left = [node for node in copy.graph.node if not values.takes(node)]
    made = {name for node in copy.graph.node for name in node.output} - {n for node in left for n in node.output}
    read = {name for node in left for name in _names(node)} | {value.name for value in copy.graph.output}
    found = [numpy_helper.from_array(values.known[name], name) for name in sorted(made & read)]
    del copy.graph.node[:]
    copy.graph.node.extend(left)
    copy.graph.initializer.extend(found)
    return copy


def _names(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _names(inner)


class _Values:
    """Values that are known before run time, computed as the nodes come."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored, self.known = stored(model.graph), dict[str, Array]()
        self.opsets, self.ir = model.opset_import, model.ir_version
        typed = (*fed(model.graph), *model.graph.value_info)
        self.types = {value.name: value.type.tensor_type.elem_type for value in typed}

    def value(self, name: str) -> Array | None:
        if name not in self.known and name in self.stored:
            self.known[name] = numpy_helper.to_array(self.stored[name])
        return self.known.get(name)

    def takes(self, node: onnx.NodeProto) -> bool:
        """Compute a node, if that is possible."""
        if domain(node) or node.op_type in LEFT or node.op_type.startswith("Random") or any(subgraphs(node)):
            return False
        node = self.plain(node)
        feeds = {name: self.value(name) for name in node.input if name}
        if not feeds or any(value is None for value in feeds.values()):
            return False
        try:
            results = self.run(node, feeds)
        except Exception:  # whatever the reference raises: the node stays
            return False
        self.known.update(zip(node.output, results, strict=True))
        return True

    def plain(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A CastLike as a Cast, which looks at no second input."""
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
