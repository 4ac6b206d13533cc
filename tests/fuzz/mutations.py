"""Changes to a model that no exporter makes: each takes a source of randomness, a model, and another one to take from."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from google.protobuf.message import EncodeError
from onnx import ModelProto

from tests.fuzz.gentle import GENTLE
from tests.fuzz.rough import ROUGH

LARGEST = 60_000  # bytes of a mutated model


def mutated(draw: Random, data: bytes, other: bytes) -> bytes:
    """A serialized model with one to four changes, most often all gentle ones."""
    model, donor = ModelProto.FromString(data), ModelProto.FromString(other)
    gentle = draw.random() < 0.6
    for _ in range(draw.choice((1, 1, 2, 3, 4))):
        with suppress(Exception):  # where there is nothing of the kind, or changes before have spoilt it
            draw.choice(GENTLE if gentle or draw.random() < 0.5 else ROUGH)(draw, model, donor)
    try:
        made = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        return data
    return made if len(made) <= LARGEST else data
