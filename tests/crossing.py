"""Rows of the operator table that serve both directions: what an affine crosses, from either side."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.case import IMG, Case

YES = np.array([True, False, True, True])[:, None, None]
SLOPES = np.array([0.5, 2.0, 0.1, 1.0])[:, None, None]
SIGNED = SLOPES * np.array([1, -1, 1, -1])[:, None, None]
GRID = np.random.default_rng(3).uniform(-1.3, 1.3, (2, 2, 3, 2))
HUGE = float(np.finfo(np.float32).max)
DOUBLE, INT64 = 11, 7  # element types
NONE = np.zeros(0)  # an empty tensor, which counts as omitted

UP = {"scale": "positive"}
SCALE = {"scale": "positive", "shift": False}
WINDOW: dict[str, Any] = {"kernel_shape": [3, 2]}
PADDED: dict[str, Any] = {**WINDOW, "pads": [1, 0, 1, 1], "strides": [2, 2]}
SAME: dict[str, Any] = {**WINDOW, "auto_pad": "SAME_UPPER"}
CEIL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
DILATED: dict[str, Any] = {**WINDOW, "dilations": [2, 1]}
INCLUDE: dict[str, Any] = {"count_include_pad": 1}
TWICE = np.array([1.0, 1, 2, 2])


SMALL = (2, 3, 5, 4)  # for operators whose reference is slow


def small(op: str, attrs: dict[str, Any], **settings: Any) -> Case:
    return Case(op, (SMALL,), (), attrs, **settings)


def img(op: str, *consts: Any, attrs: dict[str, Any] | None = None, **settings: Any) -> Case:
    return Case(op, (IMG,), consts, attrs or {}, **settings)


# fmt: off
BOTH = [
    img("Neg"),
    img("Identity"),
    img("Dropout"),
    *(img("Dropout", attrs={"ratio": 0.3}, opset=opset) for opset in (7, 10)),
    img("Cast", attrs={"to": DOUBLE}),
    img("CastLike", (1,)),
    img("Relu", **SCALE),
    img("LeakyRelu", attrs={"alpha": 0.3}, **SCALE),
    img("PRelu", SLOPES, shift=False),
    img("PRelu", 0.25, shift=False),
    img("PRelu", SIGNED, **SCALE),
    Case("PRelu", (IMG, IMG), **SCALE),
    img("PRelu", SLOPES, opset=6, **SCALE),
    img("PRelu", SLOPES, opset=7, shift=False),
    img("Abs", **SCALE),
    img("Clip", 0.0, 2.0, axis=None, **UP),
    img("Clip", -0.5, 0.5, axis=None, **UP),
    img("Clip", 0.3, order=(0, None, 1), axis=None, **UP),
    img("Clip", 0.0, **SCALE),
    img("Clip", -HUGE, np.inf, **UP),
    img("Clip", **UP),
    img("Clip", attrs={"min": 0.0, "max": HUGE}, opset=6, **SCALE),
    img("Clip", attrs={"max": 0.0}, opset=6, **SCALE),
    img("Max", (4, 1, 1), **UP),
    img("Min", (4, 1, 1), (5,), order=(1, 0, 2), port=1, **UP),
    img("Max", 0.0, **SCALE),
    Case("Max", (IMG, IMG), **UP),
    Case("Min", (IMG, IMG), port=1, opset=7, **UP),
    Case("Where", (YES, IMG), ((4, 1, 1),), port=1, scale="nonzero"),
    Case("Where", (YES, IMG), (0.0,), order=(0, 2, 1), port=2, shift=False),
    Case("Where", (YES, IMG), (-np.inf,), order=(0, 2, 1), port=2, **UP),
    Case("Where", (YES, IMG, IMG), port=2, scale="nonzero"),
    *(small("AveragePool", a) for a in (WINDOW, PADDED, SAME, CEIL, DILATED, {**WINDOW, **INCLUDE})),
    *(small("AveragePool", {**a, **INCLUDE}, shift=False) for a in (PADDED, SAME, CEIL)),
    small("AveragePool", PADDED, opset=7),
    *(small("MaxPool", a, **UP) for a in (WINDOW, PADDED, SAME, CEIL, DILATED)),
    small("MaxPool", PADDED, outputs=2, **UP),
    small("MaxPool", WINDOW, opset=8, **UP),
    small("LpPool", WINDOW, **SCALE),
    small("LpPool", {**WINDOW, "p": 3}, **SCALE),
    img("GlobalAveragePool"),
    img("GlobalMaxPool", **UP),
    img("GlobalLpPool", **SCALE),
    img("Resize", TWICE, order=(0, None, 1)),
    img("Resize", NONE, TWICE, attrs={"mode": "linear"}, opset=11),
    img("Resize", np.array([2, 4, 3, 9]), order=(0, None, None, 1), attrs={"mode": "cubic", "cubic_coeff_a": -0.5}),
    img("Resize", np.array([9, 7]), order=(0, None, None, 1), attrs={"mode": "linear", "axes": [2, -1], "antialias": 1}),
    img("Resize", np.array([7, 3]), order=(0, None, None, 1), attrs={"axes": [0, 2]}, axis=3),
    img("Resize", TWICE, opset=10),
    img("Resize", np.array([3, 7]), order=(0, None, None, 1), attrs={"axes": [0, 2], "keep_aspect_ratio_policy": "not_larger"}),
    img("Upsample", TWICE, opset=9),
    img("Upsample", attrs={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}, opset=7),
    *(Case("GridSample", (SMALL, GRID), (), {"padding_mode": m}) for m in ("border", "reflection")),
    Case("GridSample", (SMALL, GRID), shift=False),
    Case("GridSample", (SMALL, GRID), (), {"mode": "cubic", "padding_mode": "reflection"}, opset=20),
    img("Expand", np.array([3, 2, 4, 6, 5]), axis=None),
    Case("Expand", ((4, 1, 1),), (np.array([2, 4, 6, 5]),), axis=None),
    Case("Expand", ((2, 4, 1, 1),), (np.array([6, 1]),)),
    img("Tile", np.array([1, 1, 2, 3])),
    img("Tile", np.array([1, 1, 1, 1]), opset=6),
    img("Slice", np.array([1, 0]), np.array([6, -1]), np.array([2, 3])),
    img("Slice", attrs={"starts": [1], "ends": [5], "axes": [-2]}, opset=9),
    img("Slice", np.array([-1]), np.array([-(2**40)]), np.array([3]), np.array([-2])),
    img("Slice", np.array([0, 0, 2]), np.array([9, 9, 9])),
    Case("Slice", (IMG, np.array([1])), (np.array([3]), np.array([2]))),
    img("Gather", np.array([[0, 2], [1, -1]]), attrs={"axis": 3}),
    Case("Gather", (IMG, np.array([[0, 2]])), (), {"axis": 3}),
    img("Gather", np.array(1), attrs={"axis": 2}),
    img("Gather", np.array([1, 0, 1]), axis=3),
    *(img("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 3]), attrs={"mode": m}) for m in ("reflect", "edge", "wrap")),
    *(img("Pad", attrs={"mode": m, "pads": [0, 0, 1, 2, 0, 0, 0, 3]}, opset=10) for m in ("reflect", "edge")),
    img("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 3]), 0.7, axis=None, scale="nonzero"),
    img("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 3]), -np.inf, **UP),
    img("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 3]), shift=False),
    img("Pad", np.array([1, 2, 0, 3]), 0.0, np.array([-1, 0]), attrs={"mode": "constant"}, shift=False),
    img("Pad", np.zeros(8, int), 0.7),
    img("Pad", attrs={"pads": [0, 0, 1, 2, 0, 0, 0, 3], "value": -np.inf}, opset=10, **UP),
    img("Pad", attrs={"mode": "edge", "paddings": [0, 0, 1, 2, 0, 0, 0, 3]}, opset=1),
    *(img("DepthToSpace", attrs={"blocksize": 2, "mode": m}, axis=None) for m in ("DCR", "CRD")),
    Case("SpaceToDepth", ((2, 4, 6, 4),), (), {"blocksize": 2}, axis=None),
    img("DepthToSpace", attrs={"blocksize": 1}),
    img("SpaceToDepth", attrs={"blocksize": 1}),
]

ODD_BOTH = [  # written so that a careless rule goes wrong
    img("Cast", attrs={"to": INT64}),
    img("CastLike", np.array(1)),
    img("PRelu", SIGNED),
    img("PRelu", 0.0),
    img("Clip", -0.5, 0.5),
    img("Clip", HUGE, -HUGE),
    img("Clip", attrs={"min": -0.5, "max": 0.5}, opset=6),
    img("Max", (4, 1, 1), IMG),
    Case("Max", ((5,),), ((6, 1),), axis=0),
    Case("Where", (YES, IMG), (np.where(YES, -np.inf, 0.0),), order=(0, 2, 1), port=2),
    Case("Where", (np.array([True, False]), (5, 1)), ((2,),), port=1),
    small("MaxPool", CEIL, outputs=2),
    img("Resize", np.array([1.0, 2.0, 1.0, 2.0]), order=(0, None, 1)),
    img("Resize", NONE, np.array([1.0, 1.2, 1.0, 1.0]), attrs={"mode": "linear"}, opset=11),
    Case("Resize", ((2, 4, 10, 5),), (np.array([4, 9]),), {"axes": [1, 2], "keep_aspect_ratio_policy": "not_larger", "mode": "linear"},
        order=(0, None, None, 1)),
    Case("GridSample", (SMALL, GRID), (), {"padding_mode": "zeros"}),
    img("Expand", np.array([3, 2, 4, 6, 5])),
    Case("Expand", ((4, 1, 1),), (np.array([2, 4, 6, 5]),), axis=0),
    img("Tile", np.array([2, 2, 1, 1])),
    Case("Tile", ((2, 1, 3),), (np.array([1, 4, 1]),)),
    img("Slice", np.array([1, -1]), np.array([4, 0]), np.array([1, 3]), np.array([2, -1])),
    img("Slice", np.array([2]), np.array([-1]), np.array([1])),
    img("Slice", attrs={"starts": [1], "ends": [3]}, opset=9),
    Case("Slice", (IMG, np.array([1])), (np.array([3]), np.array([1]))),
    img("Gather", np.array([[0, 2], [1, -1]]), attrs={"axis": 1}),
    img("Gather", np.array([3, 0, 3]), attrs={"axis": -3}),
    img("Gather", np.array(-1), attrs={"axis": 1}),
    Case("Gather", (IMG, np.array([1, 1])), (), {"axis": 1}),
    *(img("Pad", np.array([0, 1, 0, 2, 0, 1, 3, 0]), attrs={"mode": m}) for m in ("reflect", "edge", "wrap", "constant")),
    img("Pad", np.array([0, 1, 0, 0, 0, 0, 0, 0]), 0.7),
    *(img("DepthToSpace", attrs={"blocksize": 2, "mode": m}) for m in ("DCR", "CRD")),
    Case("SpaceToDepth", ((2, 4, 6, 4),), (), {"blocksize": 2}),
]
