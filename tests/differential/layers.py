"""The layers of random graphs, for any number of spatial axes; on a matrix those of linear layers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tests.graphs import branches_with, chain, siblings_of

from .wide import Wide

Layer = Callable[[Wide, str], None]
BACK = (0, 0, 0, 0, 1, 2, 3)  # how many tensors back a layer reads: as in networks, most often the last one


def spatial(layer: Layer) -> Layer:
    """The layer, where the tensor has spatial axes; else a BatchNormalization."""
    return lambda net, x: layer(net, x) if len(net.live[x]) > 2 else bn(net, x)


def conv(pad: int, group: int = 1, stride: int = 1, dilation: int = 1) -> Layer:
    def layer(net: Wide, x: str) -> None:
        n, c, *sizes = net.live[x]
        reach = 2 * dilation + 1
        k = 3 if min(sizes) + 2 * pad >= reach else 1
        p, g = (pad if k == 3 else 0), (group if c % group == 0 else 1)
        inputs = [x, net.const(4, c // g, *[k] * len(sizes))]
        inputs += [net.const(4)] if net.chance(0.5) else [""] if net.chance(0.1) else []
        made = [(s + 2 * p - dilation * (k - 1) - 1) // stride + 1 for s in sizes]
        each = {"strides": [stride] * len(sizes), "dilations": [dilation] * len(sizes)}
        net.add("Conv", inputs, (n, 4, *made), pads=[p] * 2 * len(sizes), group=g, **each)

    return spatial(layer)


def conv_transpose(group: int) -> Layer:
    def layer(net: Wide, x: str) -> None:
        n, c, *sizes = net.live[x]
        g = group if c % group == 0 else 1
        if max(sizes) > 12:
            return bn(net, x)
        inputs = [x, net.const(c, 4 // g, *[2] * len(sizes)), *([net.const(4)] if net.chance(0.5) else [])]
        net.add("ConvTranspose", inputs, (n, 4, *(s + 1 for s in sizes)), group=g)

    return spatial(layer)


def bn(net: Wide, x: str) -> None:
    """BatchNormalization as its opset has it: parameters for every place where `spatial` is 0, up to opset 8."""
    opset, shape = net.traits.opset, net.live[x]
    flat = opset < 9 and len(shape) > 2 and net.chance(0.15)
    over = shape[1:] if flat else shape[1:2]
    attributes = {"spatial": 0} if flat else {}
    attributes |= {"epsilon": 0.001} if net.chance(0.5) else {}
    inputs = [x, net.const(*over), net.const(*over), net.statistic(*over), net.statistic(*over, positive=True)]
    net.add("BatchNormalization", inputs, shape, **attributes)


def pointwise(op: str) -> Layer:
    """With a constant per channel, on either side, or along the last axis where that is as long."""

    def layer(net: Wide, x: str) -> None:
        c, *sizes = net.live[x][1:]
        shape = (c,) if sizes and sizes[-1] == c and net.chance(0.3) else (c, *[1] * len(sizes))
        operands = [x, net.const(*shape, positive=op == "Div")]
        net.add(op, operands[::-1] if op != "Div" and net.chance(0.5) else operands, net.live[x])

    return layer


def plain(op: str) -> Layer:
    return lambda net, x: net.add(op, [x], net.live[x]) and None


def pool(op: str) -> Layer:
    """Pooling over 3; of MaxPool at times the unused second output is named."""

    def layer(net: Wide, x: str) -> None:
        over = len(net.live[x]) - 2
        net.add(op, [x], net.live[x], kernel_shape=[3] * over, pads=[1] * 2 * over)
        if op == "MaxPool" and net.traits.opset >= 8 and net.chance(0.3):
            net.nodes[-1].output.append(f"{net.nodes[-1].output[0]}_indices")

    return spatial(layer)


def dropout(net: Wide, x: str) -> None:
    net.add("Dropout", [x], net.live[x])
    if net.chance(0.5):
        net.nodes[-1].output.append(f"{net.nodes[-1].output[0]}_mask")


def twin(op: str) -> Layer:
    """Join with the last other tensor of the same shape, or with itself."""

    def layer(net: Wide, x: str) -> None:
        y = next((t for t in reversed(net.live) if t != x and net.live[t] == net.live[x]), x)
        net.add(op, [x, y], net.live[x])

    return layer


def concat(net: Wide, x: str) -> None:
    n, c, *sizes = net.live[x]
    y = next((t for t in reversed(net.live) if t != x and list(net.live[t][2:]) == sizes), x)
    net.add("Concat", [x, y], (n, c + net.live[y][1], *sizes), axis=1)


def split(net: Wide, x: str) -> None:
    """Into halves of the channels, of which often one is not used."""
    n, c, *sizes = net.live[x]
    if c % 2 or c < 4:
        return bn(net, x)
    halves = [c // 2, c // 2]
    given = [net.integers(*halves)] if net.traits.opset >= 13 else []
    attributes = {} if given else {"split": halves}
    name = net.add("Split", [x, *given], (n, c // 2, *sizes), axis=1, **attributes)
    net.nodes[-1].output.append(f"{name}_rest")


def channels_last(net: Wide, x: str) -> tuple[str, list[int]]:
    """`x` with its channels moved to the end; also the permutation back."""
    n, c, *sizes = net.live[x]
    rank = len(sizes) + 2
    t = net.add("Transpose", [x], (n, *sizes, c), perm=[0, *range(2, rank), 1])
    return t, [0, rank - 1, *range(1, rank - 1)]


def linear(net: Wide, x: str) -> None:
    """A linear layer over the channels, in channels-last layout, as token mixers have it."""
    n, c, *sizes = net.live[x]
    t, back = channels_last(net, x)
    m = net.add("MatMul", [t, net.const(c, 4)], (n, *sizes, 4))
    net.add("Transpose", [m], (n, 4, *sizes), perm=back)
    del net.live[t], net.live[m]


def head(net: Wide, x: str) -> None:
    """Down to a matrix, by pooling or by laying all in a row."""
    n, c, *sizes = net.live[x]
    if not sizes:
        return gemm(net, x)
    wide = int(c)
    if net.chance(0.6):
        x = net.add("GlobalAveragePool", [x], (n, c, *[1] * len(sizes)))
    else:
        wide = c * prod(sizes)
    net.add("Flatten", [x], (n, wide), axis=1)


def gemm(net: Wide, x: str) -> None:
    """Gemm in all its ways: A and B transposed, alpha, beta, C of any shape that broadcasts, or none."""
    if len(net.live[x]) > 2:
        return head(net, x)
    n, c = net.live[x]
    attributes: dict[str, float] = {"alpha": 0.5} if net.chance(0.4) else {}
    attributes |= {"beta": 2.0} if net.chance(0.4) else {}
    if net.chance(0.3):
        x = net.add("Transpose", [x], (c, n), perm=[1, 0])
        attributes["transA"] = 1
        del net.live[x]
    turned = net.chance(0.5)
    weight = net.const(4, c) if turned else net.const(c, 4)
    shape = [(4,), (1, 4), (1,), (2, 1), (2, 4)][int(net.rng.integers(5))]
    needed = net.traits.opset < 11 or net.chance(0.7)
    inputs = [x, weight, *([net.const(*shape)] if needed else [])]
    net.add("Gemm", inputs, (n, 4), **attributes, **({"transB": 1} if turned else {}))


def matmul(net: Wide, x: str) -> None:
    if len(net.live[x]) > 2:
        return linear(net, x)
    n, c = net.live[x]
    net.add("MatMul", [x, net.const(c, 4)], (n, 4))


def turned_matmul(net: Wide, x: str) -> None:
    """A square linear layer whose result is turned: what were columns are rows, of as many."""
    if len(net.live[x]) > 2 or net.live[x][0] != 2:
        return matmul(net, x)
    m = net.add("MatMul", [x, net.const(net.live[x][1], 2)], (2, 2))
    net.add("Transpose", [m], (2, 2), perm=[1, 0])
    del net.live[m]


siblings = siblings_of(lambda net, x, pad, group=1: conv(pad, group)(net, x))
mul, add, sub, div = (pointwise(op) for op in ("Mul", "Add", "Sub", "Div"))
average, greatest = pool("AveragePool"), pool("MaxPool")
LAYERS: dict[str, Layer] = {
    "conv, bn": chain(conv(0), bn),
    "padded conv, bn": chain(conv(1), bn),
    "grouped conv, bn": chain(conv(1, group=2), bn),
    "depthwise conv, bn": chain(conv(1, group=4), bn),
    "strided conv, bn": chain(conv(1, stride=2), bn),
    "dilated conv, bn": chain(conv(2, dilation=2), bn),
    "conv transpose, bn": chain(conv_transpose(1), bn),
    "grouped conv transpose, bn": chain(conv_transpose(2), bn),
    "linear, bn": chain(linear, bn),
    "siblings, bn": chain(siblings, bn),
    "branches": spatial(branches_with(bn)),
    "conv, scale, shift": chain(conv(1), mul, add),
    "conv, sub, div, neg": chain(conv(1), sub, div, plain("Neg")),
    "bn, conv": chain(bn, conv(0)),
    "bn, padded conv": chain(bn, conv(1)),
    "scale, padded conv": chain(mul, conv(1)),
    "conv, dropout, bn": chain(conv(1), dropout, bn),
    "average, bn": chain(average, bn),
    "max, bn": chain(greatest, bn),
    "add, bn": chain(twin("Add"), bn),
    "concat, bn": chain(concat, bn),
    "split, bn": chain(conv(1), split, bn),
    "head, gemm": chain(head, gemm),
    "head, bn, gemm": chain(head, bn, gemm),
    "gemm, bn": chain(head, gemm, bn),
    "matmul, bn": chain(head, matmul, bn),
    "turned matmul, bn": chain(head, turned_matmul, bn),
    "bn": bn,
    "relu": plain("Relu"),
    "sigmoid": plain("Sigmoid"),
    "max": greatest,
    "mul": twin("Mul"),
    "add": twin("Add"),
}
