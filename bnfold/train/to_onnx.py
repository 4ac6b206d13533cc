"""PyTorch to ONNX without PyTorch's own folding of BatchNormalization, and the comparison of the two."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    materialize_reshape_shape_rule,
    remove_optional_bias_from_conv_rule,
    remove_optional_bias_from_conv_transpose_rule,
    remove_optional_bias_from_gemm_rule,
)
from torch import Tensor, nn

from ..errors import CheckFailed, UsageProblem, first_line
from ..system.installed import runtime

INPUT, OUTPUT = "image", "logits"
UNLIMITED = 1 << 31  # bytes of a constant
BATCHES = (1, 2, 5)
MEAN = 3  # which input of BatchNormalization
TIDY = (
    remove_optional_bias_from_conv_rule,
    remove_optional_bias_from_conv_transpose_rule,
    remove_optional_bias_from_gemm_rule,
    materialize_reshape_shape_rule,
)


def in_dtype(model: nn.Module, dtype: str) -> nn.Module:
    """A copy of `model` in this dtype."""
    return copy.deepcopy(model).to(getattr(torch, dtype))


def converted(model: nn.Module, shape: tuple[int, ...], opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """`model`, in evaluation mode, from images (batch, *shape) to logits, with a symbolic batch.

    The exporter's default optimizations fuse BatchNormalization, so they stay off and the passes that do not are
    run one by one. Where PyTorch does not support `opset` the model has another one: see its opset_import.
    """
    assert not model.training, "PyTorch would export training mode as inference, silently"
    example = torch.zeros(BATCHES[-1], *shape, dtype=next(model.parameters()).dtype)
    with _silence():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        _tidy(program.model)
    program.model.metadata_props.update(metadata)
    return onnx_ir.to_proto(program.model)


def _tidy(model: onnx_ir.Model) -> None:
    """Leave plain operators and initializers. Equal initializers are not merged: a fold may change one of them."""
    common.InlinePass()(model)
    fold_constants(model, input_size_limit=UNLIMITED, output_size_limit=UNLIMITED)
    RewritePass(TIDY)(model)
    fold_constants(model, input_size_limit=UNLIMITED, output_size_limit=UNLIMITED)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # stack traces with the paths of this machine
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    _name_norms(model)


def _name_norms(model: onnx_ir.Model) -> None:
    """Name each BatchNormalization as its module in PyTorch; if that is used twice, only the first of them."""
    taken = {node.name for node in model.graph}
    for node in model.graph:
        if node.op_type == "BatchNormalization" and (mean := node.inputs[MEAN]) is not None:
            module = str(mean.name).removesuffix(".running_mean")
            node.name = node.name if module in taken else module
            taken.add(module)


def worst_difference(model: nn.Module, path: Path, shape: tuple[int, ...], dtype: str) -> tuple[float, float]:
    """Largest |ONNX - PyTorch in float64| over batches of 1, 2 and 5, and the largest output; NaN where there is one.

    onnxruntime runs the file as it is, without graph optimizations. Raises CheckFailed if the checker refuses it.
    """
    _check(path)
    session = _session(path)
    truth = in_dtype(model, "float64")
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal((n, *shape)).astype(dtype) for n in BATCHES]
    pairs = [(session.run(None, {INPUT: x})[0].astype(np.float64), _logits(truth, x)) for x in inputs]
    error = np.max([np.abs(ours - theirs).max() for ours, theirs in pairs])
    return float(error), float(np.max([np.abs(theirs).max() for _, theirs in pairs]))


def _logits(model: nn.Module, x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        logits: Tensor = model(torch.from_numpy(x).double())
    return logits.numpy()


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(
            f"the exported file is not valid ONNX: {first_line(error)}", "Try another --opset."
        ) from error


def _session(path: Path) -> Any:
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base
        raise UsageProblem(
            "the installed onnxruntime cannot load the exported file", "Use an older --opset."
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the exporter's warnings and log lines, which are for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
