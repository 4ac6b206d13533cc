"""The operator table: one row per way an operator can be written. Add an operator: add its rule, add its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One node. `x` are the shapes of its computed inputs, `consts` those of its constants (or their values).

    Inputs stand in the order x, consts; `order` permutes them (positions into that list, None for an omitted input).
    `axis` is where the affine of the law varies: on the output (hoist) or on input `port` (sink).
    """

    op: str
    x: tuple[tuple[int, ...], ...]
    consts: tuple[Any, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    axis: int = 1
    scale: str = "any"  # any | positive | one | nonzero
    shift: bool = True
    order: tuple[int | None, ...] | None = None
    port: int = 0
    opset: int = 19

    def __str__(self) -> str:
        shapes = [getattr(c, "shape", c) for c in self.consts]
        extras = [self.attrs] if self.attrs else []
        extras += [f"order={self.order}"] if self.order else []
        extras += [f"axis={self.axis}"] if self.axis != 1 else []
        return "-".join(str(part) for part in [self.op, *self.x, *shapes, *extras]).replace(" ", "")


IMG = (2, 4, 6, 5)
SEQ = (2, 3, 4)

HOIST = [
    Case("Conv", (IMG,), ((6, 4, 3, 3), (6,)), {"pads": [1, 1, 1, 1]}),
    Case("Conv", (IMG,), ((6, 4, 3, 3),), {"strides": [2, 1]}),
    Case("Conv", (IMG,), ((6, 4, 3, 3),), {"auto_pad": "SAME_UPPER"}),
    Case("Conv", (IMG,), ((8, 1, 3, 3), (8,)), {"group": 4, "pads": [2, 0, 1, 1]}),
    Case("Conv", (IMG,), ((4, 2, 3, 3), (4,)), {"group": 2}),
    Case("Conv", ((2, 4, 7),), ((3, 4, 3), (3,)), {"dilations": [2]}),
    Case("Conv", ((2, 4, 4, 5, 3),), ((3, 4, 2, 2, 2),), {}),
    Case("ConvTranspose", (IMG,), ((4, 3, 3, 3), (6,)), {"group": 2, "strides": [2, 2]}),
    Case("ConvTranspose", (IMG,), ((4, 5, 2, 2),), {}),
    Case("ConvTranspose", (IMG,), ((4, 4, 3, 3),), {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]}),
    Case("ConvTranspose", (IMG,), ((4, 1, 3, 3), (4,)), {"group": 4, "strides": [2, 2]}),
    Case("ConvTranspose", ((2, 4, 7),), ((4, 3, 3), (3,)), {"strides": [4]}),
    *(
        Case(
            "Gemm",
            ((4, 3) if ta else (3, 4),),
            ((5, 4) if tb else (4, 5), c),
            {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 0.25},
        )
        for ta in (0, 1)
        for tb in (0, 1)
        for c in ((5,), (1,), (1, 5), (3, 1), (3, 5), ())
    ),
    Case("Gemm", ((4, 4),), ((4, 4),), {"transB": 1}),
    Case("Gemm", ((4, 4),), ((4, 4), (4,)), {"transA": 1}),
    Case("Gemm", ((4, 5),), ((3, 4), (5,)), {}, axis=0, order=(1, 0, 2)),
    Case("MatMul", (SEQ,), ((4, 5),), axis=2, shift=False),
    Case("MatMul", ((3, 4),), ((4, 5),)),
    Case("MatMul", ((4, 4),), ((4, 4),), order=(1, 0), axis=0),
    Case("MatMul", ((2, 4, 5),), ((3, 4),), order=(1, 0), axis=1, shift=False),
    Case("MatMul", (SEQ,), ((2, 4, 5),), axis=0, shift=False),
    Case("BatchNormalization", (IMG,), ((4,), (4,), (4,), np.full(4, 1.3))),
    Case("Add", (IMG, IMG)),
    Case("Add", (IMG,), ((4, 1, 1),)),
    Case("Add", (IMG,), ((),), order=(1, 0)),
    Case("Add", (IMG,), (IMG,), axis=3),
    Case("Sum", (IMG, IMG), ((4, 1, 1),)),
    Case("Sub", (IMG, IMG)),
    Case("Sub", (IMG,), ((1, 4, 1, 1),)),
    Case("Sub", (IMG,), ((4, 1, 1),), order=(1, 0)),
    Case("Mul", (IMG,), ((4, 1, 1),), shift=False),
    Case("Mul", (IMG, (2, 4, 1, 1)), shift=False),
    Case("Mul", (IMG, (2, 1, 6, 5)), shift=False),
    Case("Div", (IMG,), (np.full((4, 1, 1), 2.5),), shift=False, scale="nonzero"),
    Case("Div", (IMG, (2, 1, 6, 5)), shift=False),
    Case("Neg", (IMG,)),
    Case("Identity", (IMG,)),
    Case("Dropout", (IMG,)),
    Case("Dropout", (IMG,), attrs={"ratio": 0.3}, opset=10),
    Case("Transpose", (IMG,), attrs={"perm": [0, 2, 3, 1]}, axis=3),
    Case("Transpose", (IMG,), attrs={"perm": [1, 3, 0, 2]}, axis=0),
    Case("Transpose", (IMG,), axis=2),
    Case("Flatten", (IMG,)),
    Case("Flatten", (IMG,), attrs={"axis": 2}, axis=0),
    Case("Reshape", (IMG,), (np.array([2, 4, 30]),)),
    Case("Reshape", ((6, 4),), (np.array([2, 3, 4]),), axis=2),
    Case("Reshape", (IMG,), (np.array([2, 2, 2, 6, 5]),)),
    Case("Squeeze", ((2, 4, 1),), (np.array([2]),)),
    Case("Squeeze", ((2, 4, 1),)),
    Case("Squeeze", ((2, 4, 1),), attrs={"axes": [2]}, opset=11),
    Case("Unsqueeze", ((2, 4),), (np.array([-1]),)),
    Case("Unsqueeze", ((2, 4),), attrs={"axes": [0, 3]}, opset=11),
    Case("Concat", (IMG, (2, 3, 6, 5)), attrs={"axis": 1}),
    Case("Concat", (IMG, IMG), attrs={"axis": -1}),
]

