"""The faults that `referee` plants: (kind, name, network, change[, inputs that show it])."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from tests.benchmarks.referee_edits import (
    Change, Edit, Feeds, become, both, bypass, dimension, drop, find, insert, of_input, one, put, swap, tensor, values,
)  # fmt: skip


def image(value: float, batch: int = 1) -> Feeds:
    return {"x": np.full((batch, 3, 8, 8), value, np.float32)}


def sized(*shape: int, name: str = "x") -> Feeds:
    return {name: np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


FLAT = {"x": np.ones((1, 6), np.float32)}
LATE = """zero = Constant <value = int64 {0}> () two = Constant <value = float {2.0}> () step = Constant <value = int64 {1}> ()
    shape = Shape (x) axis = Constant <value = int64 {%d}> () size = Gather (shape, axis) i = Range (zero, size, step)
    late = GreaterOrEqual (i, from%d) as = Constant <value_ints = [%s]> () l = Reshape (late, as) d = Mul (x, two) out = Where (l, d, x)"""


def late(axis: int, rank: int, start: int) -> Change:
    """Everything from an index of an axis on times two."""
    form = ",".join("-1" if a == axis else "1" for a in range(rank))
    return insert("x", LATE % (axis, start, form), **{f"from{start}": np.array(start)})


def in_loop(most: int) -> Change:
    """The counter of the Loop stops to count."""

    def change(model: ModelProto) -> None:
        body = next(a.g for a in find(model, "Loop").attribute if a.type == AttributeProto.GRAPH)
        find(model, "CastLike").input[0] = "i_new"
        body.node.insert(0, helper.make_node("Min", ["i", "most"], ["i_new"]))
        model.graph.initializer.append(tensor(np.array(most), "most"))

    return change


def floor_of_half(model: ModelProto) -> None:
    node = find(model, "Round")
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at, helper.make_node("Add", [node.input[0], "half"], ["x_half"]))
    node = find(model, "Round")
    node.op_type, node.input[0] = "Floor", "x_half"
    model.graph.initializer.append(tensor(np.array(0.5), "half"))


def last(node: NodeProto) -> Change:
    return lambda model: model.graph.node.append(node)


def output_as(kind: int) -> Change:
    """The output `y` in another type."""

    def change(model: ModelProto) -> None:
        maker = next(n for n in model.graph.node if "y" in n.output)
        maker.output[:] = ["y_own" if n == "y" else n for n in maker.output]
        last(helper.make_node("Cast", ["y_own"], ["y"], to=kind))(model)
        next(v for v in model.graph.output if v.name == "y").type.tensor_type.elem_type = kind

    return change


def extra_output(model: ModelProto) -> None:
    value = model.graph.output.add()
    value.CopyFrom(helper.make_tensor_value_info("n", TensorProto.FLOAT, ["N", 4, 8, 8]))


def reverse(field: str) -> Change:
    """The inputs or outputs of the model in another order."""

    def change(model: ModelProto) -> None:
        values = [*getattr(model.graph, field)][::-1]
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(values)

    return change


def remove(field: str, name: str) -> Change:
    def change(model: ModelProto) -> None:
        values = getattr(model.graph, field)
        values.remove(next(v for v in values if v.name == name))

    return change


def rename_output(model: ModelProto) -> None:
    maker = next(n for n in model.graph.node if "y" in n.output)
    maker.output[:] = ["why" if n == "y" else n for n in maker.output]
    model.graph.output[0].name = "why"


def more_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def plus(number: float, *at: int) -> Callable[[np.ndarray], Any]:
    def change(old: np.ndarray) -> Any:
        new = old.astype(np.float64)
        new[at] += number
        return new

    return change


def turned(old: np.ndarray) -> Any:
    """The last two axes in each other's place."""
    return np.swapaxes(old, -1, -2)


