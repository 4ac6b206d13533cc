"""Functions of single numbers, as two regions compute them: compared on numbers of every kind.

For float16 those are all there are. For float32 and float64 they are some of every sign and exponent, the constants of
both regions, and the neighbouring numbers between which a comparison with one of these constants has another result,
in any tensor of either region: where two such functions differ, they do on one of these, but for rounding. For integers
they are powers of two, the constants, and the neighbours of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from ...runtime.protos import Array, called
from ..float64.floating import is_floating, roundoff

OPERATORS = frozenset(
    ["Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos"]
    + ["Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"]
    + ["HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min"]
    + ["Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink"]
    + ["Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh"]
    + ["ThresholdedRelu", "Where", "Xor"]
)
MANTISSAS = 8  # of each sign and exponent, and the last one
PARTS = 8  # an interval in which something changes is cut into so many
MOST_INTERVALS, MOST_COLUMNS = 1 << 12, 1 << 11
FAR = 64.0  # numbers up to which a result may be off by roundoffs of the number itself, as Gelu's left end is
ROUNDOFFS = 16.0
RunBoth = Callable[[Array], Sequence[Mapping[str, Array]]]  # numbers, first axis -> all tensors of both regions


class Difference(NamedTuple):
    """Where two regions differ, in words; nothing if they do not.

    It is `within_reach` where rounding explains no part of it, and A's result and the square of the number are finite
    numbers of its type: data may be such.
    """

    words: str = ""
    within_reach: bool = False


def is_elementwise(node: onnx.NodeProto) -> bool:
    return called(node) in OPERATORS


def may_stop(node: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    """Whether a division of integers has no result for some: by zero, or of the smallest number by -1."""
    divisor = constants.get(node.input[1]) if called(node) in ("Div", "Mod") else np.ones(())
    return divisor is None or bool((divisor < 1).any())


def first_difference(run: RunBoth, constants: Sequence[Array], output: str, kind: np.dtype[Any]) -> Difference:
    """A number of which two regions, A's and B's, make another `output`; of several one that is within reach."""
    shape = np.broadcast_shapes(*(each.shape for each in constants))
    if np.prod(shape) > MOST_COLUMNS:
        return Difference("there are too many constants to compare A and B number by number")

    def states(numbers: Array) -> Array:
        """For each number what is at least as large as each constant, one row a number."""
        tensors = [value for tensors in run(_column(numbers, shape)) for value in tensors.values()]
        rows = [row.reshape(len(numbers), -1) for value in tensors for row in _compared(value, constants)]
        return np.concatenate(rows, axis=1)

    numbers = _of_every_kind(kind, constants)
    is_cut = kind.kind not in "iu" and kind.itemsize > 2
    jumps = _jumps(numbers[np.isfinite(numbers)], states) if is_cut else numbers[:0]
    numbers = _column(numbers if jumps is None else np.concatenate([numbers, jumps]), shape)
    known = _first(numbers, *(np.asarray(each[output]) for each in run(numbers)))
    if jumps is None and not known.words:
        return Difference("there are too many jumps to compare A and B number by number")
    return known


def _first(numbers: Array, first: Array, second: Array) -> Difference:
    """The first difference of what A and B make of numbers."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return Difference("A and B make tensors of another type or shape")
    differ = ~_agree(numbers, first, second, ROUNDOFFS, FAR)
    if not differ.any():  # of no elements, too
        return Difference()
    unit = roundoff(first.dtype) if is_floating(first) else 1.0
    near = _agree(numbers, first, second, 1 / math.sqrt(unit), math.inf)
    reached = differ & ~near & _is_usual(numbers) & _is_usual(first, 1)
    at = np.unravel_index(int(np.argmax(reached if reached.any() else differ)), differ.shape)
    return Difference(f"of {numbers[at]!s} A makes {first[at]!s}, B {second[at]!s}", bool(reached.any()))


def _is_usual(numbers: Array, power: int = 2) -> Array:
    """Whether numbers to some power are finite in their type, and as exact as others."""
    if not is_floating(numbers):
        return np.ones(numbers.shape, bool)
    known, x = np.finfo(numbers.dtype), np.abs(numbers)
    ends = float(known.tiny) ** (1 / power), float(known.max) ** (1 / power)
    return np.asarray(np.isfinite(x) & ((x == 0) | ((x >= ends[0]) & (x <= ends[1]))))


def _column(numbers: Array, shape: tuple[int, ...]) -> Array:
    """The numbers along a new first axis, each for all elements of `shape`."""
    return np.broadcast_to(numbers.reshape(-1, *(1 for _ in shape)), (len(numbers), *shape)).copy()


