"""Labelled data for evaluation: a data set by its name, arrays in .npz, or a folder with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ModelProblem
from ...train.pixels import Normalization
from ..feeds import pictures
from ..feeds.arrays import Archive
from ..feeds.calibration import SHUFFLE
from ..feeds.card import Array, Card

LABELS = "labels"
SAMPLES_AT_ONCE = 64  # samples at a time
SampleBatch = dict[str, Sequence[Array]]  # by input name; samples may be images of different sizes


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples and their classes. Pixels are yet to be normalized: as the model says or else by `normalization`."""

    name: str
    labels: npt.NDArray[np.int64]
    batches: Callable[[], Iterator[SampleBatch]]
    pixels: bool
    classes: tuple[str, ...] = ()
    normalization: Normalization | None = None


def labelled(data: str, data_dir: Path | None, card: Card) -> Labelled:
    """The data that `data` names. Raises ModelProblem, or UsageProblem for an unknown name."""
    path = Path(data)
    if path.suffix == ".npz":
        return _from_archive(path, card)
    from ...train.data import DATASETS

    if os.path.isdir(path) and data not in DATASETS:
        return _from_folder(path, card)
    return _by_name(data, data_dir, card)


def _by_name(name: str, data_dir: Path | None, card: Card) -> Labelled:
    from ...train.data import load_dataset

    data = load_dataset(name, data_dir)
    images, key = data.test.images, card.image().name

    def batches() -> Iterator[SampleBatch]:
        for start in range(0, len(images), SAMPLES_AT_ONCE):
            yield {key: images[start : start + SAMPLES_AT_ONCE]}  # type: ignore[dict-item]

    return Labelled(name, data.test.labels, batches, True, data.classes, data.normalization)


def _from_archive(path: Path, card: Card) -> Labelled:
    archive = Archive(path)
    if LABELS not in archive.headers:
        there = ", ".join(archive.headers) or "nothing"
        raise ModelProblem(
            f"{path} has no '{LABELS}', but {there}", "Save the class of each sample as an array 'labels'."
        )
    archive.require(card.names, optional=(LABELS,))
    _require_one_label_each(archive)

    def batches() -> Iterator[SampleBatch]:
        for pieces in zip(*(archive.pieces(name, SAMPLES_AT_ONCE) for name in card.names), strict=True):
            yield dict(zip(card.names, pieces, strict=True))

    floating = card.inputs[0].kind.kind == "f"
    pixels = len(card.names) == 1 and floating and archive.headers[card.names[0]].kind == np.uint8
    return Labelled(str(path), archive.whole(LABELS).astype(np.int64), batches, pixels)


def _require_one_label_each(archive: Archive) -> None:
    stored, lengths = archive.headers[LABELS], {(*header.shape, 0)[0] for header in archive.headers.values()}
    if len(stored.shape) != 1 or stored.kind.kind not in "iu" or len(lengths) > 1 or lengths == {0}:
        counts = ", ".join(f"{name} {list(header.shape)} {header.kind}" for name, header in archive.headers.items())
        raise ModelProblem(
            f"{archive.path} must hold as many samples as whole-number labels: {counts}",
            "Give one label for each sample.",
        )


def _from_folder(path: Path, card: Card) -> Labelled:
    value = card.image()
    files = [file for file in pictures.files(path) if len(file.relative_to(path).parts) > 1]
    if not files:
        raise ModelProblem(
            f"{path} has no sub-folders of images", "Give PATH/CLASS/image.png: the folder names the class."
        )
    names = tuple(sorted({file.relative_to(path).parts[0] for file in files}))
    order = card.classes or names
    unknown = [name for name in names if name not in order]
    if unknown:
        raise ModelProblem(
            f"{path} has the class {unknown[0]!r}, which the model does not know", f"It knows: {', '.join(order)}."
        )
    if card.images.images:
        chosen = np.random.default_rng(SHUFFLE).permutation(len(files))[: card.images.images]
        files = [files[i] for i in sorted(chosen)]
    labels = np.array([order.index(file.relative_to(path).parts[0]) for file in files], np.int64)

    def batches() -> Iterator[SampleBatch]:
        for start in range(0, len(files), SAMPLES_AT_ONCE):
            yield {value.name: [_picture(file, card) for file in files[start : start + SAMPLES_AT_ONCE]]}

    return Labelled(str(path), labels, batches, True, order)


def _picture(file: Path, card: Card) -> Array:
    """An image as it is stored; where a size is stated, brought to it, and its middle cut out."""
    channels, height, width = card.image_shape
    image = pictures.read_picture(file, channels)
    if card.images.resize is None:
        return image
    return pictures.middle(
        pictures.covering(pictures.shorter_to(image, card.images.resize), height, width), height, width
    )


def require_labels(data: Labelled, classes: int) -> None:
    """Raises ModelProblem for a label that is no class of the model."""
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= classes:
        raise ModelProblem(
            f"{data.name} has labels from {low} to {high}; the model has classes 0 to {classes - 1}",
            "Are model and data for the same classes?",
        )


def ready(images: Sequence[Any], normalization: Normalization | None) -> Array:
    """Crops (N, C, H, W) as the network takes them."""
    stacked = np.concatenate([*images])
    return stacked if normalization is None else normalization(stacked)
