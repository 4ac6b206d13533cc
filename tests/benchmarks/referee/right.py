"""Changes of a faultless fold that leave it right, as other tools make them: (kind, name, network, change)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, inliner, numpy_helper, version_converter

from .edits import (
    Change,
    Edit,
    become,
    both,
    bypass,
    dimension,
    find,
    insert,
    of_input,
    other_branches,
    put,
    renamed,
    swap,
    tensor,
)  # fmt: skip

RNG = 7


def within_a_roundoff(old: np.ndarray) -> Any:
    """Every number one step up, down, or as it is: what a fold in float32 may make of it."""
    step = np.random.default_rng(RNG).integers(-1, 2, old.shape)
    return np.where(step > 0, np.nextafter(old, np.inf), np.where(step < 0, np.nextafter(old, -np.inf), old))


def replaced(model: ModelProto, other: ModelProto) -> None:
    model.CopyFrom(other)


def as_constants(model: ModelProto) -> None:
    """Every initializer a Constant node."""
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([*nodes, *rest])


def another_order(model: ModelProto) -> None:
    """Two nodes that do not depend on each other in each other's place."""
    nodes = list(model.graph.node)
    at = next(i for i, (a, b) in enumerate(zip(nodes, nodes[1:], strict=False)) if not {*a.output} & {*b.input})
    nodes[at], nodes[at + 1] = nodes[at + 1], nodes[at]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def bias_apart(model: ModelProto) -> None:
    """A Conv without its bias, which an Add brings."""
    node = find(model, "Conv", 1)
    bias = node.input.pop()
    result = node.output[0]
    node.output[0] = f"{result}_bare"
    old = next(t for t in model.graph.initializer if t.name == bias)
    model.graph.initializer.append(tensor(numpy_helper.to_array(old).reshape(-1, 1, 1), f"{bias}_wide"))
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at + 1, helper.make_node("Add", [node.output[0], f"{bias}_wide"], [result]))


def through_gemm(model: ModelProto) -> None:
    """Gemm as MatMul and Add."""
    node = find(model, "Gemm", 1)
    at, (x, w, b), y = list(model.graph.node).index(node), node.input, node.output[0]
    del model.graph.node[at]
    model.graph.node.insert(at, helper.make_node("Add", ["apart", b], [y]))
    model.graph.node.insert(at, helper.make_node("MatMul", [x, w], ["apart"]))


def with_gemm_of(alpha: float) -> Change:
    """A power of two in `alpha` that the weights lack."""
    return both(put("Gemm", 1, alpha=alpha), of_input("Gemm", 1, lambda w: w / alpha, 1))


def relu_as_max(model: ModelProto) -> None:
    become("Relu", "Max")(model)
    find(model, "Max").input.append("nil")
    model.graph.initializer.append(tensor(np.array(0.0), "nil"))


def relu_as_clip(*most: float) -> Change:
    """Without an upper bound, or with one."""

    def change(model: ModelProto) -> None:
        become("Relu", "Clip")(model)
        bounds = {f"bound{i}": value for i, value in enumerate((0.0, *most))}
        find(model, "Clip").input.extend(bounds)
        model.graph.initializer.extend(tensor(np.array(value), name) for name, value in bounds.items())

    return change


def dead_nodes(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["nobody"]))


def converted(version: int) -> Change:
    return lambda model: replaced(model, version_converter.convert_version(model, version))


