"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

UNITS = "K, M, G, T (also KB, ..) are powers of 1000, KiB, MiB, GiB, TiB powers of 1024."
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?)?", re.IGNORECASE)
_POWERS = (" ", "K", "M", "G", "T")
LARGEST_SIZE = float(1 << 63)  # which is too much for anything


def parse(text: str) -> float | None:
    """`4GB` and `4G` are 4*10^9, `4GiB` is 4*2^30, a bare number is itself; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        return None
    number, prefix, binary = match.groups()
    unit = float(1024 if binary else 1000)
    return min(float(number) * unit ** _POWERS.index((prefix or " ").upper()), LARGEST_SIZE)


def words(size: float) -> str:
    """`1.5 GB`: three digits, and a power of 1000 as the unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 100 * factor else f"{size / factor:.0f} {unit}"
    return f"{size:.0f} bytes"
