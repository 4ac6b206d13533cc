"""Datasets: what they give, and what they say when files are missing or damaged."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from traceback import format_exception

import numpy as np
import pytest
from PIL import Image

from bnfold.errors import EnvironmentProblem, ModelProblem, UsageProblem
from bnfold.train import idx, sources
from bnfold.train.data import batches, load_dataset
from bnfold.train.pixels import Normalization
from tests.data import data_path


def test_digits_are_split_the_same_way_each_time_and_in_proportion() -> None:
    one, two = load_dataset("digits", None), load_dataset("digits", None)
    assert np.array_equal(one.test.images, two.test.images)
    assert len(one.train) + len(one.test) == 1797
    assert one.shape == (1, 8, 8)
    share = np.bincount(one.test.labels) / np.bincount(np.concatenate([one.train.labels, one.test.labels]))
    assert np.all(np.abs(share - 0.2) < 0.005)


def test_no_digit_is_in_both_parts() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits", None)
    both = np.concatenate([data.train.images, data.test.images]).reshape(1797, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, load_digits().data.astype(np.uint8)))


def test_standardized_images_have_mean_0_and_variance_1() -> None:
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 100, (50, 3, 5, 7)) + np.array([0, 50, 100]).reshape(1, 3, 1, 1)).astype(np.uint8)
    x = Normalization.standardizing(images, 255)(images).astype(np.float64)
    assert np.abs(x.mean((0, 2, 3))).max() < 1e-6
    assert np.abs(x.var((0, 2, 3)) - 1).max() < 1e-5


def test_a_constant_channel_stays_finite() -> None:
    images = np.full((4, 1, 2, 2), 7, np.uint8)
    assert np.abs(Normalization.standardizing(images, 255)(images)).max() < 1e-6


@pytest.mark.parametrize("rule", [Normalization(255, (0.1, 0.2), (0.3, 0.4)), Normalization.binarizing(127)])
def test_normalization_comes_back_from_json(rule: Normalization) -> None:
    assert Normalization.from_stored(json.loads(rule.to_json())) == rule


def test_binarized_above_the_threshold() -> None:
    x = Normalization.binarizing(127)(np.array([0, 127, 128, 255], np.uint8).reshape(1, 1, 2, 2))
    assert x.dtype == np.float32
    assert x.ravel().tolist() == [0, 0, 1, 1]


def test_batches_are_full_disjoint_and_decided_by_seed_and_epoch() -> None:
    one = list(batches(7, 30, 1, 0))
    assert [len(b) for b in one] == [7] * 4
    assert len(set(np.concatenate(one))) == 28
    assert np.array_equal(one, list(batches(7, 30, 1, 0)))
    assert not np.array_equal(one, list(batches(7, 30, 1, 1)))
    assert not np.array_equal(one, list(batches(7, 30, 2, 0)))


@pytest.mark.parametrize(("name", "near"), [("mnits", "mnist"), ("cifar", "cifar10"), ("fashion", "fashion-mnist")])
def test_an_unknown_name_has_its_nearest_in_the_hint(name: str, near: str) -> None:
    with pytest.raises(UsageProblem, match="unknown data set") as caught:
        load_dataset(name, None)
    assert near in caught.value.hint


def test_mnist() -> None:
    data = load_dataset("mnist", data_path("mnist"))
    assert data.train.images.shape == (60000, 1, 28, 28)
    assert data.test.images.shape == (10000, 1, 28, 28)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert set(np.unique(data.normalization(data.test.images))) == {0, 1}


def test_cifar10() -> None:
    data = load_dataset("cifar10", data_path("cifar10"))
    assert data.shape == (3, 32, 32)
    assert (len(data.train), len(data.test)) == (4000, 1000)
    assert data.classes[data.train.labels[0]] == "frog"
    assert np.abs(data.normalization(data.train.images).mean((0, 2, 3))).max() < 1e-3


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def little_mnist(tmp_path: Path) -> Path:
    """Twenty training and ten test images in the four files."""
    for part, size in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.zeros((size, 28, 28), np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(size, dtype=np.uint8) % 10)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_with_and_without_gz(little_mnist: Path, name: str) -> None:
    data = load_dataset(name, little_mnist)
    assert (len(data.train), len(data.test), len(data.classes)) == (20, 10, 10)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"
DAMAGE = {
    "missing": (IMAGES, None, "no file"),
    "not gzip": (IMAGES, b"hello", "cannot be read"),
    "cut gzip": (IMAGES, gzip.compress(bytes(9999))[:-20], "cannot be read"),
    "empty": (LABELS, b"", "not an idx file"),
    "cut header": (LABELS, bytes([0, 0, 8, 1, 0]), "not an idx file"),
    "another type": (LABELS, struct.pack(">BBBBI", 0, 0, 13, 1, 0), "not an idx file"),
    "short": (LABELS, struct.pack(">BBBBI", 0, 0, 8, 1, 20) + bytes(19), "is damaged"),
    "rank": (LABELS, struct.pack(">BBBBII", 0, 0, 8, 2, 20, 1) + bytes(20), "rank 2, not 1"),
    "fewer labels": (LABELS, struct.pack(">BBBBI", 0, 0, 8, 1, 3) + bytes(3), "3 labels for 20 images"),
    "label out of range": (LABELS, struct.pack(">BBBBI", 0, 0, 8, 1, 20) + bytes([10] * 20), "labels from 10 to 10"),
}


@pytest.mark.parametrize(("file", "content", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_idx_file_is_named(little_mnist: Path, file: str, content: bytes | None, words: str) -> None:
    (little_mnist / file).unlink()
    if content is not None:
        (little_mnist / file).write_bytes(content)
    with pytest.raises(ModelProblem, match=words) as caught:
        load_dataset("mnist", little_mnist)
    assert str(little_mnist / file) in str(caught.value)


def test_an_empty_data_set_is_refused(little_mnist: Path) -> None:
    write_idx(little_mnist / IMAGES, np.zeros((0, 28, 28), np.uint8))
    write_idx(little_mnist / LABELS, np.zeros(0, np.uint8))
    with pytest.raises(ModelProblem, match="0 labels for 0 images"):
        load_dataset("mnist", little_mnist)


def test_a_download_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNFOLD_DATA", raising=False)
    from torchvision import datasets

    def offline(*arguments: object, **options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://somewhere, got:\nno network")

    monkeypatch.setattr(sources, "CACHE", tmp_path)
    monkeypatch.setattr(datasets, "MNIST", offline)
    with pytest.raises(EnvironmentProblem, match="cannot be downloaded") as caught:
        load_dataset("mnist", None)
    assert "--data-dir" in caught.value.hint
    assert str(caught.value).endswith(": Error downloading train-images-idx3-ubyte.gz")
    assert caught.value.hint in format_exception(caught.value)[-1]  # what a notebook shows


def test_the_shared_folder_of_data_is_looked_into(little_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = little_mnist.parent / "shared"
    shared.mkdir()
    (shared / "mnist").symlink_to(little_mnist)
    monkeypatch.setenv("BNFOLD_DATA", str(shared))
    assert len(load_dataset("mnist", None).train) == len(load_dataset("mnist", little_mnist).train)


def test_what_torchvision_downloads_is_read(little_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNFOLD_DATA", raising=False)
    from torchvision import datasets

    def downloads(root: Path, train: bool, download: bool) -> None:
        (root / "MNIST").mkdir(exist_ok=True, parents=True)
        if not train:
            little_mnist.rename(root / "MNIST" / "raw")

    cache = little_mnist.parent / "cache"
    monkeypatch.setattr(datasets, "MNIST", downloads)
    monkeypatch.setattr(sources, "CACHE", cache)
    monkeypatch.setattr(idx, "CACHE", cache)
    assert len(load_dataset("mnist", None).train) == 20


def write_npz(path: Path, **changed: object) -> Path:
    arrays = {
        "x_train": np.zeros((4, 32, 32, 3), np.uint8),
        "y_train": np.arange(4),
        "x_test": np.zeros((2, 32, 32, 3), np.uint8),
        "y_test": np.arange(2),
    }
    np.savez(path / "cifar.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})  # type: ignore[arg-type]
    return path


BAD_CIFAR = {
    "key": ({"y_test": None}, "y_test"),
    "shape": ({"x_train": np.zeros((4, 3, 32, 32), np.uint8)}, "no uint8 images"),
    "dtype": ({"x_train": np.zeros((4, 32, 32, 3), np.float32)}, "no uint8 images"),
    "range": ({"y_train": np.array([0, 1, 2, -1])}, "labels from -1 to 2"),
    "pickle": ({"y_train": np.array([None] * 4)}, "cannot be read"),
}


@pytest.mark.parametrize(("changed", "words"), BAD_CIFAR.values(), ids=BAD_CIFAR.keys())
def test_a_bad_cifar_file_is_named(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    with pytest.raises(ModelProblem, match=words) as caught:
        load_dataset("cifar10", write_npz(tmp_path, **changed))
    assert "cifar.npz" in str(caught.value)


def test_a_cut_cifar_file_and_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="no intact CIFAR-10"):
        load_dataset("cifar10", tmp_path)
    file = write_npz(tmp_path) / "cifar.npz"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ModelProblem, match=r"cifar\.npz cannot be read"):
        load_dataset("cifar10", tmp_path)


def test_an_empty_cifar_file_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, x_test=np.zeros((0, 32, 32, 3), np.uint8), y_test=np.zeros(0, np.int64))
    with pytest.raises(ModelProblem, match="0 labels for 0 images"):
        load_dataset("cifar10", tmp_path)


def test_the_original_files_of_cifar_are_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Batches:
        def __init__(self, root: Path, train: bool) -> None:
            assert root == tmp_path
            self.data, self.targets = np.full((6, 32, 32, 3), [1, 2, 3], np.uint8), [9 if train else 4] * 6

    monkeypatch.setattr(datasets, "CIFAR10", Batches)
    data = load_dataset("cifar10", tmp_path)
    assert data.train.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert (set(data.train.labels), set(data.test.labels)) == ({9}, {4})


def draw(path: Path, grey: int, size: tuple[int, int] = (6, 4), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, grey if mode in {"L", "I;16"} else (grey, 0, 0)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Five grey images in each of two classes."""
    for i in range(5):
        draw(tmp_path / "cat" / f"{i}.png", i)
        draw(tmp_path / "dog" / f"{i}.png", 100 + i)
    return tmp_path


