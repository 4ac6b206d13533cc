"""What a row of the operator table says: one node, and which affine its law is tried with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One node. `x` are the shapes of its computed inputs, `consts` those of its constants (or the values of either).

    Inputs stand in the order x, consts; `order` permutes them (positions into that list, None for an omitted input).
    `axis` is where the affine of the law varies (None: nowhere), on output `out` (hoist) or on input `port` (sink).
    """

    op: str
    x: tuple[Any, ...]
    consts: tuple[Any, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    axis: int | None = 1
    scale: str = "any"  # any | positive | one | nonzero | power (of two)
    shift: bool = True
    order: tuple[int | None, ...] | None = None
    port: int = 0
    out: int = 0
    opset: int = 19
    outputs: int = 1

    def __str__(self) -> str:
        shapes = [getattr(c, "shape", c) for c in (*self.x, *self.consts)]
        extras = [self.attrs] if self.attrs else []
        extras += [f"order={self.order}"] if self.order else []
        extras += [f"axis={self.axis}"] if self.axis != 1 else []
        extras += [f"opset={self.opset}"] if self.opset != 19 else []
        return "-".join(str(part) for part in [self.op, *shapes, *extras]).replace(" ", "")


IMG = (2, 4, 6, 5)
SEQ = (2, 3, 4)
