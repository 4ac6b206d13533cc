"""Folding is a function: of the model alone, not of the process it runs in, and at rest after one call."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.folding.driver import fold
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
FILES = """
import hashlib, sys, tempfile
from pathlib import Path
from bnfold.folding.pipeline import Options, fold_file
for path in sys.argv[1:]:
    with tempfile.TemporaryDirectory() as folder:
        fold_file(Path(path), Path(folder, "o.onnx"), Options(verify="off"))
        made = (Path(folder, name) for name in ("o.onnx", "o.onnx.data"))
        print(*(hashlib.sha256(file.read_bytes()).hexdigest() for file in made if file.exists()))
"""
OTHER = os.environ.get("BNFOLD_OTHER_PYTHON", "")  # another interpreter with bnfold and the same onnx and numpy
MORE = os.environ.get("BNFOLD_OTHER_MODELS", "").split()  # files to fold with both
PROGRAM = """
import hashlib, sys
from bnfold.folding.driver import fold
for path in sys.argv[1:]:
    print(hashlib.sha256(fold(path).model.SerializeToString()).hexdigest())
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for i, name in enumerate(SCENARIOS):
        onnx.save(GRAPHS[name].model(), folder / f"{i}.onnx")
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


@pytest.fixture(scope="module")
def files(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The models, one with data of its own file, and one with a weight of more numbers than one thread rounds."""
    folder = tmp_path_factory.mktemp("files")
    rng, width = np.random.default_rng(0), 600
    large = {"w": rng.standard_normal((width, width)), **{k: rng.random(width) + 0.5 for k in "gbmv"}}
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,W] x) => (float[1,W] y)'
        "{ c = Gemm (x, w) y = BatchNormalization (c, g, b, m, v) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in large.items())
    onnx.save(model, folder / "large.onnx")
    onnx.save(model, folder / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=0)
    return [*paths, folder / "large.onnx", folder / "outside.onnx"]


def digests(files: list[Path], python: str = sys.executable, **environment: str) -> list[str]:
    """What a fresh process folds each file to, data files included."""
    done = subprocess.run(
        [python, "-c", FILES, *map(str, files)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def written(files: list[Path]) -> list[str]:
    found = digests(files, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", BNFOLD_THREADS="1", PYTHONHASHSEED="0")
    assert len(set(found)) == len(files)
    assert len(found[-1].split()) == 2
    return found


@pytest.mark.parametrize("threads", ["2", "3"])
def test_the_same_files_whatever_the_number_of_threads(files, written, threads):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BNFOLD_THREADS")
    assert digests(files, **dict.fromkeys(names, threads), PYTHONHASHSEED=threads) == written


@pytest.mark.skipif(not OTHER, reason="BNFOLD_OTHER_PYTHON names no other interpreter")
def test_the_same_files_whatever_the_version_of_python(files, written):
    ask = "import sys, onnx, numpy; print(sys.version_info[:2], onnx.__version__, numpy.__version__)"
    said = [subprocess.check_output([python, "-c", ask], text=True) for python in (sys.executable, OTHER)]
    assert said[0] != said[1], "the other interpreter is of the same version"
    assert said[0].split()[2:] == said[1].split()[2:], "onnx and numpy must be the same"
    assert digests(files, OTHER, PYTHONHASHSEED="7") == written
    more = [Path(path) for path in MORE]
    assert digests(more, OTHER) == digests(more)
