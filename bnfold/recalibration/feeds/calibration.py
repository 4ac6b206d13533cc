"""Calibration data as feeds: dictionaries of arrays whose first axis counts rows, brought to what a model takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelProblem, UsageProblem
from ...train.pixels import Normalization
from . import pictures
from .arrays import ROWS_AT_ONCE, Archive
from .card import Array, Card, Input, fitting, require_range

Feed = dict[str, Array]
SHUFFLE = 0  # seed of the order of image files: their names sort them by class


def from_path(path: Path, card: Card, any_range: bool = False) -> Iterator[Feed]:
    """The feeds in FILE.npz, or in a folder of images. Raises ModelProblem where they do not fit the model."""
    return _from_folder(path, card) if os.path.isdir(path) else _from_archive(path, card, any_range)


def from_batches(batches: Iterable[Any], card: Card) -> Iterator[Feed]:
    """The feeds in `batches`: dictionaries by input name or, for a model with one input, arrays."""
    for i, batch in enumerate(batches):
        feed = batch if isinstance(batch, Mapping) else {card.names[0]: batch}
        if set(feed) != set(card.names) or (not isinstance(batch, Mapping) and len(card.names) > 1):
            raise UsageProblem(f"batch {i} is for {', '.join(feed)}", f"The inputs: {', '.join(card.names)}.")
        yield {x.name: fitting(x, np.asarray(feed[x.name]), f"batch {i}") for x in card.inputs}


def _from_archive(path: Path, card: Card, any_range: bool) -> Iterator[Feed]:
    archive = Archive(path)
    archive.require(card.names, optional=("labels",))
    if not len(archive):
        raise ModelProblem(f"{path} holds no samples", "Give at least two.")
    pieces = [_pieces(archive, value, card, any_range) for value in card.inputs]
    for parts in zip_longest(*pieces):
        yield {name: part for name, part in zip(card.names, parts, strict=True) if part is not None}


def _pieces(archive: Archive, value: Input, card: Card, any_range: bool) -> Iterator[Array]:
    """An input, so many rows at a time that all inputs have as many pieces."""
    for piece in archive.pieces(value.name, ROWS_AT_ONCE * (value.rows or 1)):
        if piece.dtype == np.uint8 and card.normalization and value.kind.kind == "f" and piece.ndim == 4:
            require_channels_first(piece, card.normalization, archive.path)
            yield fitting(value, card.normalization(piece), archive.path)
            continue
        ready = fitting(value, piece, archive.path)
        if not any_range:
            require_range(card, ready, archive.path)
        yield ready


def require_channels_first(images: Array, normalization: Normalization, where: object) -> None:
    """Raises ModelProblem for images whose channels are the last axis."""
    channels = (1, 3) if len(normalization.mean) == 1 else (len(normalization.mean),)
    if images.shape[1] not in channels and images.shape[3] in channels:
        raise ModelProblem(
            f"{where} holds images of {list(images.shape[1:])}, channels last; they are read as [C, H, W]",
            "Save them as images.transpose(0, 3, 1, 2).",
        )


def _from_folder(path: Path, card: Card) -> Iterator[Feed]:
    """Images with their shorter side brought to the size of the model, and cut to it at the centre."""
    value, pixels, (channels, height, width) = card.image(), card.pixels(path), card.image_shape
    files = pictures.files(path)
    for i in np.random.default_rng(SHUFFLE).permutation(len(files))[: card.images.images]:
        image = pictures.read_picture(files[i], channels)
        if card.images.resize:
            image = pictures.shorter_to(image, card.images.resize)
        image = pictures.middle(pictures.covering(image, height, width), height, width)
        yield {value.name: fitting(value, card.laid_out(pixels(image[None].astype(np.float32))), files[i])}
