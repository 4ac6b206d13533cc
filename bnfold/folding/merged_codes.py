"""Merged branches whose weights are quantized: one weight of integers, where the sum of the branches is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import IDENTITY, Array, require
from ..algebra.rounding import keeps_codes
from ..graph.constants import value_of
from ..graph.dequantized import CODES, SCALE, ZERO, is_dequantized, parameter
from ..graph.edits import Replace
from ..graph.queries import attribute, dtype, has, label, operator
from ..graph.scopes import Visible
from .rules.linear import W


def dequantizer(node: gs.Node) -> gs.Node | None:
    """The DequantizeLinear that makes the weight of a convolution or product."""
    return node.inputs[W].inputs[0] if is_dequantized(node.inputs[W]) else None


def weight_edits(
    visible: Visible, total: gs.Node, keeper: gs.Node, others: Sequence[gs.Node], weight: Array
) -> Iterator[Replace]:
    """The edits that give `keeper` the merged weight: as numbers or, where one was quantized, as codes of one scale."""
    makers = [dequantizer(node) for node in (keeper, *others)]
    if not any(makers):
        yield Replace(keeper, W, weight)
        return
    words = f"the weights of the branches into {label(total)} are quantized, and"
    own = makers[0]
    require(own is not None, "INTEGERS", f"{words} their sum with one that is not would lose its integers")
    assert own is not None
    made_in_graph = own.inputs[CODES].inputs and operator(own.inputs[CODES].inputs[0]) == "QuantizeLinear"
    require(not made_in_graph, "INTEGERS", f"{words} their sum has no place before the QuantizeLinear of one of them")
    require(visible.is_read_once(own.outputs[0]), "SHARED", f"'{own.outputs[0].name}' is read by others as well")
    for scale in scales(own, makers[1:], weight.ndim):
        codes = codes_of(own, weight, scale)
        if codes is not None:
            yield Replace(own, CODES, codes)
            if not np.array_equal(scale, parameter(own, SCALE, weight.ndim)):
                yield Replace(own, SCALE, scale.reshape(value_of(own.inputs[SCALE]).shape))
            return
    require(False, "INTEGERS", f"{words} their sum has no exact place among integers of one scale")


def scales(own: gs.Node, others: Sequence[gs.Node | None], rank: int) -> Iterator[Array]:
    """The scales of all quantized branches that have the shape of the first, which is tried first; no blocks."""
    for maker in (own, *others):
        if maker is not None and not attribute(maker, "block_size", 0):
            scale = parameter(maker, SCALE, rank)
            if scale.shape == parameter(own, SCALE, rank).shape:
                yield scale


def codes_of(maker: gs.Node, weight: Array, scale: Array) -> Array | None:
    """The codes that a DequantizeLinear with another scale makes exactly a weight of; None where there are none."""
    if weight.shape != value_of(maker.inputs[CODES]).shape or not np.all(scale):
        return None
    zero = parameter(maker, ZERO, weight.ndim) if has(maker, ZERO) else np.zeros(())
    steps = weight / scale
    kind = dtype(maker.inputs[CODES])
    if not np.array_equal(steps * scale, weight) or not keeps_codes(IDENTITY, steps + zero, kind):
        return None
    return np.asarray(steps + zero)
