"""Ranks that operators imply, in both directions: of what a node reads, and of what it makes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx_graphsurgeon as gs

from .foreign import alike_operator

ImpliedRanks = Iterator[tuple[gs.Tensor, int | None]]
RankRule = Callable[[gs.Node], ImpliedRanks]

ELEMENTWISE = {  # whose first output has the shape of their first input
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp"),
    *("Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity"),
    *("InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Log"),
    *("LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not", "PRelu"),
    *("QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu", "Round", "Scatter", "ScatterElements"),
    *("ScatterND", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign"),
    *("Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu"),
}
BROADCAST = {
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum"),
    *("Where", "Xor"),
}
POOLS = {"AveragePool", "LpPool", "MaxPool"}
GLOBAL_POOLS = {"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"}
REDUCTIONS = {
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
}


def imply_ranks(nodes: Iterable[gs.Node]) -> None:
    """Give tensors of unknown shape the rank that follows from the nodes around them; lengths stay unknown.

    A rank that becomes known is news for the nodes that make or read the tensor: these are looked at again.
    """
    agenda = deque(node for node in nodes if any(known_rank(x) is None for x in (*node.inputs, *node.outputs)))
    waiting = set(map(id, agenda))
    while agenda:
        node = agenda.popleft()
        waiting.remove(id(node))
        for tensor, r in implied(node):
            if r is not None and r >= 0 and known_rank(tensor) is None and not tensor.is_empty():
                tensor.shape = (None,) * r
                news = {id(n): n for n in (*tensor.inputs, *tensor.outputs) if id(n) not in waiting}
                agenda += news.values()
                waiting |= news.keys()


def shape_of(tensor: gs.Tensor) -> tuple[Any, ...] | None:
    """What the view knows of a shape; that of what a Constant node makes lies in the node."""
    made_by = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    literal = made_by.attrs.get("value") if made_by is not None and made_by.op == "Constant" else None
    own = literal.shape if isinstance(literal, gs.Constant) else None
    known = tensor.shape if own is None else own
    return None if tensor.is_empty() or known is None else tuple(known)


def known_rank(tensor: gs.Tensor) -> int | None:
    shape = shape_of(tensor)
    return None if shape is None else len(shape)


def implied(node: gs.Node) -> ImpliedRanks:
    """Tensors that a node reads or makes, each with its rank if that follows from what is known of the others."""
    rule = RANKS.get(alike_operator(node))
    if rule is None or any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()):
        return
    try:
        yield from rule(node)
    except (
        IndexError,
        TypeError,
        ValueError,
        KeyError,
    ):  # it has not the inputs, or the settings, that its operator asks for
        return


def alike(tensors: Iterable[gs.Tensor], base: int | None = None) -> ImpliedRanks:
    """Tensors that have the same rank: `base`, or that of the first whose rank is known."""
    present = [x for x in tensors if not x.is_empty()]
    r = next((known_rank(x) for x in present if known_rank(x) is not None), None) if base is None else base
    yield from ((x, r) for x in present)


def differing_by(less: gs.Tensor, more: gs.Tensor, axes: int | None) -> ImpliedRanks:
    """Two tensors, of which `more` has so many axes more than `less`."""
    low, high = known_rank(less), known_rank(more)
    if axes is not None:
        yield less, None if high is None else high - axes
        yield more, None if low is None else low + axes


def count(node: gs.Node, name: str, index: int) -> int | None:
    """How many numbers there are in attribute `name` of a node, or in its input `index`; None if that is not known."""
    if name in node.attrs:
        return len(node.attrs[name])
    shape = shape_of(node.inputs[index]) if index < len(node.inputs) else None
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


def elementwise(node: gs.Node) -> ImpliedRanks:
    return alike((node.inputs[0], node.outputs[0]))


def all_alike(node: gs.Node) -> ImpliedRanks:
    return alike((*node.inputs, *node.outputs))


def convolution(node: gs.Node) -> ImpliedRanks:
    return alike((*node.inputs[:2], node.outputs[0]))


def first_to_all(node: gs.Node) -> ImpliedRanks:
    return alike((node.inputs[0], *node.outputs))


def matrices(node: gs.Node) -> ImpliedRanks:
    return alike((*node.inputs[:2], node.outputs[0]), 2)


def images(node: gs.Node) -> ImpliedRanks:
    return alike((node.inputs[0], node.outputs[0]), 4)


def sequences(node: gs.Node) -> ImpliedRanks:
    """LSTM, GRU, RNN: (T, N, C) to (T, directions, N, C), and the states (directions, N, C)"""
    yield node.inputs[0], 3
    yield from ((x, 4 if i == 0 else 3) for i, x in enumerate(node.outputs))


def transpose(node: gs.Node) -> ImpliedRanks:
    perm = node.attrs.get("perm")
    return alike((node.inputs[0], node.outputs[0]), None if perm is None else len(perm))


def reshape(node: gs.Node) -> ImpliedRanks:
    yield node.outputs[0], count(node, "shape", 1)


def flatten(node: gs.Node) -> ImpliedRanks:
    yield node.outputs[0], 2


def vector(node: gs.Node) -> ImpliedRanks:
    yield node.outputs[0], 1


def squeeze(node: gs.Node) -> ImpliedRanks:
    return differing_by(node.outputs[0], node.inputs[0], count(node, "axes", 1))


def unsqueeze(node: gs.Node) -> ImpliedRanks:
    return differing_by(node.inputs[0], node.outputs[0], count(node, "axes", 1))


def gather(node: gs.Node) -> ImpliedRanks:
    """x[.., i, ..]: the axes of the indices come in the place of one."""
    more = known_rank(node.inputs[1])
    if more == 0:
        return differing_by(node.outputs[0], node.inputs[0], 1)
    return differing_by(node.inputs[0], node.outputs[0], None if more is None else more - 1)


def matmul(node: gs.Node) -> ImpliedRanks:
    """Of a matrix and a tensor, a product has the rank of the tensor, be it a vector, a matrix or more."""
    (a, b), out = node.inputs[:2], node.outputs[0]
    left, right = known_rank(a), known_rank(b)
    if 2 in (left, right):
        return alike((b if left == 2 else a, out))
    least, most = (None, None) if left is None or right is None else sorted((left, right))
    return iter([(out, most - 1 if least == 1 else most)] if most else [])


def expand(node: gs.Node) -> ImpliedRanks:
    own, wanted = known_rank(node.inputs[0]), count(node, "shape", 1)
    yield node.outputs[0], None if own is None or wanted is None else max(own, wanted)


def broadcast(node: gs.Node) -> ImpliedRanks:
    """The rank of the result is that of the operand with most axes. Up to opset 6 this is the first one."""
    (out,) = node.outputs
    if node.opset < 7:
        return alike((node.inputs[0], out))
    ranks = [known_rank(x) for x in node.inputs]
    known = [r for r in ranks if r is not None]
    if len(known) == len(ranks):
        return iter([(out, max(known))])
    most, open_ones = known_rank(out), [x for x, r in zip(node.inputs, ranks, strict=True) if r is None]
    decides = most is not None and len(open_ones) == 1 and all(r < most for r in known)
    return iter([(open_ones[0], most)] if decides else [])


def reduction(node: gs.Node) -> ImpliedRanks:
    x, out = node.inputs[0], node.outputs[0]
    if node.attrs.get("keepdims", 1):
        return alike((x, out))
    if node.op.startswith("Arg"):
        return differing_by(out, x, 1)
    axes = count(node, "axes", 1)
    return differing_by(out, x, axes) if axes else iter(())


def pad(node: gs.Node) -> ImpliedRanks:
    numbers = None if len(node.inputs) > 3 else count(node, "pads", 1)
    return alike((node.inputs[0], node.outputs[0]), None if numbers is None else numbers // 2)


def tile(node: gs.Node) -> ImpliedRanks:
    return alike((node.inputs[0], node.outputs[0]), count(node, "repeats", 1) if node.opset > 5 else None)


def resize(node: gs.Node) -> ImpliedRanks:
    places = [i for i, x in enumerate(node.inputs) if i and not x.is_empty() and node.opset < 11 or i > 1]
    numbers = None if "axes" in node.attrs else next((n for i in places if (n := count(node, "scales", i))), None)
    return alike((node.inputs[0], node.outputs[0]), numbers)


def einsum(node: gs.Node) -> ImpliedRanks:
    """A letter for each axis; dots stand for any number of them."""
    *terms, result = re.split(",|->", str(node.attrs["equation"]).replace(" ", ""))
    for tensor, letters in zip((*node.inputs, node.outputs[0]), (*terms, result), strict=True):
        yield tensor, len(letters) if "." not in letters else None


def branches(node: gs.Node) -> ImpliedRanks:
    """What an If returns is what either of its branches does; they need not agree on the rank."""
    then, other = (node.attrs[name].outputs for name in ("then_branch", "else_branch"))
    for out, a, b in zip(node.outputs, then, other, strict=True):
        yield out, known_rank(a) if known_rank(a) == known_rank(b) else None


RANKS: dict[str, RankRule] = {
    **dict.fromkeys(ELEMENTWISE | POOLS | GLOBAL_POOLS | {"GridSample", "Slice"}, elementwise),
    **dict.fromkeys(BROADCAST, broadcast),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("Conv", "ConvTranspose"), convolution),
    **dict.fromkeys(("Concat", "GatherElements"), all_alike),
    **dict.fromkeys(("Split", "TopK", "MaxPool"), first_to_all),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), sequences),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), images),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("Shape", "NonZero"), vector),
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": matrices,
    "If": branches,
    "MatMul": matmul,
    "Pad": pad,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
