"""What stands around a node, in words: `Concat(Conv, Conv) -> BatchNormalization -> Relu`."""

from __future__ import annotations

import onnx

DEPTH = 2


def around(graph: onnx.GraphProto, output: str) -> str:
    """The operators that lead to the node that makes `output`, and those that read it; `*` marks what others read, too."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    node = makers[output]
    return f"{before(node.input[0], makers, readers, DEPTH)} -> {node.op_type} -> {after(output, readers, DEPTH)}"


def before(name: str, makers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]], depth: int) -> str:
    star = "*" if len(readers[name]) > 1 else ""
    if name not in makers:
        return f"input{star}"
    node = makers[name]
    inputs = [x for x in node.input if x in makers]
    if depth == 1 or not inputs or node.op_type in ("Conv", "MatMul", "Gemm"):
        return f"{title(node)}{star}"
    return f"{title(node)}({', '.join(before(x, makers, readers, depth - 1) for x in inputs)}){star}"


def after(name: str, readers: dict[str, list[onnx.NodeProto]], depth: int) -> str:
    found = [title(node) + onward(node, readers, depth) for node in readers.get(name, [])]
    return " + ".join(sorted(found)) or "output"


def onward(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], depth: int) -> str:
    """The readers of a node that has one output, unless it is where an affine ends."""
    if depth == 1 or node.op_type in ("Conv", "MatMul", "Gemm"):
        return ""
    return f"({after(node.output[0], readers, depth - 1)})"


def title(node: onnx.NodeProto) -> str:
    """The operator; of a Conv its kernel, p where it pads, g where it has groups."""
    if node.op_type != "Conv":
        return node.op_type
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    size = "x".join(map(str, given.get("kernel_shape", ())))
    return f"Conv{size}{'p' * any(given.get('pads', ()))}{'g' * (given.get('group', 1) > 1)}"
