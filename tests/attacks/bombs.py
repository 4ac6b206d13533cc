"""Small files that ask for a lot: of memory, of time, of depth. Each: how it is made, its exit code, its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.attacks.hostile import (  # fmt: skip
    WIDTH,
    Change,
    attribute,
    chain,
    changed,
    computed,
    node,
    set_dims,
    sound,
    sparse,
    stored,
    written,
)

FAR = 2**40  # an axis of a tensor that nobody holds
MANY = 100_000


class Row(NamedTuple):
    """A file, the exit code of `bnfold fold --verify off` on it, and words that it says; 0: it is survived."""

    make: Callable[[Path], Path]
    code: int
    words: str = ""


def refused(change: Change, words: str) -> Row:
    return Row(changed(change), 3, words)


def survived(change: Change, words: str = "") -> Row:
    return Row(changed(change), 0, words)


def calls(depth: int, width: int, empty: bool = False) -> Change:
    """Functions of which each calls the next one `width` times; the last one normalizes, or is `empty`."""

    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("f", 1))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        for level in range(depth):
            names = ["a", *(f"t{i}" for i in range(width - 1)), "z"]
            made = [
                helper.make_node(f"F{level + 1}", [a, *"gbmv"], [b], domain="f")
                for a, b in zip(names, names[1:], strict=False)
            ]
            last = helper.make_node("BatchNormalization", ["a", *"gbmv"], ["z"])
            nodes, end = (made, "z") if level < depth - 1 else ([], "a") if empty else ([last], "z")
            model.functions.append(helper.make_function("f", f"F{level}", ["a", *"gbmv"], [end], nodes, opsets))
        model.graph.node.append(helper.make_node("F0", ["y", *"gbmv"], ["q"], "call", domain="f"))
        model.graph.output[0].name = "q"

    return change


def too_deep(folder: Path) -> Path:
    """Graphs within graphs, beyond what protobuf's parser takes; protobuf itself would not write them."""
    graph = field(1, helper.make_node("Identity", ["c"], ["t"]).SerializeToString())
    for _ in range(60):
        body = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"  # of type GRAPH
        graph = field(1, field(4, b"If") + field(1, b"yes") + field(2, b"t") + field(5, body))
    return written(folder, sound().SerializeToString() + field(7, graph))


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that is text, bytes or a message."""
    length, size = len(content), b""
    while length > 127:
        length, size = length >> 7, size + bytes([length & 127 | 128])
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def followed_by(*nodes: NodeProto, **constants: np.ndarray) -> Change:
    """Nodes from `y`, what the BatchNormalization makes, to `q`, the output."""

    def change(model: ModelProto) -> None:
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        model.graph.node.extend(nodes)
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("q", TensorProto.FLOAT, [*"abcd"]))

    return change


def alone(*nodes: NodeProto, axes: Sequence[int] = (1, WIDTH, 2, 2), **constants: np.ndarray) -> ModelProto:
    """Nodes and the BatchNormalization without a Conv, from `x` of these axes to `y`."""
    model = sound()
    norm = node(model, "norm")
    norm.input[0] = next((n.output[0] for n in nodes if n.input[0] == "x"), "x")
    before, after = ([n for n in nodes if (n.input[0] == "x") == at_front] for at_front in (True, False))
    del model.graph.node[:], model.graph.initializer[0]
    model.graph.node.extend([*before, norm, *after])
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, axes))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(model.graph.node[-1].output[0], 1, [*"abcd"]))
    return model


def endless(field: str, length: int = 5_000_000) -> Change:
    """A name of megabytes, of the BatchNormalization, whose statistics cannot be folded."""

    def change(model: ModelProto) -> None:
        setattr(node(model, "norm"), field, "n" * length)
        stored(model, "v").CopyFrom(numpy_helper.from_array(np.full(WIDTH, np.nan, np.float32), "v"))

    return change


def ladder(count: int) -> Change:
    """Relus, then scales of which each could move past all that is before it."""
    two = numpy_helper.from_array(np.float32(2), "two")

    def change(model: ModelProto) -> None:
        chain(count)(model)
        model.graph.initializer.append(two)
        names = [model.graph.output[0].name, *(f"s{i}" for i in range(count))]
        for a, b in zip(names, names[1:], strict=False):
            model.graph.node.add(op_type="Mul", input=[a, "two"], output=[b])
        model.graph.output[0].name = names[-1]

    return change


def indices(*dims: int) -> np.ndarray:
    return np.zeros(dims, np.int64)


def sizes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def long_row(*dims: int) -> np.ndarray:
    return np.ones(dims, np.float32)


def weight(operator: str, inputs: Sequence[str], constants: dict[str, np.ndarray], **attributes: object) -> Row:
    """The weight of the Conv is computed, and would be huge: the normalization stays."""
    made = helper.make_node(operator, inputs, ["w2"], **attributes)
    return survived(computed(made, constants=constants))


ONE, END = sizes(1), (1, FAR, 2, 2)
UNDER = {  # past these the affine cannot move, for its coefficients would be too many
    "SpaceToDepth": alone(helper.make_node("SpaceToDepth", ["y"], ["q"], blocksize=2**20)),
    "Tile": alone(helper.make_node("Tile", ["y", "n"], ["q"]), n=sizes(1, FAR, 1, 1)),
    "Pad": alone(helper.make_node("Pad", ["y", "n"], ["q"], mode="edge"), n=sizes(0, FAR, 0, 0, 0, 0, 0, 0)),
    "Gather": alone(helper.make_node("Gather", ["y", "n"], ["q"], axis=1), n=np.zeros(2000, np.int64)),
    "Slice": alone(
        helper.make_node("Slice", ["x", "zero", "four", "one"], ["d"]), zero=sizes(0), four=sizes(4), one=ONE, axes=END
    ),
    "Split": alone(helper.make_node("Split", ["y", "n"], ["d", "q"], axis=1), n=sizes(4, FAR - 4)),
    "DepthToSpace": alone(helper.make_node("DepthToSpace", ["x"], ["d"], blocksize=2**20), axes=(1, 4 * FAR, 1, 1)),
}
TOO_MANY = "nodes, functions expanded; the limit is"
ROWS: dict[str, Row] = {
    "functions of 100 million nodes": refused(calls(9, 10), f"has 100000002 {TOO_MANY} 2000000"),
    "functions of 10^30 nodes": refused(calls(31, 10), TOO_MANY),
    "functions of nothing, called 2^40 times": refused(calls(41, 2, empty=True), TOO_MANY),
    "functions a thousand deep": refused(calls(1000, 1), "has functions in functions, 1000 deep; the limit is 100"),
    "functions fifty deep": survived(calls(50, 1)),
    "graphs too deep for protobuf": Row(too_deep, 3, "is not an ONNX model, or is cut off"),
    "a sparse weight that expands": refused(sparse([10**6, 3, 10**3, 10**3]), ""),
    "an input of an endless axis": survived(
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, FAR, FAR]))
    ),
    "dims that overflow to 0": refused(set_dims("w", [2**32, 2**32, 3, 3]), "overflow"),
    "a sum of a row and a column": weight(
        "Add", ["row", "column"], {"row": long_row(1, MANY), "column": long_row(MANY, 1)}
    ),
    "a row expanded to a square": weight(
        "Expand", ["column", "to"], {"column": long_row(MANY, 1), "to": sizes(1, MANY)}
    ),
    "a row taken again and again": weight("Gather", ["row", "i"], {"row": long_row(1, MANY), "i": indices(MANY)}),
    "strides of 2^62": refused(attribute("conv", "strides", ints=[2**62] * 2, type=7), "strides of Conv 'conv' in"),
    "strides of 2^31 - 1": survived(attribute("conv", "strides", ints=[2**31 - 1] * 2, type=7)),
    "dilations of 2^62": refused(attribute("conv", "dilations", ints=[2**62] * 2, type=7), "not from 1 to 2147483647"),
    "pads of 2^62": survived(attribute("conv", "pads", ints=[2**62] * 4, type=7)),
    "groups without end": survived(attribute("conv", "group", i=2**31 - 1, type=2)),
    "a name of 5 MB in an error": refused(endless("name"), "var of BatchNormalization 'nnnn"),
    "an operator of 5 MB": refused(endless("op_type"), "No Op registered for nnnn"),
    "documentation of 5 MB": survived(lambda m: setattr(m, "doc_string", "d" * 5_000_000)),
    "strides for 10^6 axes": survived(attribute("conv", "strides", ints=[1] * 10**6, type=7)),
    "10^4 outputs": survived(
        lambda m: m.graph.output.extend(helper.make_tensor_value_info("c", 1, [*"abcd"]) for _ in range(10_000))
    ),
    "scales after Relus": survived(ladder(100)),
}
LONG: dict[str, Row] = {  # seconds to minutes each: measured, and tested where there is time
    "10^5 attributes": refused(
        lambda m: node(m, "conv").attribute.extend([helper.make_attribute("dilations", [1, 1])] * MANY), ""
    ),
    "10^5 nodes after it": survived(chain(MANY)),
    "a thousand scales after a thousand Relus": survived(ladder(1000)),
    "a million nodes": survived(chain(10**6)),
    "more nodes than the limit": refused(chain(2 * 10**6), f"has 2000002 {TOO_MANY} 2000000"),
    "thousands of scales after thousands of Relus": survived(ladder(10_000)),
}
VERIFIED: dict[str, Row] = {  # folded; what runs in verification would take all memory, or for ever
    "a Tile": survived(followed_by(helper.make_node("Tile", ["y", "n"], ["q"]), n=sizes(1, 1, 2**20, 2**20))),
    "an Expand": survived(followed_by(helper.make_node("Expand", ["y", "n"], ["q"]), n=sizes(2**30, 1, 4, 6, 6))),
    "a Resize": survived(
        followed_by(
            helper.make_node("Resize", ["y", "", "by"], ["q"]), by=np.array([1, 1, 2**20, 2**20], np.float32)
        )
    ),
    "a Pad": survived(followed_by(helper.make_node("Pad", ["y", "n"], ["q"]), n=sizes(0, 0, 0, 0, 0, 0, 2**30, 2**30))),
    "a ConstantOfShape": survived(
        followed_by(
            helper.make_node("ConstantOfShape", ["n"], ["k"]), helper.make_node("ReduceMax", ["k"], ["r"]),
            helper.make_node("Add", ["y", "r"], ["q"]),
            n=sizes(2**40),
        )
    ),
    "a Range": survived(
        followed_by(
            helper.make_node("Range", ["low", "high", "by"], ["k"]), helper.make_node("ReduceSum", ["k"], ["r"]),
            helper.make_node("Mul", ["y", "r"], ["q"]),
            low=np.float32(0), high=np.float32(1e12), by=np.float32(1),
        )
    ),
    "a Loop without end": survived(
        followed_by(
            helper.make_node(
                "Loop", ["n", "yes", "y"], ["q"],
                body=helper.make_graph(
                    [helper.make_node("Relu", ["u"], ["t"]), helper.make_node("Identity", ["on"], ["go"])], "body",
                    [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("on", 9, []),
                     helper.make_tensor_value_info("u", 1, None)],
                    [helper.make_tensor_value_info("go", 9, []), helper.make_tensor_value_info("t", 1, None)],
                ),
            ),
            n=np.int64(2**62), yes=np.array(True),
        )
    ),
}  # fmt: skip
