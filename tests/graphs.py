"""Random small networks, drawn the way Hypothesis likes to shrink them: a list of layers."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

D = TensorProto.DOUBLE


class Net:
    """A graph under construction: what is drawn so far, and the shape of every live tensor (batch 2)."""

    def __init__(self, seed: int) -> None:
        self.rng, self.nodes, self.inits = np.random.default_rng(seed), [], []
        self.live: dict[str, tuple[int, ...]] = {"X": (2, 4, 5, 5)}

    def const(self, *shape: int, positive: bool = False) -> str:
        name = f"c{len(self.inits)}"
        value = self.rng.random(shape) + 0.2 if positive else self.rng.standard_normal(shape)
        self.inits.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
        self.live[name] = shape
        return name


def conv(net: Net, x: str, pad: int, group: int = 1) -> None:
    n, c, h, w = net.live[x]
    kh, kw = 3 if h >= 3 or pad else 1, 3 if w >= 3 or pad else 1
    group = group if c % group == 0 else 1
    weight = net.const(4, c // group, kh, kw)
    bias = [net.const(4)] if net.rng.random() < 0.5 else []
    net.add("Conv", [x, weight, *bias], (n, 4, h + 2 * pad - kh + 1, w + 2 * pad - kw + 1), pads=[pad] * 4, group=group)


def shared_conv(net: Net, x: str) -> None:
    """A Conv that reads the weight of an earlier one."""
    n, c, h, w = net.live[x]
    fitting = [t.name for t in net.inits if list(t.dims) == [4, c, 3, 3]]
    if not fitting or min(h, w) < 3:
        return conv(net, x, 1)
    net.add("Conv", [x, fitting[0]], (n, 4, h - 2, w - 2))


def conv_transpose(net: Net, x: str) -> None:
    n, c, h, w = net.live[x]
    if h > 12:
        return
    group = 2 if c % 2 == 0 and net.rng.random() < 0.5 else 1
    net.add("ConvTranspose", [x, net.const(c, 4 // group, 2, 2)], (n, 4, h + 1, w + 1), group=group)


def bn(net: Net, x: str) -> None:
    c = net.live[x][1]
    net.add("BatchNormalization", [x, *(net.const(c) for _ in "gbm"), net.const(c, positive=True)], net.live[x])


def pointwise(op: str, constant: bool = True):
    def layer(net: Net, x: str) -> None:
        operands = [x] + ([net.const(net.live[x][1], 1, 1, positive=op == "Div")] if constant else [])
        if constant and op != "Div" and net.rng.random() < 0.5:
            operands.reverse()
        net.add(op, operands, net.live[x])

    return layer


def pool(op: str):
    def layer(net: Net, x: str) -> None:
        net.add(op, [x], net.live[x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    return layer


def twin(op: str):
    """Join with the last other tensor of the same shape, or with itself."""

    def layer(net: Net, x: str) -> None:
        y = next((t for t in reversed(net.live) if t != x and net.live[t] == net.live[x]), x)
        net.add(op, [x, y], net.live[x])

    return layer


def concat(net: Net, x: str) -> None:
    n, c, h, w = net.live[x]
    y = next((t for t in reversed(net.live) if t != x and net.live[t][2:] == (h, w)), x)
    net.add("Concat", [x, y], (n, c + net.live[y][1], h, w), axis=1)


def swap(net: Net, x: str) -> None:
    n, c, h, w = net.live[x]
    t = net.add("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    net.add("Transpose", [t], (n, c, h, w), perm=[0, 3, 1, 2])
    del net.live[t]


def linear(net: Net, x: str) -> None:
    """A linear layer over the channels, in channels-last layout, as token mixers have it."""
    n, c, h, w = net.live[x]
    t = net.add("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    m = net.add("MatMul", [t, net.const(c, 4)], (n, h, w, 4))
    net.add("Transpose", [m], (n, 4, h, w), perm=[0, 3, 1, 2])
    del net.live[t], net.live[m]


def last(net: Net) -> str:
    return next(reversed(net.live))


def chain(*layers):
    """Layers one after the other, each on what the one before made."""

    def layer(net: Net, x: str) -> None:
        for each in layers:
            each(net, x)
            x = last(net)

    return layer


def siblings_of(conv):
    """Two convolutions of one tensor, joined along the channels or, where they fit, summed."""

    def layer(net, x: str) -> None:
        conv(net, x, 1)
        a = last(net)
        conv(net, x, 1, group=int(net.rng.choice([1, 2])))
        b = last(net)
        n, c, *sizes = net.live[a]
        if net.rng.random() < 0.5:
            net.add("Concat", [a, b], (n, 2 * c, *sizes), axis=1)
        else:
            net.add(str(net.rng.choice(["Add", "Sub"])), [a, b], (n, c, *sizes))

    return layer


def branches_with(bn):
    """RepVGG's block: 3x3, 1x1 and, where the channels fit, the tensor itself, all normalized and summed."""

    def layer(net, x: str) -> None:
        n, c, *sizes = net.live[x]
        parts = []
        for kernel in (3, 1):
            weight = net.const(4, c, *[kernel] * len(sizes))
            net.add("Conv", [x, weight], (n, 4, *sizes), pads=[kernel // 2] * 2 * len(sizes))
            bn(net, last(net))
            parts.append(last(net))
        if c == 4:
            bn(net, x)
            parts.append(last(net))
        for part in parts[1:]:
            net.add("Add", [parts[0], part], (n, 4, *sizes))
            parts[0] = last(net)

    return layer


conv0, conv1, conv2 = (lambda n, x: conv(n, x, 0)), (lambda n, x: conv(n, x, 1)), (lambda n, x: conv(n, x, 1, group=2))
mul, add_, sub_, div = pointwise("Mul"), pointwise("Add"), pointwise("Sub"), pointwise("Div")
neg, relu, sigmoid = (pointwise(op, constant=False) for op in ("Neg", "Relu", "Sigmoid"))
BACK = (0, 0, 0, 1, 2, 3)  # how many tensors back a layer reads: as in networks, most often the last one
LAYERS = {
    "conv, bn": chain(conv0, bn),
    "padded conv, bn": chain(conv1, bn),
    "grouped conv, bn": chain(conv2, bn),
    "shared conv, bn": chain(shared_conv, bn),
    "conv transpose, bn": chain(conv_transpose, bn),
    "linear, bn": chain(linear, bn),
    "siblings, bn": chain(siblings_of(conv), bn),
    "branches": branches_with(bn),
    "conv, scale, shift": chain(conv1, mul, add_),
    "conv, sub, div, neg": chain(conv1, sub_, div, neg),
    "bn, conv": chain(bn, conv0),
    "bn, padded conv": chain(bn, conv1),
    "scale, padded conv": chain(mul, conv1),
    "bn, linear": chain(bn, linear),
    "bn": bn,
    "shift": add_,
    "relu": relu,
    "sigmoid": sigmoid,
    "average": pool("AveragePool"),
    "max": pool("MaxPool"),
    "add": twin("Add"),
    "mul": twin("Mul"),
    "concat": concat,
    "swap": swap,
}


def assembled(steps: list[tuple[str, int]], seed: int) -> onnx.ModelProto | None:
    """A model of layers, each given by its name and how many tensors back it reads; None if it has no output."""
    net = Net(seed)
    for layer, back in steps:
        names = list(net.live)
        LAYERS[layer](net, names[max(0, len(names) - 1 - back)])
    used = {i for n in net.nodes for i in n.input}
    outputs = [t for t in net.live if t not in used and t != "X"]
    if not outputs:
        return None
    graph = helper.make_graph(
        net.nodes,
        "g",
        [helper.make_tensor_value_info("X", D, ["N", *net.live["X"][1:]])],
        [helper.make_tensor_value_info(t, D, ["N", *net.live[t][1:]]) for t in outputs],
        net.inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@st.composite
def models(draw) -> onnx.ModelProto:
    steps = draw(st.lists(st.tuples(st.sampled_from(sorted(LAYERS)), st.sampled_from(BACK)), min_size=1, max_size=7))
    model = assembled(steps, draw(st.integers(0, 2**16)))
    assume(model is not None)
    return model