_WINDOWS = (
    Edit("Pad", "mode edge for constant", "pad", put("Pad", mode="edge")),
    Edit("Pad", "mode reflect for constant", "pad", put("Pad", mode="reflect")),
    Edit("Pad", "another value", "pad", values("v", lambda v: v + 0.01)),
    Edit("Pad", "pads on the other side", "pad", values("p", lambda p: np.roll(p.reshape(2, 4), 1, 0).ravel())),
    Edit("Resize", "align_corners", "resize linear", put("Resize", coordinate_transformation_mode="align_corners")),
    Edit("Resize", "asymmetric", "resize linear", put("Resize", coordinate_transformation_mode="asymmetric")),
    Edit("Resize", "pytorch_half_pixel, one pixel", "resize linear", both(put("Resize", mode="cubic"))),
    Edit("Resize", "nearest for linear", "resize linear", put("Resize", mode="nearest")),
    Edit("Resize", "nearest_mode ceil", "resize nearest", put("Resize", nearest_mode="ceil")),
    Edit("Resize", "nearest_mode floor", "resize nearest", put("Resize", nearest_mode="floor")),
    Edit("Resize", "cubic_coeff_a -0.5", "resize cubic", put("Resize", cubic_coeff_a=-0.5)),
    Edit("Resize", "exclude_outside", "resize cubic", put("Resize", exclude_outside=1)),
    Edit("Resize", "antialias lost", "resize down", put("Resize", antialias=0)),
    Edit("pools", "ceil_mode", "max pool", put("MaxPool", ceil_mode=1)),
    Edit("pools", "ceil_mode that only odd sizes show", "max pool of any size", put("MaxPool", ceil_mode=1), sized(1, 3, 9, 9)),
    Edit("pools", "dilations", "max pool", put("MaxPool", dilations=[2, 2], strides=[1, 1])),
    Edit("pools", "pads", "max pool", put("MaxPool", pads=[1, 1, 0, 0])),
    Edit("pools", "count_include_pad", "mean pool", put("AveragePool", count_include_pad=1)),
    Edit("pools", "MaxPool for AveragePool", "mean pool", become("AveragePool", "MaxPool")),
    Edit("pools", "auto_pad SAME_LOWER", "same", put("Conv", 1, auto_pad="SAME_LOWER")),
    Edit("pools", "auto_pad SAME_LOWER, any size", "same of any size", put("Conv", 1, auto_pad="SAME_LOWER")),
    Edit("pools", "auto_pad as pads of one size", "same of any size", put("Conv", 1, auto_pad=None, pads=[0, 0, 1, 1]), sized(1, 3, 9, 9)),
    Edit("pools", "dilations of a Conv", "wide", put("Conv", 1, dilations=[2, 2], pads=[2, 2, 2, 2])),
)  # fmt: skip
_VALUES = (
    Edit("Clip", "upper bound 5.9", "clip", values("high", lambda v: v - 0.1), image(30.0)),
    Edit("Clip", "upper bound 600 for 6", "clip", values("high", lambda v: v * 100), image(30.0)),
    Edit("Clip", "lower bound -0.01", "clip", values("low", lambda v: v - 0.01)),
    Edit("Clip", "no upper bound", "clip", drop("Clip", 2), image(30.0)),
    Edit("Clip", "removed", "clip", bypass("Clip")),
    Edit("residual", "the sum is one branch", "residual", bypass("Add")),
    Edit("residual", "the sum is the shortcut", "residual", bypass("Add", 1)),
    Edit("residual", "a branch twice", "residual", lambda m: find(m, "Add").input.__setitem__(0, "r")),
    Edit("residual", "Sub for Add", "residual", become("Add", "Sub")),
    Edit("residual", "Relu removed", "residual", bypass("Relu", at=1)),
    Edit("operands", "of Sub swapped", "difference", swap("Sub")),
    Edit("operands", "of Div swapped", "quotient", swap("Div")),
    Edit("operands", "of Concat swapped", "concat", swap("Concat")),
    Edit("operands", "outputs of Split swapped", "split", swap("Split", field="output")),
    Edit("activations", "Relu removed, inputs mostly positive", "mostly positive", bypass("Relu", at=1)),
    Edit("activations", "alpha of LeakyRelu 0.11", "leaky", put("LeakyRelu", alpha=0.11)),
    Edit("activations", "alpha of LeakyRelu 0.1 + 1e-5", "leaky", put("LeakyRelu", alpha=0.10001)),
    Edit("activations", "alpha of Elu", "elu", put("Elu", alpha=1.01)),
    Edit("activations", "Selu for Elu", "elu", become("Elu", "Selu")),
    Edit("activations", "alpha of HardSigmoid 1/6", "hard", put("HardSigmoid", alpha=1 / 6)),
    Edit("activations", "one slope of PRelu", "prelu", of_input("PRelu", 1, one(1.001, 2))),
    Edit("activations", "Gelu by tanh", "gelu", put("Gelu", approximate="tanh")),
    Edit("weights", "bias dropped", "wide", drop("Conv", 2, 1)),
    Edit("weights", "bias of the other sign", "wide", of_input("Conv", 2, np.negative, 1)),
    Edit("weights", "one weight of a later Conv x 1.0001", "wide", of_input("Conv", 1, one(1.0001), 1)),
    Edit("weights", "one group permuted", "groups", of_input("Conv", 1, lambda w: np.concatenate([w[:2, ::-1], w[2:]]), 1)),
    Edit("weights", "groups swapped", "groups", of_input("Conv", 1, lambda w: np.roll(w, 2, 0), 1)),
    Edit("weights", "square matrix transposed", "square", of_input("Gemm", 1, turned)),
    Edit("weights", "transB of a square matrix", "square", put("Gemm", transB=1)),
    Edit("weights", "alpha of Gemm", "square", put("Gemm", alpha=1.001)),
    Edit("weights", "beta of Gemm", "square", put("Gemm", beta=0.0)),
    Edit("weights", "kernel transposed", "kernel", of_input("Conv", 1, turned, 1)),
    Edit("weights", "kernel mirrored", "kernel", of_input("Conv", 1, lambda w: w[..., ::-1], 1)),
    Edit("weights", "kernel of ConvTranspose mirrored", "up", of_input("ConvTranspose", 1, lambda w: w[..., ::-1, ::-1])),
    Edit("quantized", "zero point of the input + 1", "quantized", values("xz", lambda z: z + 1)),
    Edit("quantized", "zero point of the output + 1", "quantized", values("yz", lambda z: z + 1)),
    Edit("quantized", "zero point of one channel + 1", "quantized", values("wz", plus(1, 2))),
    Edit("quantized", "scale of one channel x 1.01", "quantized", of_input("DequantizeLinear", 1, one(1.01, 1), 1)),
    Edit("quantized", "scale of the output x 1.01", "quantized", values("ys", lambda s: s * 1.01)),
    Edit("quantized", "one weight + 1", "quantized", values("w", plus(1, 1, 0, 0, 0))),
    Edit("quantized", "sign of a channel's weights", "quantized", values("w", one(-1, 1))),
)  # fmt: skip
_SHAPES = (
    Edit("axes", "of Softmax", "softmax", put("Softmax", axis=1)),
    Edit("axes", "of LayerNormalization", "layer norm", put("LayerNormalization", axis=1)),
    Edit("axes", "perm, equal sizes", "perm", put("Transpose", perm=[0, 1, 2])),
    Edit("axes", "of Einsum, equal sizes", "einsum", put("Einsum", equation="nij,kj->nik")),
    Edit("axes", "of ReduceMean, equal sizes", "mean", values("axes", lambda a: a + 1)),
    Edit("axes", "DepthToSpace CRD", "depth of 8", put("DepthToSpace", mode="CRD")),
    Edit("axes", "of CumSum", "cumsum", values("k", lambda k: k + 1)),
    Edit("axes", "CumSum exclusive", "cumsum", put("CumSum", exclusive=1)),
    Edit("axes", "CumSum reverse", "cumsum", put("CumSum", reverse=1)),
    Edit("axes", "Trilu lower", "trilu", put("Trilu", upper=0)),
    Edit("axes", "GridSample align_corners", "sample", put("GridSample", align_corners=1)),
    Edit("axes", "GridSample padding_mode", "sample", put("GridSample", padding_mode="border")),
    Edit("norms", "epsilon of LayerNormalization 1e-6", "layer norm", put("LayerNormalization", epsilon=1e-6)),
    Edit("norms", "epsilon of LayerNormalization 1e-3", "layer norm", put("LayerNormalization", epsilon=1e-3)),
    Edit("norms", "epsilon of InstanceNormalization 1e-3", "instance norm", put("InstanceNormalization", epsilon=1e-3)),
    Edit("norms", "epsilon of a kept BatchNormalization", "kept norm", put("BatchNormalization", epsilon=1e-3)),
    Edit("norms", "a variance of a kept BatchNormalization", "kept norm", of_input("BatchNormalization", 4, one(1.001))),
    Edit("norms", "size of LRN", "lrn", put("LRN", size=1)),
    Edit("types", "Cast to float16 for float64", "cast", put("Cast", to=10)),
    Edit("types", "float16 put before the Conv", "plain", insert("x", "h = Cast <to = 10> (x) out = Cast <to = 1> (h)")),
    Edit("types", "bfloat16 put after it", "plain", insert("r", "h = Cast <to = 16> (x) out = Cast <to = 1> (h)")),
    Edit("types", "an output as float64", "plain", output_as(TensorProto.DOUBLE), "another type of an output"),
    Edit("types", "an output as float16", "plain", output_as(TensorProto.FLOAT16), "another type of an output"),
    Edit("modes", "Dropout in training", "dropout", values("no", np.logical_not)),
    Edit("modes", "BatchNormalization in training", "kept norm", both(put("BatchNormalization", training_mode=1), lambda m: find(m, "BatchNormalization").output.extend(["m2", "v2"]))),
    Edit("recurrent", "LSTM in reverse", "lstm", put("LSTM", direction="reverse")),
    Edit("recurrent", "one recurrent weight of LSTM", "lstm", of_input("LSTM", 2, lambda w: w * np.where(np.arange(20) == 7, 1.01, 1)[:, None])),
    Edit("recurrent", "gates of LSTM in another order", "lstm", of_input("LSTM", 2, lambda w: np.roll(w, 5, 1))),
    Edit("recurrent", "GRU linear_before_reset", "gru", put("GRU", linear_before_reset=0)),
    Edit("recurrent", "no bias of GRU", "gru", drop("GRU", 3)),
    Edit("indices", "Gather off by one", "take", values("k", lambda k: k + 1)),
    Edit("indices", "Slice begins one later", "slice", values("k", lambda k: k + 1)),
    Edit("indices", "k of TopK", "topk", values("k", lambda k: k + 1)),
    Edit("indices", "TopK of the smallest", "topk", put("TopK", largest=0)),
    Edit("indices", "axis of ArgMax, equal sizes", "argmax", put("ArgMax", axis=2)),
    Edit("indices", "ArgMin for ArgMax", "argmax", become("ArgMax", "ArgMin")),
    Edit("indices", "select_last_index, many ties", "argmax of ties", put("ArgMax", select_last_index=1)),
    Edit("indices", "opset without its conversion", "softmax 12", opset(13)),
)  # fmt: skip
WHOLE = {"x": np.ones((1, 6), np.float32), "i": np.full((1, 6), -4)}
_RARE = (
    Edit("rare inputs", "Max(x, -5000) put before the Conv", "plain", insert("x", "out = Max (x, cap)", cap=-5000.0), image(-1e4)),
    Edit("rare inputs", "Clip of x at 1e6", "plain", insert("x", "out = Clip (x, lo, hi)", lo=np.array(-1e6), hi=np.array(1e6)), image(-1e7)),
    Edit("rare inputs", "Min(r, 1e5) put inside", "plain", insert("r", "out = Min (x, cap)", cap=1e5), image(1e6)),
    Edit("rare inputs", "upper bound 6e5 for 1e6", "rare clip", values("high", lambda v: v * 0.6), image(1e7)),
    Edit("rare inputs", "Where on x > 1e4", "plain", insert("x", "c = Greater (x, cap) out = Where (c, cap, x)", cap=1e4), image(1e5)),
    Edit("rare inputs", "Where on x == 0", "plain", insert("x", "c = Equal (x, nil) out = Where (c, uno, x)", nil=np.array(0.0), uno=np.array(1.0)), image(0.0)),
    Edit("rare inputs", "Where on |x| < 1e-9", "plain", insert("x", "m = Abs (x) c = Less (m, eps) out = Where (c, uno, x)", eps=np.array(1e-9), uno=np.array(1.0)), image(0.0)),
    Edit("rare inputs", "NaN becomes 0", "plain", insert("x", "c = IsNaN (x) out = Where (c, nil, x)", nil=np.array(0.0)), image(np.nan)),
    Edit("rare inputs", "Inf becomes 0", "plain", insert("x", "c = IsInf (x) out = Where (c, nil, x)", nil=np.array(0.0)), image(np.inf)),
    Edit("rare inputs", "rare branch: Relu for Tanh", "if rare body", become("Softsign", "Relu"), image(1e3)),
    Edit("rare inputs", "constant of a rare branch", "if rare", values("k", lambda k: k * 1.1), image(1e3)),
    Edit("rare inputs", "rare condition 1e4 for 2e4", "if rare", values("big", lambda k: k / 2), image(80.0)),
    Edit("rare inputs", "the rare branch becomes the usual one", "if rare", lambda m: never(m), image(1e3)),
    Edit("rare inputs", "one row of a table of 5000 words", "words", of_input("Gather", 0, one(1.5, 4711)), {"ids": np.array([[4711]])}),
    Edit("rare inputs", "the last row of a table", "words", of_input("Gather", 0, lambda t: t[:-1]), {"ids": np.array([[4999]])}),
    Edit("rare inputs", "one word becomes another", "words", insert("ids", "c = Equal (x, odd) out = Where (c, nil, x)", odd=np.array(4711), nil=np.array(0)), {"ids": np.array([[4711]])}),
    Edit("rare inputs", "fmod: negative numbers only", "whole numbers", put("Mod", fmod=1), WHOLE),
    Edit("rare inputs", "Cast to int8 for int32", "narrow", put("Cast", to=3), WHOLE | {"i": np.full((1, 6), 300)}),
    Edit("rare inputs", "Cast to uint8 for int32", "narrow", put("Cast", to=2), WHOLE),
    Edit("ties", "Greater becomes GreaterOrEqual", "tie of bounds", become("Greater", "GreaterOrEqual"), image(0.5)),
    Edit("ties", "of whole numbers", "threshold", become("Greater", "GreaterOrEqual"), WHOLE | {"i": np.full((1, 6), 3)}),
    Edit("ties", "Round becomes Floor(x + 0.5)", "rounded", floor_of_half, image(0.5)),
    Edit("ties", "select_last_index, few ties", "tie of classes", put("ArgMax", select_last_index=1), image(0.0)),
    Edit("large batches", "rows from 4 on", "plain", late(0, 4, 4), sized(8, 3, 8, 8)),
    Edit("large batches", "rows from 64 on", "plain", late(0, 4, 64), sized(70, 3, 8, 8)),
    Edit("large batches", "positions from 300 on", "any length", late(1, 3, 300), sized(1, 310, 6)),
    Edit("large batches", "position 400 of 512", "positions", values("pos", one(1.5, 400)), sized(1, 410, 6)),
    Edit("large batches", "a Loop from its round 50 on", "loop over rows", in_loop(50), sized(60, 6)),
)  # fmt: skip


