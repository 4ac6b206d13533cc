"""Bodies: what passes through an If, Loop or Scan towards the inputs goes on at what their bodies return.

return:  affine(op(..)) == op(..), whose bodies return share(tensor) for each pair of a tensor and a share
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require
from ...graph.queries import attribute, dims, label, opset
from .guards import uniform

Returned = list[tuple[gs.Tensor, Affine]]


def return_if(node: gs.Node, port: int, affine: Affine) -> Returned:
    """s * if(c, a, b) + t == if(c, s * a + t, s * b + t)"""
    branches = (body(node, name) for name in ("then_branch", "else_branch"))
    return [returned(node, branch, port, affine) for branch in branches]


def return_loop(node: gs.Node, port: int, affine: Affine) -> Returned:
    """s * stack(a, a', ..) + t == stack(s * a + t, s * a' + t, ..)"""
    inside = body(node, "body")
    not_carried(node, port, len(node.inputs) - 2)
    return [returned(node, inside, port + 1, by_step(node, affine, 0))]


def return_scan(node: gs.Node, port: int, affine: Affine) -> Returned:
    """As Loop, stacked along an axis of its own."""
    require(opset(node) >= 9, "OLD_OPSET", f"{label(node)} is of opset {opset(node)}, where a Scan has batches")
    inside = body(node, "body")
    carried = len(node.inputs) - attribute(node, "num_scan_inputs", 0)
    not_carried(node, port, carried)
    axes = attribute(node, "scan_output_axes") or [0] * (len(node.outputs) - carried)
    return [returned(node, inside, port, by_step(node, affine, axes[port - carried]))]


RETURN: dict[str, Callable[[gs.Node, int, Affine], Returned]] = {
    "If": return_if,
    "Loop": return_loop,
    "Scan": return_scan,
}


def body(node: gs.Node, name: str) -> gs.Graph:
    body = attribute(node, name)
    require(isinstance(body, gs.Graph), "MALFORMED", f"{label(node)} has no {name}")
    return body


def returned(node: gs.Node, inside: gs.Graph, port: int, affine: Affine) -> tuple[gs.Tensor, Affine]:
    """The tensor that a body returns at a place, and its share."""
    tensor = inside.outputs[port]
    own = dims(tensor)
    fit = len(own) == affine.rank and all(
        n in (1, m) or not isinstance(m, int) for n, m in zip(affine.extent, own, strict=True)
    )
    require(fit, "MALFORMED", f"'{tensor.name}', which {label(node)} returns, has another shape outside")
    return tensor, affine


def not_carried(node: gs.Node, port: int, carried: int) -> None:
    """Refuse what one step hands on to the next."""
    words = f"'{node.outputs[port].name}' goes round {label(node)}: each step reads what the one before made"
    require(port >= carried, "SUBGRAPH", words)


def by_step(node: gs.Node, affine: Affine, axis: int) -> Affine:
    """The affine without the axis along which the steps lie, if it is the same for all of them."""
    uniform(node, affine, [axis])
    return affine.map(lambda c: c.squeeze(axis))
