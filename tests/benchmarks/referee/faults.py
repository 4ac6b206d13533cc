"""Faults in what nodes compute: attributes, constants, operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from .edits import (
    Edit,
    become,
    both,
    bypass,
    drop,
    find,
    image,
    insert,
    of_input,
    one,
    opset,
    output_as,
    put,
    renamed,
    sized,
    swap,
    values,
)  # fmt: skip


def plus(number: float, *at: int) -> Callable[[np.ndarray], Any]:
    def change(old: np.ndarray) -> Any:
        new = old.astype(np.float64)
        new[at] += number
        return new

    return change


SIX = np.random.default_rng(1).standard_normal((200, 6)).astype(np.float32)  # every class


def in_training(model: ModelProto) -> None:
    put("BatchNormalization", training_mode=1)(model)
    find(model, "BatchNormalization").output.extend(["mean of the batch", "variance of the batch"])


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
    Edit("Resize", "cubic for linear", "resize linear", put("Resize", mode="cubic")),
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
    Edit("modes", "BatchNormalization in training", "kept norm", in_training),
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
_TYPES = (
    Edit("other types", "one weight of float64 x (1 + 1e-9)", "float64", of_input("MatMul", 1, lambda w: w * (1 + 1e-9))),
    Edit("other types", "the fold site in float32 numbers", "float64", of_input("Gemm", 1, lambda w: w.astype(np.float32))),
    Edit("other types", "two labels swapped", "labels", of_input("Gather", 0, lambda names: names[[1, 0, 2, 3, 4, 5]]), {"x": SIX}),
    Edit("other types", "one label misspelled", "labels", of_input("Gather", 0, lambda names: np.where(names == "e", "E", names)), {"x": SIX}),
    Edit("other types", "another part of a sequence", "parts", values("i", lambda i: i - 1)),
    Edit("other types", "elements of a sequence swapped", "list", swap("SequenceConstruct")),
)  # fmt: skip
_RENAMED = (
    Edit("renamed", "one weight x 1.0001", "wide", both(of_input("Conv", 1, one(1.0001), 1), renamed)),
    Edit("renamed", "one channel of the fold site x 1.001", "wide", both(of_input("Conv", 1, one(1.001)), renamed)),
    Edit("renamed", "one bias x 1.001", "wide", both(of_input("Conv", 2, one(1.001), 1), renamed)),
    Edit("renamed", "weights rounded to float16", "wide", both(of_input("Conv", 1, lambda w: w.astype(np.float16), 1), renamed)),
    Edit("renamed", "channels swapped", "wide", both(of_input("Conv", 1, lambda w: w[[1, 0, 2, 3]]), renamed)),
    Edit("renamed", "a residual sum is one branch", "residual", both(bypass("Add"), renamed)),
    Edit("renamed", "epsilon of LayerNormalization 1e-6", "layer norm", both(put("LayerNormalization", epsilon=1e-6), renamed)),
    Edit("renamed", "Max(x, -5000) put before the Conv", "plain", both(insert("x", "out = Max (x, cap)", cap=-5000.0), renamed), image(-1e4)),
    Edit("renamed", "one row of a table of 5000 words", "words", both(of_input("Gather", 0, one(1.5, 4711)), renamed), {"ids": np.array([[4711]])}),
)  # fmt: skip
NUMBERS = (*_WINDOWS, *_VALUES, *_SHAPES, *_TYPES, *_RENAMED)
