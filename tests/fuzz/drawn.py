"""Inputs for the targets: our own mutations, drawn by hypothesis or between libFuzzer's own."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import seeds
from tests.fuzz.mutations import mutated
from tests.fuzz.wires import damaged, scrambled
from tests.graphs import models

ROUND = 200  # examples of hypothesis until it starts again with another seed


def changed(data: bytes, number: int, mutate: Callable[[bytes, int], bytes], most: int) -> bytes:
    """One step of a coverage-guided fuzzer: most often a change of the model, else of its wire format, else of bytes."""
    draw = Random(number)
    way = draw.random()
    try:
        if way < 0.7:
            return mutated(draw, data, draw.choice(seeds.corpus()))
        if way < 0.9:
            return scrambled(draw, data)
    except (DecodeError, IndexError):
        return damaged(draw, data)
    return mutate(data, most)


def found(draw: Random, data: bytes, other: bytes) -> bytes:
    """A model changed, or its wire format, or both."""
    way = draw.random()
    data = mutated(draw, data, other) if way < 0.8 else data
    return scrambled(draw, data) if way > 0.7 else data


networks = models().map(lambda model: seeds.in_single(model).SerializeToString(deterministic=True))
stored = st.sampled_from(seeds.corpus())
inputs = st.builds(found, st.integers(0, 2**64 - 1).map(Random), stored | stored | networks, stored)


def exhaust(go: Callable[[bytes], bool], start: int) -> None:
    """Draw inputs until `go` has had enough."""
    more = True

    def one(data: bytes) -> None:
        nonlocal more
        more = more and go(data)

    while more:
        quiet = settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(start)(settings(quiet, phases=[Phase.generate])(given(inputs)(one)))()
        start += 1