def never(model: ModelProto) -> None:
    """Both branches of the If are the one that random inputs take."""
    one, two = find(model, "If").attribute
    rare, usual = (one, two) if one.name == "then_branch" else (two, one)
    rare.g.CopyFrom(usual.g)


_BODIES = (
    Edit("bodies", "constant of the then-branch", "if input", values("k", lambda k: k * 1.01), image(1.0) | {"on": np.array(True)}),
    Edit("bodies", "constant of the else-branch", "if input", values("j", lambda k: k * 1.01), image(1.0) | {"on": np.array(False)}),
    Edit("bodies", "branches swapped", "if usual", lambda m: [setattr(a, "name", {"then_branch": "else_branch", "else_branch": "then_branch"}[a.name]) for a in find(m, "If").attribute]),
    Edit("bodies", "constant of the usual branch", "if usual", values("k", lambda k: k * 1.001)),
    Edit("bodies", "operator of a branch", "if usual", become("Mul", "Add")),
    Edit("bodies", "constant in a Loop", "loop", values("h", lambda h: h * 1.001)),
    Edit("bodies", "rounds of a Loop", "loop", lambda m: next(values(n.output[0], lambda t: t + 1)(m) for n in m.graph.node if n.op_type == "Loop" for n in m.graph.node if n.output[0] == find(m, "Loop").input[0])),
    Edit("bodies", "operands in a Loop", "loop", become("Add", "Sub", 0)),
    Edit("bodies", "constant in a Scan", "scan", values("k", lambda k: k * 1.001)),
    Edit("bodies", "direction of a Scan", "scan", put("Scan", scan_input_directions=[1])),
    Edit("bodies", "activation in a Scan", "scan", become("Tanh", "Sigmoid")),
    Edit("bodies", "constant in a function", "function", values("k", lambda k: k * 1.001)),
    Edit("bodies", "attribute in a function", "function", put("LeakyRelu", alpha=0.21)),
    Edit("bodies", "operands in a function", "function", swap("Sub")),
)  # fmt: skip
_INTERFACE = (
    Edit("interface", "an extra output", "plain", extra_output, "one output more"),
    Edit("interface", "an output less", "two outputs", remove("output", "z"), "one output less"),
    Edit("interface", "an output of another name", "plain", rename_output, "another name"),
    Edit("interface", "outputs reordered", "two outputs", reverse("output"), "another order"),
    Edit("interface", "names of outputs swapped", "two outputs", both(swap("Sigmoid", 0, 0), lambda m: _exchange(m))),
    Edit("interface", "an unused input removed", "two inputs", remove("input", "idle"), "an input less"),
    Edit("interface", "inputs reordered", "two inputs", reverse("input"), "another order"),
    Edit("interface", "an input more", "plain", more_input, "an input more"),
    Edit("interface", "the batch fixed", "plain", both(dimension("x", 0, 1)), "a batch of 2 is refused"),
    Edit("interface", "the batch of the output fixed", "plain", dimension("y", 0, 1), "a size that is not so"),
    Edit("interface", "equality of sizes lost", "two sizes", dimension("u", 0, "M"), "two batches may differ"),
    Edit("interface", "equality of sizes gained", "two sizes", dimension("u", 1, "L"), "sizes may not differ any more"),
    Edit("interface", "equality with the output lost", "two sizes", dimension("y", 0, "M"), "the batch of the output is another"),
    Edit("interface", "an overridable default", "override", values("gain", lambda g: g * 1.1)),
    Edit("interface", "an override that is gone", "override", remove("input", "gain"), "callers cannot give `gain` any more"),
    Edit("interface", "an override without effect", "override", lambda m: [insert("gain", "out = Identity (k15)", k15=np.array([1.5]))(m)], {**image(1.0), "gain": np.array([3.0], np.float32)}),
)  # fmt: skip


