"""Quantization at run time: what rounds activations lets powers of two by, for then no integer becomes another."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, compress, require
from ...graph.constants import is_known
from ...graph.dequantized import SCALE
from ...graph.queries import carries_data, dims, dtype, label
from . import OUT, Shares, sink
from .guards import inverse
from .quantization import on_parameter, require_per_tensor

MADE_SCALE = OUT - 1  # the scale that a DynamicQuantizeLinear makes
WIDE_RANGE = 1e30  # of float32, bfloat16 and float64: a power of two leaves every digit of what is not rounded to zero


@sink("QuantizeLinear")
def sink_quantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """round(2**k * x / scale) + z == round(x / (scale / 2**k)) + z, to the last bit"""
    carries_data(port, node)
    require(not is_known(node.inputs[0]), "DTYPE", f"{label(node)} rounds what is known before run time to integers")
    if dims(node.inputs[SCALE]) in ((), (1,)):
        require_per_tensor(node, affine)
    require_exact(node, affine)
    return {SCALE: inverse(node, on_parameter(node, affine.map(compress)))}


@sink("DynamicQuantizeLinear")
def sink_dynamic_quantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """Codes and zero point of 2**k * x are those of x, and its scale is 2**k times that of x"""
    require_per_tensor(node, affine)
    require_exact(node, affine)
    return {MADE_SCALE: affine.map(lambda c: compress(c).reshape(()))}


def require_exact(node: gs.Node, affine: Affine) -> None:
    """Refuse an affine before a rounding to integers, unless no integer becomes another."""
    words = f"{label(node)} rounds to integers, among which a shift has no exact place"
    require(not affine.has_shift, "INTEGERS", words)
    require(affine.is_positive, "NEGATIVE_SCALE", f"the scale of {label(node)} has to stay positive")
    kind = dtype(node.inputs[0])
    has_range = float(ml_dtypes.finfo(kind).max) > WIDE_RANGE  # type: ignore[no-untyped-call]
    powers = np.all(np.frexp(affine.scale)[0] == 0.5)
    words = f"{label(node)} rounds {kind} to integers, and would make others of some numbers"
    require(has_range and powers, "INTEGERS", f"{words}: only a scale that is a power of two, in float32, is exact")
