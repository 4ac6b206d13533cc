"""What a fold made redundant, and nothing else: a Reshape or Transpose pair with nothing between any more."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Refused
from ..graph.editor import Editor
from ..graph.queries import attribute, dims, operator

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def cancel(editor: Editor, tensor: gs.Tensor) -> None:
    """Take out the two nodes around `tensor`, between which a fold took out the last node, if they undo each other."""
    if not is_private(editor, tensor):
        return
    first, last = tensor.inputs[0], tensor.outputs[0]
    if undo_each_other(first, last) and (last.outputs[0] not in editor.visible or is_private(editor, first.inputs[0])):
        editor.bypass(last, first.inputs[0], keep_name=last.outputs[0] in editor.visible)


def is_private(editor: Editor, tensor: gs.Tensor) -> bool:
    """Whether a tensor may give up its name: one node makes it, one reads it, and no one else sees it."""
    return len(tensor.inputs) == 1 and editor.visible.is_read_once(tensor)


def undo_each_other(first: gs.Node, last: gs.Node) -> bool:
    """Whether last(first(x)) == x, whatever x."""
    operators = operator(first), operator(last)
    if operators == ("Transpose", "Transpose"):
        there, back = attribute(first, "perm"), attribute(last, "perm")
        return bool(there and back) and np.array_equal(np.asarray(there)[back], range(len(there)))
    return set(operators) <= set(RESHAPES) and same_shape(first.inputs[0], last.outputs[0])


def same_shape(a: gs.Tensor, b: gs.Tensor) -> bool:
    """Whether two tensors of as many elements have one shape for certain: their axes are equal, but for one at most."""
    try:
        before, after = dims(a), dims(b)
    except Refused:
        return False
    unsure = [i for i, (n, m) in enumerate(zip(before, after, strict=False)) if n is None or n != m]
    known = [n for i, n in enumerate(before) if i not in unsure]
    return len(before) == len(after) and (
        not unsure or (len(unsure) == 1 and all(isinstance(n, int) and n for n in known))
    )
