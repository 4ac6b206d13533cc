"""One law per operator and direction.

hoist:  affine(op(x0, .., xn))  ==  op(share[0](x0), .., share[n](xn))
sink:   op(.., affine(xi), ..)  ==  share[OUT](op(.., xi, ..)), and other inputs receive share[j]

A rule takes the node, the index of the output (hoist) or input (sink) that carries the affine, and the affine. It
returns the shares, leaving out identities, or raises Refused. The law is its docstring, its meaning and its test.

A share on an optional input that is omitted is a share on a stored zero. OUT - k is output k. A hoist rule may leave a
shift on OUT: what its operator has no room for, and what an Add after it would have to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import onnx_graphsurgeon as gs

from ...algebra.affine import Affine
from ...graph.queries import carries_data

OUT = -1
READ_NO_VALUES = ("Shape", "Size")  # operators that look at no values: for them no tensor changes
Shares = dict[int, Affine]


class Relaid(dict[int, Affine]):
    """Shares with which a node gets other `settings`, too: then even identities act, for the shapes that they make.

    `of_producer` are the shares of the node that makes its first input, if that takes part.
    """

    def __init__(self, shares: Shares, settings: dict[str, int | list[int]], of_producer: Shares | None = None) -> None:
        super().__init__(shares)
        self.settings, self.of_producer = settings, of_producer


Rule = Callable[[gs.Node, int, Affine], Shares]
Guard = Callable[[gs.Node, Affine], None]

HOIST: dict[str, Rule] = {}
SINK: dict[str, Rule] = {}


def hoist(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule of `affine(op(..)) == op(share(..), ..)`."""
    return lambda rule: HOIST.update(dict.fromkeys(operators, rule)) or rule


def sink(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule of `op(affine(..), ..) == share[OUT](op(.., ..))`."""
    return lambda rule: SINK.update(dict.fromkeys(operators, rule)) or rule


def commutes(*operators: str) -> Callable[[Guard], Guard]:
    """Register, both ways, guards under which `affine(op(x, ..)) == op(affine(x), ..)`: the affine crosses as it is."""

    def register(guard: Guard) -> Guard:
        hoist(*operators)(crossing(guard, 0))
        sink(*operators)(crossing(guard, OUT))
        return guard

    return register


def crossing(guard: Guard, index: int) -> Rule:
    @wraps(guard)
    def rule(node: gs.Node, port: int, affine: Affine) -> Shares:
        carries_data(port, node)
        guard(node, affine)
        return {index: affine}

    return rule


from . import (  # noqa: E402, F401
    activations,
    linear,
    movement,
    normalization,
    parts,
    pointwise,
    pooling,
    quantization,
    quantizers,
    recurrent,
    reduction,
)

__all__ = ["HOIST", "OUT", "SINK", "Guard", "Relaid", "Rule", "Shares", "commutes", "hoist", "sink"]
