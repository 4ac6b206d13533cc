"""The moments of a whole are those of its parts, however it is cut and in whatever order."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.algebra.moments import Moments

RNG = np.random.default_rng(0)


def cut(values, size):
    return [Moments.of(values[i : i + size]) for i in range(0, len(values), size)]


@pytest.mark.parametrize("shape", [(500, 3), (500, 3, 4), (100, 3, 4, 5), (50, 3, 2, 3, 4)])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_parts_agree_with_the_whole(shape, size):
    values = RNG.normal([[5.0], [-1e-3], [1e4]], [[1.0], [2.0], [3.0]], (shape[0], 3, int(np.prod(shape[2:]))))
    values = values.reshape(shape).astype(np.float32)
    found = Moments.merged(cut(values, size))
    axes = (0, *range(2, len(shape)))
    assert found.count == values.size // 3
    np.testing.assert_allclose(found.mean, values.mean(axes, dtype=np.float64), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, values.astype(np.float64).var(axes, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(found.biased_variance, values.astype(np.float64).var(axes), rtol=1e-12)


def test_the_same_bits_after_the_cast_for_any_batch_size_and_order():
    values = RNG.normal(3, 2, (1000, 64, 3, 3)).astype(np.float32)
    orders = (values, values[::-1], RNG.permutation(values))
    all_found = [Moments.merged(cut(order, size)) for order in orders for size in (7, 64, 777, 1000)]
    for name in ("mean", "variance"):
        bits = {getattr(found, name).astype(np.float32).tobytes() for found in all_found}
        assert len(bits) == 1, name


def test_a_large_mean_costs_no_digits():
    values = (1e8 + RNG.normal(0, 1, (1000, 1))).astype(np.float64)
    found = Moments.merged(cut(values, 10))
    np.testing.assert_allclose(found.variance, (values - 1e8).var(axis=0, ddof=1), rtol=1e-8)


def test_a_constant_channel_has_variance_zero():
    values = np.full((37, 2), 0.1)
    assert Moments.merged(cut(values, 5)).variance.tolist() == [0, 0]


def test_nothing_adds_nothing_and_one_value_has_no_variance():
    one = Moments.of(np.ones((1, 2)))
    assert np.isnan(one.variance).all()
    assert (one + Moments.none(2)) is one
    assert (Moments.of(np.ones((0, 2))) + one) is one
    assert Moments.of(np.ones((4, 2, 3)), axis=2).mean.shape == (3,)


def test_a_mean_far_below_the_values_has_all_its_digits():
    from fractions import Fraction

    values = RNG.normal(0, 1, (999, 3, 5)).astype(np.float32)
    values -= values.mean((0, 2), keepdims=True)
    wanted = [float(sum(map(Fraction, map(float, values[:, c].ravel()))) / 4995) for c in range(3)]
    assert max(map(abs, wanted)) < 1e-7
    for size in (1, 10, 999):
        assert Moments.merged(cut(values, size)).mean.tolist() == wanted


def test_infinite_values_have_no_moments():
    values = np.array([[1.0, np.inf], [1.0, -np.inf]])
    found = Moments.of(values) + Moments.of(values)
    assert np.isfinite(found.mean).tolist() == [True, False]
    assert np.isfinite(found.variance).tolist() == [True, False]
