"""Operators that hand elements on, and the shapes at which two regions of them are compared.

Where elements go depends on sizes alone. So a region is fed distinct numbers of the size at hand, of others, and of
more than any index that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ...runtime.protos import Array, called
from ..regions import MOVES

MOVING = MOVES | {"Concat", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Resize", "Upsample", "Shape", "Range"}
NAMED = 1 << 12  # indices that may be reached
END_INDEX = 1 << 31  # from which on an index means the end


def is_moving(node: onnx.NodeProto) -> bool:
    """Of a Resize only the nearest neighbour hands elements on."""
    if called(node) in ("Resize", "Upsample"):
        return not any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    return called(node) in MOVING


def computed_of(nodes: Sequence[onnx.NodeProto], entering: Sequence[str], acts: Mapping[str, bytes]) -> dict[str, int]:
    """What nodes compute of the tensors that enter, as numbers: equal for what differs by moves of elements alone."""
    known = {name: hash(name) for name in entering}
    for node in nodes:
        data = [known[name] for name in node.input if name in known]
        if is_moving(node) and len({*data}) == 1:
            value = data[0]
        else:
            value = hash(("moved", *sorted({*data})) if is_moving(node) else (acts.get(node.output[0], b""), *data))
        known.update((name, value if is_moving(node) else hash((value, i))) for i, name in enumerate(node.output))
    return known


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
