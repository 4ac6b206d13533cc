"""What the fuzzers found, made small: each name says what went wrong, each function makes the bytes that did it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.attacks.hostile import Change, node, sound, stored
from tests.fuzz.wires import BYTES, END, START, VARINT, taken_apart, varint, written

GRAPH, NODE, INITIALIZER, ATTRIBUTE, TENSOR, RAW = 7, 1, 5, 5, 5, 9  # numbers of fields


def plain(change: Change) -> bytes:
    """The sound model of the attacks with one change."""
    model = sound()
    change(model)
    return bytes(model.SerializeToString())


def behind(extra: bytes) -> bytes:
    """The sound model, and after it bytes of more fields."""
    return bytes(sound().SerializeToString()) + extra


def rewritten(path: tuple[int, ...], change: Callable[[bytes], bytes], data: bytes | None = None) -> bytes:
    """The sound model with the first field on a path of field numbers written otherwise, given its content."""
    data = bytes(sound().SerializeToString()) if data is None else data
    fields, made, done = taken_apart(data), b"", False
    for number, wire, content in fields:
        if number != path[0] or done:
            made += written((number, wire, content))
            continue
        done = True
        made += change(content) if len(path) == 1 else written((number, wire, rewritten(path[1:], change, content)))
    return made


def split_tensor() -> bytes:
    """The tensor of an attribute in two parts, the second one small: protobuf merges them."""
    model = sound()
    value = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=value))
    second = TensorProto(name="merged").SerializeToString()
    data = bytes(model.SerializeToString())

    def twice(content: bytes) -> bytes:
        return written((TENSOR, BYTES, content)) + written((TENSOR, BYTES, second))

    return rewritten((GRAPH, NODE, ATTRIBUTE, TENSOR), twice, data)


def both(model: ModelProto) -> None:
    tensor = stored(model, "w")
    tensor.float_data.extend([1.0] * 108)


def operator(*made: NodeProto, **constants: object) -> Change:
    """Nodes between the Conv and the BatchNormalization: the first reads `c`, the last makes `d`."""

    def change(model: ModelProto) -> None:
        norm = model.graph.node.pop()
        norm.input[0] = "d"
        model.graph.node.extend([*made, norm])
        stored = (numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        model.graph.initializer.extend(stored)

    return change


def scaled(groups: int) -> Change:
    """A scale before a Conv of so many groups."""

    def change(model: ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Mul", ["x", "two"], ["x2"]))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
        node(model, "conv").input[0] = "x2"
        node(model, "conv").attribute.append(helper.make_attribute("group", groups))

    return change


def endless_beta(model: ModelProto) -> None:
    """Gemm without C, and an infinite factor for it: 0 would become NaN."""
    as_gemm(model, beta=float("-inf"))


def misfit(model: ModelProto) -> None:
    """Gemm with a C that is neither one number nor one for each column."""
    as_gemm(model, "three")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "three"))


def as_gemm(model: ModelProto, *bias: str, **settings: float) -> None:
    """A Gemm in the place of the Conv."""
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    info = helper.make_tensor_value_info
    model.graph.input.append(info("x", TensorProto.FLOAT, [2, 4]))
    model.graph.output.append(info("y", TensorProto.FLOAT, [2, 4]))
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    model.graph.initializer.append(numpy_helper.from_array(weight, "k"))
    gemm = helper.make_node("Gemm", ["x", "k", *bias], ["c"], **settings)
    norm = helper.make_node("BatchNormalization", ["c", *"gbmv"], ["y"])
    model.graph.node.extend([gemm, norm])


def cyclic(model: ModelProto) -> None:
    del model.graph.value_info[:]
    norm = node(model, "norm")
    norm.input[0] = "y"
    model.graph.output[0].type.tensor_type.ClearField("shape")


def branch_of_negative_groups(model: ModelProto) -> None:
    model.graph.node.insert(1, helper.make_node("Conv", ["x", "w2"], ["c2"]))
    weight = TensorProto()
    weight.CopyFrom(stored(model, "w"))
    weight.name = "w2"
    model.graph.initializer.append(weight)
    model.graph.node.insert(2, helper.make_node("Add", ["c", "c2"], ["s"]))
    node(model, "norm").input[0] = "s"
    node(model, "conv").attribute.append(helper.make_attribute("group", -2))


def wide_branch(model: ModelProto) -> None:
    """Two branches whose common kernel would be as wide as their padding."""
    branch_of_negative_groups(model)
    wide = 2**20
    for n, pads in ((node(model, "conv"), [wide, wide, 0, 0]), (model.graph.node[1], [0, 0, wide, wide])):
        del n.attribute[:]
        n.attribute.append(helper.make_attribute("pads", pads))


def garbled(name: str) -> bytes:
    """A name, wherever it is, with a byte that UTF-8 does not have."""
    model = sound()
    node(model, "conv").op_type = "Conv"
    data = bytes(model.SerializeToString())
    return data.replace(varint(len(name)) + name.encode(), varint(len(name)) + b"\xff" + name[1:].encode())


TWICE = written((GRAPH, START, varint(GRAPH << 3 | END)))
FOUND: dict[str, Callable[[], bytes]] = {
    "wire: an unknown group": lambda: behind(written((99, START, b"\x08\x01" + varint(99 << 3 | END)))),
    "wire: a group in the place of the graph": lambda: behind(TWICE),
    "wire: groups in groups without end": lambda: behind(varint(99 << 3 | START) * 200 + varint(99 << 3 | END) * 200),
    "wire: a group that another one ends": lambda: behind(varint(99 << 3 | START) + varint(98 << 3 | END)),
    "wire: a number in the place of the graph": lambda: behind(written((GRAPH, VARINT, b"\x01"))),
    **{
        f"wire: the key of a {what} in {length} bytes": lambda path=path, length=length: rewritten(
            path, lambda content: written((path[-1], BYTES, content), tag=length)
        )
        for what, path in {"graph": (GRAPH,), "tensor": (GRAPH, INITIALIZER), "data": (GRAPH, INITIALIZER, RAW)}.items()
        for length in (5, 6, 11)
    },
    **{
        f"wire: the length of a {what} in {length} bytes": lambda path=path, length=length: rewritten(
            path, lambda content: written((path[-1], BYTES, content), head=length)
        )
        for what, path in {"graph": (GRAPH,), "tensor": (GRAPH, INITIALIZER), "data": (GRAPH, INITIALIZER, RAW)}.items()
        for length in (5, 6, 11)
    },
    "wire: a key of 33 bits": lambda: rewritten(
        (GRAPH, INITIALIZER, RAW), lambda content: written((RAW + 2**29, BYTES, content))
    ),
    "wire: a tensor in two parts": split_tensor,
    "wire: data twice, once as numbers": lambda: plain(both),
    "Gemm with an infinite beta": lambda: plain(endless_beta),
    "a bias that does not fit": lambda: plain(misfit),
    "axes in a table": lambda: plain(
        operator(helper.make_node("ReduceSum", ["c", "k"], ["d"]), k=np.array([[2], [3]]))
    ),
    "a node that reads what it makes": lambda: plain(cyclic),
    "groups that do not part the channels": lambda: plain(scaled(3)),
    "no groups": lambda: plain(scaled(0)),
    "more groups than memory": lambda: plain(scaled(2**31 - 1)),
    "a branch of negative groups": lambda: plain(branch_of_negative_groups),
    "branches whose kernel would fill the memory": lambda: plain(wide_branch),
    "Clip by a vector": lambda: plain(
        operator(helper.make_node("Clip", ["c", "", "k"], ["d"]), k=np.ones(4, np.float32))
    ),
    "Pad by a vector": lambda: plain(
        operator(helper.make_node("Pad", ["c", "p", "k"], ["d"]), p=np.zeros(8, np.int64), k=np.ones(4, np.float32))
    ),
    "a Transpose of other axes": lambda: plain(operator(helper.make_node("Transpose", ["c"], ["d"], perm=[2, -2, 3]))),
    "a Tile of more than memory": lambda: plain(
        operator(helper.make_node("Tile", ["c", "n"], ["d"]), n=np.array([1, 2**40, 1, 1]))
    ),
    "a Split of more than memory": lambda: plain(
        operator(helper.make_node("Split", ["c", "n"], ["d", "e"], axis=1), n=np.array([4, 2**40]))
    ),
    "blocks of more than memory": lambda: plain(
        operator(helper.make_node("SpaceToDepth", ["c"], ["d"], blocksize=2**20))
    ),
    "a constant that cannot be computed": lambda: plain(
        operator(
            helper.make_node("Gather", ["k", "far"], ["i"]),
            helper.make_node("Mul", ["c", "i"], ["d"]),
            k=np.ones(4, np.float32),
            far=np.array(9),
        )
    ),
    **{f"{what} in bytes that are no text": lambda what=what: garbled(what) for what in ("conv", "w", "x", "Conv")},
}
