"""Operators that hand elements on, and the shapes at which two regions of them are compared.

Where elements go depends on sizes alone. So a region is fed distinct numbers of the size at hand, of others, and of
more than any index that it names.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ...runtime.protos import Array, called, shape
from ..regions import MOVES

MOVING = MOVES | {"Concat", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Resize", "Upsample", "Shape", "Range"}
NAMED = 1 << 12  # indices that may be reached
END_INDEX = 1 << 31  # from which on an index means the end


def is_moving(node: onnx.NodeProto) -> bool:
    """Of a Resize only the nearest neighbour hands elements on."""
    if called(node) in ("Resize", "Upsample"):
        return not any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    return called(node) in MOVING


def fixed_axes(model: onnx.ModelProto, name: str, rank: int) -> list[bool]:
    """Which axes of a tensor have one size only, as far as inference knows."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    dims = next((shape(v) for v in (*graph.input, *graph.value_info) if v.name == name), None)
    return [isinstance(dim, int) for dim in dims] if dims and len(dims) == rank else [False] * rank


def shapes_to_try(
    example: Sequence[int], fixed: Sequence[bool], constants: Sequence[Array]
) -> list[tuple[int, ...]] | None:
    """The shape at hand, and larger ones along each axis that is not fixed; None where an index is out of reach."""
    named = [abs(int(each)) for values in constants if values.dtype.kind == "i" for each in values.ravel()]
    last = max((each for each in named if each < END_INDEX), default=0)
    axes = [axis for axis, is_fixed in enumerate(fixed) if not is_fixed]
    if axes and last > NAMED:
        return None
    sizes = [(axis, size) for axis in axes for size in (example[axis] + 1, 2 * example[axis] + 1, last + 2)]
    return [tuple(example), *((*example[:axis], size, *example[axis + 1 :]) for axis, size in sizes)]
