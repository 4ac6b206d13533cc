"""One law per operator and direction.

hoist:  affine(op(x0, .., xn))  ==  op(share[0](x0), .., share[n](xn))
sink:   op(.., affine(xi), ..)  ==  share[OUT](op(.., xi, ..)), and other inputs receive share[j]

A rule takes the node, the index of the output (hoist) or input (sink) that carries the affine, and the affine. It
returns the shares, leaving out identities, or raises Refused. The law is its docstring, its meaning and its test.

A share on an optional input that is omitted is a share on a stored zero.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from ..affine import Affine

OUT = -1
Shares = dict[int, Affine]
Rule = Callable[[gs.Node, int, Affine], Shares]

HOIST: dict[str, Rule] = {}
SINK: dict[str, Rule] = {}


def hoist(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule of `affine(op(..)) == op(share(..), ..)`."""
    return lambda rule: HOIST.update(dict.fromkeys(operators, rule)) or rule


def sink(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule of `op(affine(..), ..) == share[OUT](op(.., ..))`."""
    return lambda rule: SINK.update(dict.fromkeys(operators, rule)) or rule


from . import linear, movement, pointwise  # noqa: E402

__all__ = ["HOIST", "OUT", "SINK", "Rule", "Shares", "hoist", "linear", "movement", "pointwise", "sink"]