def _of_every_kind(kind: np.dtype[Any], constants: Sequence[Array]) -> Array:
    """Of a type of 16 bits all numbers; of others some of each sign and exponent, and all constants; NaN is one."""
    if kind.kind in "iu":
        return _integers(kind, constants)
    bits = np.dtype(f"u{kind.itemsize}")
    if kind.itemsize == 2:
        return np.arange(1 << 16, dtype=bits).view(kind)
    stored = np.finfo(kind).nmant
    heads = np.arange(1 << (8 * kind.itemsize - stored), dtype=bits)[:, None] << bits.type(stored)
    mantissas = np.arange(MANTISSAS + 1, dtype=bits) * bits.type((1 << stored) // MANTISSAS)
    mantissas[-1] = (1 << stored) - 1
    known = np.concatenate([np.ravel(each).astype(kind) for each in constants]) if constants else np.zeros(1, kind)
    near = [np.nextafter(known, kind.type(end)) for end in (-np.inf, np.inf)]
    return np.unique(np.concatenate([(heads | mantissas).ravel().view(kind), known, -known, *near]))


def _integers(kind: np.dtype[Any], constants: Sequence[Array]) -> Array:
    """Powers of two, the smallest and the largest number, all constants, and what is next to each of these."""
    ends = np.iinfo(kind)
    known = {0, ends.min, ends.max, *(1 << bit for bit in range(8 * kind.itemsize - 1))}
    known.update(int(each) for values in constants for each in values.ravel() if np.isfinite(each))
    near = {sign * each + step for each in known for sign in (1, -1) for step in (-1, 0, 1)}
    return np.array(sorted(each for each in near if ends.min <= each <= ends.max), kind)


def _compared(value: Array, constants: Sequence[Array]) -> Iterator[Array]:
    if value.dtype == bool:
        yield value
        return
    for constant in (np.zeros(()), *constants):
        yield np.asarray(value >= constant)


def _jumps(numbers: Array, states: Callable[[Array], Array]) -> Array | None:
    """Both neighbours wherever a state changes between two of the sorted numbers; None for too many changes."""
    places, jumps = _places(numbers), [numbers[:0]]
    known, steps = states(numbers), np.arange(PARTS + 1)
    changes = (known[1:] != known[:-1]).any(axis=1)
    low, high = places[:-1][changes], places[1:][changes]
    while len(low):
        if len(low) > MOST_INTERVALS:
            return None
        parts, rest = np.divmod((high - low)[:, None], PARTS)
        between = low[:, None] + parts * steps + rest * steps // PARTS
        known = states(_at(between.ravel(), numbers.dtype)).reshape(*between.shape, -1)
        changes = (known[:, 1:] != known[:, :-1]).any(axis=2)
        low, high = between[:, :-1][changes], between[:, 1:][changes]
        jumps += [_at(each, numbers.dtype) for each in (low, high)]
        low, high = low[high - low > 1], high[high - low > 1]
    return np.unique(np.concatenate(jumps))


def _places(numbers: Array) -> Array:
    """Where numbers stand among all of their type, in order: neighbours differ by 1."""
    bits = numbers.view(f"i{numbers.itemsize}").astype(np.int64)
    return np.where(bits < 0, np.iinfo(f"i{numbers.itemsize}").min - bits, bits)


def _at(places: Array, kind: np.dtype[Any]) -> Array:
    """The numbers that stand there."""
    whole = np.dtype(f"i{kind.itemsize}")
    return np.where(places < 0, np.iinfo(whole).min - places, places).astype(whole).view(kind)


def _agree(numbers: Array, first: Array, second: Array, roundoffs: float, far: float) -> Array:
    """Whether results are the same up to so many roundoffs, of numbers up to `far` also of the number itself.

    What overflows counts as the largest number, and what one form makes of infinity as the same if the other form is
    undefined there, as 0 * x is.
    """
    if not is_floating(first):
        return np.asarray(first == second)
    with np.errstate(all="ignore"):
        most = float(np.finfo(first.dtype).max)
        a, b = (np.clip(each.astype(np.float64), -most, most) for each in (first, second))
        x = np.abs(numbers.astype(np.float64))
        usual = (x > 1 / FAR) & (x <= FAR)
        gain = min(1.0, float(np.max(np.abs(a) / x, where=usual & np.isfinite(a), initial=0.0)))
        scale = np.maximum(np.abs(a), gain * np.minimum(np.nan_to_num(x, nan=0.0), far))
        close = np.abs(a - b) <= roundoffs * roundoff(first.dtype) * scale + float(np.finfo(first.dtype).tiny)
    undefined = np.isnan(a) & np.isnan(b) | (np.isnan(a) | np.isnan(b)) & np.isinf(x)
    return np.asarray(close | undefined)
