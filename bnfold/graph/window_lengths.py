"""The shape of what operators with windows make."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .lengths import Implied, Lengths, Shape
from .products import Dim, product


def convolution(node: gs.Node, known: Lengths) -> Implied:
    source, kernel = known.dims(node.inputs[0]), known.dims(node.inputs[1])
    if source is None or kernel is None:
        return None
    back = node.op == "ConvTranspose"
    channels = product([kernel[1], node.attrs.get("group", 1)]) if back else kernel[0]
    return (source[0], channels, *([None] * len(kernel[2:]) if back else windows(node, source[2:], kernel[2:])))


def pool(node: gs.Node, known: Lengths) -> Implied:
    source = known.dims(node.inputs[0])
    return None if source is None else (*source[:2], *windows(node, source[2:], tuple(node.attrs["kernel_shape"])))


def windows(node: gs.Node, axes: Shape, kernel: Shape) -> list[Dim]:
    """One window for each element, where steps are 1 and what the windows reach beyond it is padded."""
    count = len(axes)
    steps, gaps = (node.attrs.get(name) or [1] * count for name in ("strides", "dilations"))
    pads, automatic = node.attrs.get("pads") or [0] * (2 * count), node.attrs.get("auto_pad", "NOTSET")

    def same(i: int, taps: Dim) -> bool:
        padded = automatic == "NOTSET" and isinstance(taps, int) and pads[i] + pads[count + i] == gaps[i] * (taps - 1)
        return bool(steps[i] == 1 and (padded or automatic.startswith("SAME")))

    return [n if same(i, taps) else None for i, (n, taps) in enumerate(zip(axes, kernel, strict=True))]


def global_pool(node: gs.Node, known: Lengths) -> Implied:
    source = known.dims(node.inputs[0])
    return None if source is None else (*source[:2], *[1] * len(source[2:]))