def _exchange(model: ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = [{"y": "z", "z": "y"}.get(name, name) for name in node.output]


FAULTS = (*_WINDOWS, *_VALUES, *_SHAPES, *_RARE, *_BODIES, *_INTERFACE)


Bytes = Callable[[bytearray, ModelProto], Any]


def external(change: Bytes, original: ModelProto, folded: ModelProto, folder: Path) -> tuple[Path, Path]:
    """Both models with their weights in data files; that of the second, or what refers to it, is changed."""
    paths = folder / "a.onnx", folder / "b.onnx"
    for path, model in zip(paths, (original, folded), strict=True):
        own = ModelProto()
        own.CopyFrom(model)
        onnx.save(own, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)
    data, model = bytearray(paths[1].with_suffix(".bin").read_bytes()), onnx.load(paths[1], load_external_data=False)
    change(data, model)
    paths[1].with_suffix(".bin").write_bytes(data)
    paths[1].write_bytes(model.SerializeToString())
    return paths


def place(model: ModelProto, name: str) -> Any:
    """Where the bytes of a constant begin."""
    return next(e for t in model.graph.initializer if t.name == name for e in t.external_data if e.key == "offset")


def one_bit(bit: int) -> Bytes:
    """A bit of the first number of the last Conv's weights."""

    def change(data: bytearray, model: ModelProto) -> None:
        data[int(place(model, "w2").value) + bit // 8] ^= 1 << bit % 8

    return change


def another_place(data: bytearray, model: ModelProto) -> None:
    place(model, "w2").value = str(int(place(model, "w").value))


def cut_short(data: bytearray, model: ModelProto) -> None:
    del data[-64:]


EXTERNAL: dict[str, Bytes] = {
    "sign of a weight": one_bit(31), "lowest bit of an exponent": one_bit(23), "weights of another constant": another_place,
    "a file cut short": cut_short, "all bytes zero": lambda data, model: data.__setitem__(slice(None), bytes(len(data))),
}  # fmt: skip
