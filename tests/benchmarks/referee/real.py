"""Faults in faultless folds of real files, away from the fold sites and at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto

from .edits import Change, Edit, Values, become, bypass, of_input, one, put, swap, values


def outputs_swapped(model: ModelProto) -> None:
    """The first two outputs under each other's name."""
    first, second = (value.name for value in model.graph.output[:2])
    other = {first: second, second: first}
    for node in model.graph.node:
        node.output[:] = [other.get(name, name) for name in node.output]
        node.input[:] = [other.get(name, name) for name in node.input]


LINEAR = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def of_weights(at: int, change: Callable[[Values], Any]) -> Change:
    """Other numbers in one of the constants that linear operators multiply with, in the order of the nodes."""

    def edit(model: ModelProto) -> None:
        own = {stored.name for stored in model.graph.initializer}
        names = [n.input[1] for n in model.graph.node if n.op_type in LINEAR and n.input[1] in own]
        values(names[at], change)(model)

    return edit


IN_FOLDS: dict[str, Change] = {
    "the last weights x 1.001": of_weights(-1, lambda w: w * 1.001),
    "the first weights rounded to float16": of_weights(0, lambda w: w.astype(np.float16)),
    "the first weights in another order": of_weights(0, lambda w: w[::-1]),
}  # of other tools
REAL = (
    Edit("real files", "Softmax for LogSoftmax", "file burn_mnist", become("LogSoftmax", "Softmax")),
    Edit("real files", "one bias of a Gemm", "file burn_mnist", of_input("Gemm", 2, one(1.01), 1)),
    Edit("real files", "one weight of a Gemm", "file burn_mnist", of_input("Gemm", 1, one(1.001), 1)),
    Edit("real files", "MaxPool for AveragePool", "file fsanet_1x1", become("AveragePool", "MaxPool")),
    Edit("real files", "Sigmoid for a Tanh", "file fsanet_1x1", become("Tanh", "Sigmoid", 7)),
    Edit("real files", "operands of a Div", "file fsanet_1x1", swap("Div", at=3)),
    Edit("real files", "a Relu removed", "file fsanet_1x1", bypass("Relu", at=9)),
    Edit("real files", "a sum is one summand", "file fsanet_1x1", bypass("Add", at=19)),
    Edit("real files", "one slope of a PRelu", "file gtcrn_stream_simple", of_input("PRelu", 1, one(1.01), 5)),
    Edit("real files", "linear_before_reset of a GRU", "file gtcrn_stream_simple", put("GRU", 6, linear_before_reset=0)),
    Edit("real files", "one recurrent weight of a GRU", "file gtcrn_stream_simple", of_input("GRU", 2, one(1.001), 3)),
    Edit("real files", "Add for Sub", "file gtcrn_stream_simple", become("Sub", "Add", 2)),
    Edit("real files", "one channel of a ConvTranspose", "file gtcrn_stream_simple", of_input("ConvTranspose", 1, one(1.001), 8)),
    Edit("real files", "states swapped", "file gtcrn_stream_simple", outputs_swapped),
    Edit("real files", "alpha of LeakyRelu", "file mesonet_tf2onnx", put("LeakyRelu", alpha=0.11)),
    Edit("real files", "HardSigmoid for Sigmoid", "file mesonet_tf2onnx", become("Sigmoid", "HardSigmoid")),
    Edit("real files", "AveragePool for MaxPool", "file mesonet_tf2onnx", become("MaxPool", "AveragePool", 2)),
    Edit("real files", "a residual sum is the branch", "file dnnv_dronet", bypass("Add", 0, 1)),
    Edit("real files", "a residual sum is the shortcut", "file dnnv_dronet", bypass("Add", 1, 1)),
    Edit("real files", "answers swapped", "file dnnv_dronet", swap("Concat")),
    Edit("real files", "axis of Softmax", "file ultraface_slim320_nopost", put("Softmax", axis=1)),
    Edit("real files", "scales joined in another order", "file ultraface_slim320_nopost", swap("Concat", at=-1)),
)  # fmt: skip
