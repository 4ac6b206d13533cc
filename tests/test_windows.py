"""Where the windows of a pooling lie, against a count of every window and tap."""

from __future__ import annotations

from itertools import product

import onnx_graphsurgeon as gs
import pytest

from bnfold.algebra.affine import Refused
from bnfold.folding.driver import fold
from bnfold.folding.rules.windows import FARTHEST, all_hold_elements, require_filled_windows
from tests.build import BN, assert_same, bn, build, operators

MODES = ("", "CEIL", "SAME_UPPER", "SAME_LOWER")


def counted(n: int, taps: int, gap: int, step: int, before: int, after: int, mode: str) -> bool:
    """Whether each window has a tap on an axis of n elements: all of them looked at."""
    span = (taps - 1) * gap + 1
    if mode.startswith("SAME"):
        windows = -(-n // step)
        pads = max(0, (windows - 1) * step + span - n)
        before = pads // 2 if mode == "SAME_UPPER" else pads - pads // 2
    else:
        room = n + before + after - span
        windows = (-(-room // step) if mode else room // step) + 1
        windows -= bool(mode) and (windows - 1) * step >= n + before
    return all(any(0 <= w * step - before + t * gap < n for t in range(taps)) for w in range(windows))


@pytest.mark.parametrize("mode", MODES)
def test_every_window_of_small_axes(mode):
    for taps, gap, step, before, after in product(range(1, 4), range(1, 4), range(1, 4), range(5), range(5)):
        shape = taps, gap, step, before, after, mode
        each = [counted(n, *shape) for n in range(1, 24)]
        assert [all_hold_elements(n, *shape) for n in range(1, 24)] == each
        assert all_hold_elements(None, *shape) == all(each), shape


def test_taps_that_are_too_far_apart_are_not_looked_at():
    assert not all_hold_elements(None, 2, FARTHEST + 1, 1, 0, 0, "")


POOLS = {  # attributes, sizes of the input and the output: the BatchNormalization folds
    "padded": ("MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>", "H,W", "A,B"),
    "ceil_mode": ("MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>", "H,W", "A,B"),
    "one tap in ceil_mode": ("MaxPool<kernel_shape=[1,1], strides=[2,2], ceil_mode=1>", "5,5", "3,3"),
    "SAME": ('MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">', "H,W", "A,B"),
    "dilated": ("MaxPool<kernel_shape=[3,3], dilations=[2,2]>", "H,W", "A,B"),
    "dilated and padded": ("MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>", "H,W", "A,B"),
    "dilated and padded, wide enough": ("MaxPool<kernel_shape=[2,2], dilations=[3,3], pads=[1,1,1,1]>", "6,6", "5,5"),
    "averaged": ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>", "H,W", "A,B"),
    "global": ("GlobalMaxPool", "H,W", "1,1"),
}


@pytest.mark.parametrize("name", POOLS)
def test_ordinary_pools_are_crossed(name):
    pool, before, after = POOLS[name]
    constants = {"W": (4, 3, 1, 1), **bn("p", 4), "pg": [0.5, 1, 2, 3]}
    model = build(f"a = Conv(X, W) c = {pool}(a) Y = {BN('c', 'p')}", f"X[N,3,{before}]", f"Y[N,4,{after}]", constants)
    result = fold(model)
    assert "BatchNormalization" not in operators(result.model)
    if before[0].isdigit():
        assert_same(model, result.model)


def test_of_a_pool_whose_input_has_no_known_rank_every_size_is_looked_at():
    near = gs.Node(
        "MaxPool", "n", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [gs.Variable("x")], [gs.Variable("y")]
    )
    assert require_filled_windows(near) is None
    far = gs.Node(
        "MaxPool", "n", near.attrs | {"dilations": [3, 3], "pads": [7] * 4}, [gs.Variable("x")], [gs.Variable("y")]
    )
    with pytest.raises(Refused, match="a window of MaxPool 'n' may hold nothing but padding"):
        require_filled_windows(far)