def test_a_folder_of_grey_images(pets: Path) -> None:
    (pets / "cat" / "notes.txt").write_text("not an image")
    data = load_dataset(f"folder:{pets}", None)
    assert data.classes == ("cat", "dog")
    assert data.shape == (1, 4, 6)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert np.array_equal(data.train.images[:, 0, 0, 0] >= 100, data.train.labels == 1)


def test_other_sizes_and_colours_are_brought_together(pets: Path) -> None:
    draw(pets / "dog" / "9.png", 200, size=(50, 70), mode="RGB")
    assert load_dataset(f"folder:{pets}", None).shape == (3, 64, 64)


def test_train_and_test_folders_are_kept_apart(pets: Path) -> None:
    for part, grey in (("train", 10), ("test", 20)):
        for name in ("cat", "dog"):
            draw(pets / "both" / part / name / "a.png", grey)
    data = load_dataset(f"folder:{pets / 'both'}", None)
    assert set(data.train.images.ravel()) == {10}
    assert set(data.test.images.ravel()) == {20}
    draw(pets / "both" / "test" / "bird" / "a.png", 1)
    with pytest.raises(ModelProblem, match="different classes"):
        load_dataset(f"folder:{pets / 'both'}", None)


def test_folders_that_cannot_be_learned_from(pets: Path) -> None:
    with pytest.raises(ModelProblem, match="no folder"):
        load_dataset(f"folder:{pets / 'nowhere'}", None)
    with pytest.raises(ModelProblem, match="0 folders of classes"):
        load_dataset(f"folder:{pets / 'cat'}", None)
    for name in ("a", "b"):
        (pets / "none" / name).mkdir(parents=True)
    with pytest.raises(ModelProblem, match="has no images"):
        load_dataset(f"folder:{pets / 'none'}", None)
    (pets / "none").rename(pets.parent / "none")
    draw(pets / "bird" / "only.png", 1)
    with pytest.raises(ModelProblem, match="'bird' has 1 image"):
        load_dataset(f"folder:{pets}", None)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut"])
def test_a_corrupt_image_is_named(pets: Path, content: bytes | None) -> None:
    file = pets / "cat" / "0.png"
    file.write_bytes(file.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ModelProblem, match="not a readable image") as caught:
        load_dataset(f"folder:{pets}", None)
    assert str(file) in str(caught.value)


def test_deep_images_are_not_clipped_silently(pets: Path) -> None:
    draw(pets / "cat" / "0.png", 3000, mode="I;16")
    with pytest.raises(ModelProblem, match="more than 8 bits"):
        load_dataset(f"folder:{pets}", None)