SINK = [
    Case("Conv", (IMG,), ((6, 4, 3, 3), (6,)), {"strides": [2, 1]}),
    Case("Conv", (IMG,), ((8, 2, 3, 3),), {"group": 2, "auto_pad": "VALID"}),
    Case("Conv", (IMG,), ((4, 1, 3, 3),), {"group": 4}),
    Case("Conv", (IMG,), ((6, 4, 3, 3),), {"pads": [1, 1, 1, 1]}, shift=False),
    Case("ConvTranspose", (IMG,), ((4, 3, 3, 3), (6,)), {"group": 2, "strides": [2, 2]}, shift=False),
    *(
        Case(
            "Gemm",
            ((4, 3) if ta else (3, 4),),
            ((5, 4) if tb else (4, 5), (5,)),
            {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 0.25},
            axis=1 - ta,
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    Case("Gemm", ((4, 4),), ((4, 4), (4,)), order=(1, 0, 2), port=1, axis=0),
    Case("Gemm", ((4, 4),), ((4, 4),), {"transB": 1}, order=(1, 0), port=1, axis=1),
    Case("MatMul", (SEQ,), ((4, 5),), axis=2, shift=False),
    Case("MatMul", ((3, 4),), ((4, 5),)),
    Case("MatMul", ((4, 5),), ((3, 4),), order=(1, 0), port=1, axis=0),
    Case("Add", (IMG, IMG), scale="one"),
    Case("Add", (IMG,), ((4, 1, 1),), scale="nonzero"),
    Case("Add", ((5,),), (IMG,), axis=0, scale="nonzero"),
    Case("Sub", (IMG, IMG), scale="one"),
    Case("Sub", (IMG, IMG), scale="one", port=1),
    Case("Sub", (IMG,), ((4, 1, 1),), scale="nonzero"),
    Case("Sub", (IMG,), ((4, 1, 1),), scale="nonzero", order=(1, 0), port=1),
    Case("Mul", (IMG,), ((4, 1, 1),)),
    Case("Mul", (IMG, (2, 4, 1, 1)), shift=False),
    Case("Div", (IMG,), ((4, 1, 1),)),
    Case("Div", (IMG, IMG), shift=False),
    Case("Neg", (IMG,)),
    Case("Identity", (IMG,)),
    Case("Dropout", (IMG,)),
    Case("Transpose", (IMG,), attrs={"perm": [1, 3, 0, 2]}),
    Case("Transpose", (IMG,)),
    Case("Flatten", (IMG,)),
    Case("Flatten", (IMG,), attrs={"axis": 2}),
    Case("Reshape", (IMG,), (np.array([2, 4, 30]),)),
    Case("Reshape", (IMG,), (np.array([8, 30]),)),
    Case("Squeeze", ((2, 4, 1),), (np.array([2]),)),
    Case("Squeeze", ((2, 4, 1),)),
    Case("Unsqueeze", ((2, 4),), (np.array([2, -1]),)),
    Case("Concat", (IMG, (2, 3, 6, 5)), attrs={"axis": 1}),
    Case("Concat", ((2, 3, 6, 5), IMG), attrs={"axis": 1}, port=1),
]

ODD_HOIST = [  # written so that a careless rule goes wrong
    Case("Gemm", ((3, 4),), ((4, 5), (5,)), {"beta": 0.0}),
    Case("Gemm", ((3, 4), (4, 5)), ((5,),)),
    Case("MatMul", (SEQ, (2, 4, 5))),
    Case("MatMul", ((4,),), ((4, 5),), axis=0),
    Case("Mul", (IMG, IMG)),
    Case("Add", (IMG, (6, 5))),
    Case("Div", (IMG,), (IMG,), order=(1, 0)),
    Case("Reshape", (IMG,), (np.array([8, 30]),)),
    Case("Reshape", ((4, 2, 6),), (np.array([2, 4, 6]),)),
    Case("Flatten", (IMG,), attrs={"axis": 0}),
    Case("Concat", (IMG, IMG), attrs={"axis": 0}),
]
ODD_SINK = [
    Case("Conv", (IMG,), ((6, 4, 3, 3),), {"pads": [0, 0, 0, 1]}),
    Case("Conv", (IMG,), ((6, 4, 3, 3),), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", (IMG, (6, 4, 3, 3))),
    Case("Conv", ((6, 4, 3, 3),), (IMG,), order=(1, 0), port=1),
    Case("ConvTranspose", (IMG,), ((4, 3, 2, 2),), {"strides": [2, 2]}),
    Case("ConvTranspose", (IMG,), ((4, 3, 2, 2),), {"strides": [3, 3]}),
    Case("Gemm", ((3, 4),), ((4, 5), (5,)), {"beta": 0.0}),
    Case("Gemm", ((5,),), ((3, 4), (4, 5)), {}, order=(1, 2, 0), port=2, axis=0),
    Case("MatMul", ((4,),), ((4, 5),), axis=0),
    Case("MatMul", (SEQ,), ((2, 4, 5),)),
    Case("Add", (IMG, IMG)),
    Case("Sub", (IMG, IMG)),
    Case("Mul", (IMG, IMG)),
    Case("Div", (IMG, IMG), port=1),
    Case("Div", (IMG,), (IMG,), order=(1, 0), port=1),
    Case("Reshape", ((4, 2, 6),), (np.array([2, 4, 6]),)),
    Case("Concat", (IMG, IMG), attrs={"axis": 2}),
]
