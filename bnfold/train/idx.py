"""The idx files of MNIST and Fashion-MNIST: http://yann.lecun.com/exdb/mnist, "FILE FORMATS"."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelProblem
from .sources import CACHE, Arrays, download, image_label_pairs

UNSIGNED_BYTES = 8
MNIST_CLASSES = 10


def load_idx(name: str, data_dir: Path | None) -> tuple[Arrays, Arrays]:
    """Train and test (images (N, 1, H, W), labels) of torchvision's data set `name`, from `data_dir` or downloaded."""
    if data_dir is None:
        download(name)
    folders = [data_dir, data_dir / name / "raw"] if data_dir else [CACHE / name / "raw"]
    return _part(folders, "train"), _part(folders, "t10k")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array in one idx file, gzipped or not; ModelProblem, naming the file, if it is damaged."""
    raw = _bytes(path)
    rank = raw[3] if len(raw) >= 4 else 0
    header = 4 + 4 * rank
    if raw[:3] != bytes([0, 0, UNSIGNED_BYTES]) or len(raw) < header:
        raise ModelProblem(f"{path} is not an idx file of bytes", "Fetch it again.")
    shape = struct.unpack(f">{rank}I", raw[4:header])
    whole = header + prod(shape)
    if len(raw) != whole:
        raise ModelProblem(f"{path} is damaged: {len(raw)} bytes, its header says {whole}", "Fetch it again.")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _part(folders: list[Path], part: str) -> Arrays:
    image_file, label_file = (_find(folders, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(image_file), read_idx(label_file)
    _require_rank(image_file, images, 3)
    _require_rank(label_file, labels, 1)
    return image_label_pairs(images[:, None], labels, MNIST_CLASSES, label_file)


def _find(folders: list[Path], stem: str) -> Path:
    candidates = [folder / f"{stem}{suffix}" for folder in folders for suffix in (".gz", "")]
    present = [path for path in candidates if os.path.isfile(path)]
    if not present:
        raise ModelProblem(
            f"no file {candidates[0]}",
            "--data-dir names the folder of the four idx files; without it they are downloaded.",
        )
    return present[0]


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ModelProblem(f"{path} cannot be read: {error}", "Fetch it again.") from error


def _require_rank(path: Path, array: npt.NDArray[Any], rank: int) -> None:
    if array.ndim != rank:
        raise ModelProblem(f"{path} holds an array of rank {array.ndim}, not {rank}", "Are the files swapped?")
