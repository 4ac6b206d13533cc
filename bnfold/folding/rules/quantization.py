"""Quantization: the integers stay as they are, and their scale changes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, compress, require
from ...graph.constants import is_known
from ...graph.queries import attribute, carries_data, dims, label, size
from . import Shares, hoist, sink
from .guards import inverse, no_shift, uniform

SCALE = 1


@hoist("DequantizeLinear")
def hoist_dequantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * ((q - z) * scale) == (q - z) * (s * scale), for s > 0"""
    return {SCALE: on_scale(node, affine)}


@sink("QuantizeLinear")
def sink_quantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """round(s * x / scale) + z == round(x / (scale / s)) + z, for s > 0"""
    carries_data(port, node)
    require(not is_known(node.inputs[0]), "DTYPE", f"{label(node)} rounds what is known before run time to integers")
    return {SCALE: inverse(node, on_scale(node, affine))}


def on_scale(node: gs.Node, affine: Affine) -> Affine:
    """A positive scale in the shape of that of the quantization: one number, one per channel, or one per block."""
    no_shift(node, affine)
    require(affine.is_positive, "NEGATIVE_SCALE", f"the scale of {label(node)} has to stay positive")
    affine = affine.map(compress)
    axis, own = attribute(node, "axis", 1), dims(node.inputs[SCALE])
    if len(own) == 1:
        return affine.along(axis, size(node.inputs[SCALE], 0))
    uniform(node, affine, [axis] if attribute(node, "block_size", 0) else range(affine.rank))
    return affine.map(lambda c: c.reshape(c.shape if own else ()))
