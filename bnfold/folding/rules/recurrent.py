"""Recurrent operators: an affine of their input folds into the weights that read it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require
from ...graph.queries import carries_data, constant, has, label
from . import Shares, sink
from .linear import added

W, B = 1, 3


@sink("LSTM", "GRU", "RNN")
def sink_recurrent(node: gs.Node, port: int, affine: Affine) -> Shares:
    """W . (s * x + t) + b == (W * s) . x + (b + W . t), b being the first half of B; the other goes with the state"""
    carries_data(port, node)
    weight = constant(node, W)
    into = affine.along(2, weight.shape[2])
    require(has(node, B) or not affine.has_shift, "NO_BIAS", f"{label(node)} has no B to take the shift")
    shift = weight @ into.shift
    return {W: into.scaling.on(2, 3), B: added(np.concatenate([shift, np.zeros_like(shift)], axis=1))}