def everywhere(old: str, new: str) -> Change:
    """A dimension's symbol by another name, wherever it stands."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_param = new if dim.dim_param == old else dim.dim_param

    return change


def clear(*fields: str) -> Change:
    return lambda model: [model.ClearField(field) for field in fields]


def of_graph(field: str) -> Change:
    return lambda model: model.graph.ClearField(field)


def each_node(**fields: str) -> Change:
    return lambda model: [setattr(node, k, v) for node in model.graph.node for k, v in fields.items()]


def unused(model: ModelProto) -> None:
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "unused"))


def as_floats(model: ModelProto) -> None:
    """Numbers as a list of floats, not as bytes."""
    for stored in model.graph.initializer:
        array = numpy_helper.to_array(stored)
        if array.dtype == np.float32:
            stored.CopyFrom(helper.make_tensor(stored.name, 1, array.shape, array.ravel().tolist()))


def stamped(model: ModelProto) -> None:
    helper.set_model_props(model, {"by": "another tool"})


_NO_EFFECT = (
    Edit("no effect", "count_include_pad without pads", "mean pool without pads", put("AveragePool", count_include_pad=1)),
    Edit("no effect", "SAME_LOWER with an even sum of pads", "same, step 1", put("Conv", 1, auto_pad="SAME_LOWER")),
    Edit("no effect", "the pads that SAME_UPPER means", "same, step 1", put("Conv", 1, auto_pad=None, pads=[1, 1, 1, 1])),
    Edit("no effect", "Clip at 0 and 1 after Sigmoid removed", "clip after sigmoid", bypass("Clip")),
    Edit("no effect", "second of two Relus removed", "twice relu", bypass("Relu", at=1)),
    Edit("no effect", "momentum of a kept BatchNormalization", "kept norm", put("BatchNormalization", momentum=0.5)),
    Edit("no effect", "DepthToSpace CRD where one channel is left", "depth", put("DepthToSpace", mode="CRD")),
    Edit("no effect", "Dropout removed", "dropout", bypass("Dropout")),
    Edit("no effect", "axis of Softmax from the end", "softmax", put("Softmax", axis=-1)),
    Edit("no effect", "Cast to its own type removed", "same type", bypass("Cast")),
    Edit("no effect", "nearest by whole numbers, asymmetric", "resize twice", put("Resize", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
    Edit("no effect", "summands swapped", "residual", swap("Add")),
    Edit("no effect", "storage_order without indices", "max pool", put("MaxPool", storage_order=1)),
    Edit("no effect", "a default that is said", "square", put("Gemm", 1, beta=1.0, alpha=1.0, transA=0)),
    Edit("no effect", "branches swapped with their condition", "if usual", both(insert("on", "out = Not (x)"), other_branches)),
)  # fmt: skip
PARTED = """n4 = Constant <value_ints = [4]> () n0 = Constant <value_ints = [0]> () far = Constant <value_ints = [1099511627776]> ()
    a = Slice (x, n0, n4, n0) b = Slice (x, n4, far, n0) out = Concat <axis = 0> (a, b)"""
WHOLE = """n0 = Constant <value_ints = [0]> () far = Constant <value_ints = [1099511627776]> () out = Slice (x, n0, far, n0)"""
_OTHER_WORDS = (
    Edit("other nodes", "Constant nodes for initializers", "plain", as_constants),
    Edit("other nodes", "all tensors renamed", "plain", renamed),
    Edit("other nodes", "all tensors renamed, with bodies", "residual", renamed),
    Edit("other nodes", "another order", "concat", another_order),
    Edit("other nodes", "an Identity put in", "plain", insert("r", "out = Identity (x)")),
    Edit("other nodes", "two Transposes put in", "plain", insert("r", "s = Transpose <perm = [1,0,2,3]> (x) out = Transpose <perm = [1,0,2,3]> (s)")),
    Edit("other nodes", "rows parted and joined", "plain", insert("x", PARTED)),
    Edit("other nodes", "a Slice of all rows put in", "plain", insert("x", WHOLE)),
    Edit("other nodes", "Relu as Max", "plain", relu_as_max),
    Edit("other nodes", "Relu as Clip", "plain", relu_as_clip()),
    Edit("other nodes", "Relu as Clip up to infinity", "plain", relu_as_clip(np.inf)),
    Edit("other nodes", "Relu as LeakyRelu", "plain", both(become("Relu", "LeakyRelu"), put("LeakyRelu", alpha=0.0))),
    Edit("other nodes", "attributes that say what their absence means", "plain", put("Conv", 1, strides=[1, 1], dilations=[1, 1], group=1)),
    Edit("other nodes", "bias in an Add", "wide", bias_apart),
    Edit("other nodes", "Gemm as MatMul and Add", "square", through_gemm),
    Edit("other nodes", "alpha of Gemm worked into its weights", "square", with_gemm_of(0.5)),
    Edit("other nodes", "a function inlined", "function", lambda m: replaced(m, inliner.inline_local_functions(m))),
    Edit("other nodes", "operator set 21", "plain", converted(21)),
    Edit("other nodes", "operator set 21, with a Resize", "resize linear", converted(21)),
    Edit("other nodes", "nodes that nobody reads", "plain", dead_nodes),
    Edit("rounding", "all weights within a roundoff", "wide", both(*(of_input("Conv", 1, within_a_roundoff, at) for at in (0, 1)))),
    Edit("rounding", "weights of the fold site within a roundoff", "plain", of_input("Conv", 1, within_a_roundoff)),
    Edit("rounding", "weights of a Gemm within a roundoff", "square", of_input("Gemm", 1, within_a_roundoff)),
)  # fmt: skip
_FILE_ONLY = (
    Edit("file only", "metadata lost", "annotated", clear("metadata_props")),
    Edit("file only", "metadata added", "annotated", stamped),
    Edit("file only", "documentation lost", "annotated", both(clear("doc_string"), each_node(doc_string=""))),
    Edit("file only", "producer, version and domain", "annotated", clear("producer_name", "producer_version", "model_version", "domain")),
    Edit("file only", "IR version 10", "annotated", lambda m: setattr(m, "ir_version", 10)),
    Edit("file only", "value_info lost", "annotated", of_graph("value_info")),
    Edit("file only", "value_info added", "plain", lambda m: replaced(m, onnx.shape_inference.infer_shapes(m))),
    Edit("file only", "an operator set that nobody uses", "annotated", lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1))),
    Edit("file only", "unused initializer removed", "annotated", unused),
    Edit("file only", "names of nodes lost", "annotated", each_node(name="")),
    Edit("file only", "another name of the graph", "annotated", lambda m: setattr(m.graph, "name", "main")),
    Edit("file only", "symbol of the batch renamed", "annotated", everywhere("N", "batch")),
    Edit("file only", "sizes of an output that were unknown", "annotated", both(*(dimension("y", axis, size) for axis, size in enumerate(("N", 5, 6, 6))))),
    Edit("file only", "numbers as lists", "annotated", as_floats),
    Edit("file only", "all of that", "annotated", both(
        clear("metadata_props", "doc_string", "producer_name", "domain"), each_node(name="", doc_string=""),
        of_graph("value_info"), unused, everywhere("N", "batch"))),
)  # fmt: skip
RIGHT = (*_NO_EFFECT, *_OTHER_WORDS, *_FILE_ONLY)
