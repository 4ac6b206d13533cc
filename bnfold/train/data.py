"""Labelled images to train on: `load_dataset(name, folder)` gives a Dataset.

Adding a dataset is one function from a folder (or None) to a Dataset and one row in DATASETS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..display.display import counted
from ..errors import ModelProblem
from ..system.installed import need
from . import cifar, folder, idx
from .pixels import Normalization, Pixels
from .recipe import unknown

Labels = npt.NDArray[np.int64]
DIGIT_NAMES = tuple("0123456789")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
VEHICLES_AND_ANIMALS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER_PREFIX = "folder:"


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) as stored, and the index of each one's class."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: npt.NDArray[np.intp]) -> Split:
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """`train` to learn from, `test` held out; the same images in the same order on every machine."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_dataset(name: str, data_dir: Path | None) -> Dataset:
    """The dataset of this name, or `folder:PATH`; without `data_dir` it is downloaded or comes with a package.

    Raises UsageProblem for an unknown name, ModelProblem for missing or damaged files.
    """
    if name.startswith(FOLDER_PREFIX):
        return _folder(Path(name.removeprefix(FOLDER_PREFIX)))
    if name not in DATASETS:
        raise unknown("data set", name, [*DATASETS, f"{FOLDER_PREFIX}PATH"])
    return DATASETS[name](data_dir or _shared(name))


def _shared(name: str) -> Path | None:
    """The folder of a data set below the one that BNFOLD_DATA names, if it is there."""
    folder = Path(os.environ.get("BNFOLD_DATA") or os.devnull, name)
    return folder if os.path.isdir(folder) else None


def batches(size: int, count: int, seed: int, epoch: int, shuffle: str = "images") -> Iterator[npt.NDArray[np.intp]]:
    """Index batches of exactly `size` over `count` images, in an order that only `seed` and `epoch` decide.

    shuffle="batches" shuffles whole batches, which have the same images in every epoch; images that do not fill a
    last batch are then never used.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(count) if shuffle == "images" else np.random.default_rng(seed).permutation(count)
    starts = np.arange(0, count - size + 1, size)
    for start in starts if shuffle == "images" else rng.permutation(starts):
        yield order[start : start + size]


def hold_out(everything: Split, classes: tuple[str, ...], share: float = 0.2) -> tuple[Split, Split]:
    """A train and a test part with the same share of each class; always the same split."""
    rng = np.random.default_rng(0)
    test = [_sample(rng, everything.labels, i, name, share) for i, name in enumerate(classes)]
    is_test = np.zeros(len(everything), bool)
    is_test[np.concatenate(test)] = True
    return everything[np.flatnonzero(~is_test)], everything[np.flatnonzero(is_test)]


def _sample(rng: np.random.Generator, labels: Labels, label: int, name: str, share: float) -> npt.NDArray[np.intp]:
    members = rng.permutation(np.flatnonzero(labels == label))
    if len(members) < 2:
        raise ModelProblem(
            f"class {name!r} has {counted(len(members), 'image')}", "A class needs one to learn and one to test."
        )
    return members[: max(1, round(share * len(members)))]


def _digits(data_dir: Path | None) -> Dataset:
    """1797 real handwritten digits, 8x8, 17 grey levels, that come with scikit-learn."""
    need("sklearn", what="the data set digits")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    everything = Split(bunch.images[:, None].astype(np.uint8), bunch.target.astype(np.int64))
    train, test = hold_out(everything, DIGIT_NAMES)
    return Dataset(train, test, DIGIT_NAMES, Normalization.standardizing(train.images, 16))


def _mnist(data_dir: Path | None) -> Dataset:
    """Binary 28x28 images, as in section 4.1 of the paper."""
    train, test = (Split(*part) for part in idx.load_idx("MNIST", data_dir))
    return Dataset(train, test, DIGIT_NAMES, Normalization.binarizing(127))


def _fashion_mnist(data_dir: Path | None) -> Dataset:
    train, test = (Split(*part) for part in idx.load_idx("FashionMNIST", data_dir))
    return Dataset(train, test, GARMENTS, Normalization.standardizing(train.images, 255))


def _cifar10(data_dir: Path | None) -> Dataset:
    train, test = (Split(*part) for part in cifar.load_cifar(data_dir))
    return Dataset(train, test, VEHICLES_AND_ANIMALS, Normalization.standardizing(train.images, 255))


def _folder(path: Path) -> Dataset:
    classes, parts = folder.load_folder(path)
    splits = [Split(*part) for part in parts]
    train, test = splits if len(splits) == 2 else hold_out(splits[0], classes)
    return Dataset(train, test, classes, Normalization.standardizing(train.images, 255))


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
