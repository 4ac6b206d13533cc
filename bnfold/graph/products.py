"""Lengths known up to symbols: products of a number and of lengths that only a run knows, like 4*batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

OPEN = "?"  # how symbols begin that stand for lengths without a name
LARGEST_FACTOR = 2**62  # of a Product
MOST_SYMBOLS = 32  # in one Product
MADE_UP = "unk__"  # how those begin that onnx's inference makes up


@dataclass(frozen=True)
class Product:
    """A factor of at least 1 and one or more symbols, sorted, of which each is one length of the model.

    Two that are equal are the same number in every run. A symbol may be 0 in a run.
    """

    factor: int
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        names = ("?" if name.startswith((OPEN, MADE_UP)) else name for name in self.symbols)
        return "*".join([str(self.factor)] * (self.factor != 1) + list(names))


Dim = int | Product | None  # the length of an axis, or any other whole number; None where nothing is known of it


def symbol(name: str) -> Product:
    return Product(1, (name,))


def product(numbers: Iterable[Dim]) -> Dim:
    """The product, if it is a number, or a positive one times symbols."""
    factor, symbols = 1, list[str]()
    for number in numbers:
        if number is None:
            return None
        by, more = parted(number)
        factor *= by
        symbols += more
    return dim_of(factor, symbols)


def quotient(whole: Dim, part: Dim) -> Dim:
    """`whole` divided by `part`, where no symbol of `part` is 0; None where that does not follow."""
    if whole is None or not part:
        return None
    (of, named), (by, known) = parted(whole), parted(part)
    left = Counter(named)
    left.subtract(known)
    return dim_of(of // by, left.elements()) if of % by == 0 and min(left.values(), default=0) >= 0 else None


def may_become(part: Dim, whole: Dim) -> bool:
    """Whether `part` may still become `whole` by more factors: it has no symbol that `whole` lacks, and is less."""
    if part is None or whole is None:
        return False
    (a, few), (b, many) = parted(part), parted(whole)
    return not (few and Counter(few) - Counter(many)) and (len(few) < len(many) or a < b)


def repeats(period: int, length: Dim) -> bool:
    """Whether a length that only a run knows is a multiple of `period`, which is more than 1, in every run."""
    return isinstance(length, Product) and period > 1 and length.factor % period == 0


def parted(number: int | Product) -> tuple[int, tuple[str, ...]]:
    """Factor and symbols."""
    return (number, ()) if isinstance(number, int) else (number.factor, number.symbols)


def dim_of(factor: int, symbols: Iterable[str]) -> Dim:
    """A number or a Product; None for what is too large, which may overflow in a run, or has too many symbols."""
    named = tuple(sorted(symbols)) if factor else ()
    if abs(factor) > LARGEST_FACTOR or len(named) > MOST_SYMBOLS or (named and factor < 0):
        return None
    return Product(factor, named) if named else factor
