"""Folding is a function: of the model alone, not of the process it runs in, and at rest after one call."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bnfold import fold
from tests.build import build
from tests.data import data_path
from tests.test_scenarios import GRAPHS

SCENARIOS = (
    "concat of convs, bn",
    "sum of convs, bn",
    "bn, two convs",
    "one weight, two convs, two bns",
    "matmul, reshape, bn, reshape",
    "bias expanded in the graph",
)
REAL = ("ppocr_v2_cls", "fsanet_1x1")  # Constant nodes; several inputs and branches
PROGRAM = """
import hashlib, sys
from bnfold import fold
for path in sys.argv[1:]:
    print(hashlib.sha256(fold(path).model.SerializeToString()).hexdigest())
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for i, name in enumerate(SCENARIOS):
        onnx.save(build(*GRAPHS[name][:4]), folder / f"{i}.onnx")
    return [*sorted(folder.iterdir()), *(data_path("onnx", f"{name}.onnx") for name in REAL)]


@pytest.fixture(scope="module")
def here(paths: list[Path]) -> list[bytes]:
    """What this process folds the models to."""
    return [fold(path).model.SerializeToString() for path in paths]


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_same_bytes_whatever_the_hash_seed(paths, here, seed):
    """Fresh processes: the order of sets of strings, and of objects, differs from one to the next."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [hashlib.sha256(model).hexdigest() for model in here]


def test_folding_twice_is_folding_once(paths, here):
    for path, once in zip(paths, here, strict=True):
        assert once != onnx.load(path).SerializeToString(), "nothing was folded"
        again = fold(onnx.ModelProto.FromString(once))
        assert again.folded == ()
        assert again.model.SerializeToString() == once


def test_folding_the_same_object_again_gives_the_same(paths, here):
    """A model is not spent by being folded, and no state is left from one call to the next."""
    for path, once in zip(paths, here, strict=True):
        model = onnx.load(path)
        assert [fold(model).model.SerializeToString() for _ in range(2)] == [once, once]
