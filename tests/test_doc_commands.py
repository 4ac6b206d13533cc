"""Every command of README.md, docs/ and other READMEs is run, or listed with the reason (tests/doc_commands.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.folding.driver import fold
from bnfold.runtime.doctor import examine
from bnfold_cli.main import COMMANDS
from tests import doc_commands
from tests.doc_commands import LONG, NOT_RUN, PAGES, SHORTER, Command, commands, usage
from tests.shape_of_the_code import ROOT
from tests.test_evaluate import classifier
from tests.test_readme import SLOW

ALL = [command for page in PAGES for command in commands(page)]
PICTURES = 20
CODES = {"cuda": 4}  # where there is no GPU, what needs one says so


def is_run(command: Command) -> bool:
    """Whether it is run here: blocks of samples are by test_readme.py."""
    measures = command.text.startswith("python -m tests.")
    elsewhere = command.page.startswith("samples/") and (command.block or command.words[0] != "bnfold")
    known = command.words[0] in ("bnfold", "python") and not elsewhere
    return known and not (measures or command.why_not or command.is_a_name)


RUN = [command for command in ALL if is_run(command)]
EACH = {page: [c for c in RUN if c.block and c.page == page] for page in dict.fromkeys(c.page for c in RUN if c.block)}


def begins_another(page: str) -> bool:
    """Whether its commands are the first ones of another page, too."""
    own = [c.text for c in EACH[page]]
    return any([c.text for c in EACH[other]][: len(own)] == own for other in EACH if other != page)


TYPED = {page: each for page, each in EACH.items() if not begins_another(page)}
SAID = {c.text: c for c in RUN if not c.block and c.text not in {typed.text for typed in RUN if typed.block}}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files under the names that pages use."""
    folder = tmp_path_factory.mktemp("staged")
    original = classifier()
    folded = fold(original).model
    for name in ("m.onnx", "model.onnx", "a.onnx", "A", "levit_128s.onnx", "repvgg.onnx"):
        onnx.save(original, folder / name)
    for name in ("b.onnx", "B", "levit_128s.folded.onnx", "repvgg.folded.onnx"):
        onnx.save(folded, folder / name)
    (folder / "models/sub").mkdir(parents=True)
    onnx.save(original, folder / "models/sub/one.onnx")
    (folder / "samples").symlink_to(ROOT / "samples")
    data(folder)
    subprocess.run(
        [sys.executable, ROOT / "samples/01_fold_a_model/fold_a_model.py"], cwd=folder, check=True, capture_output=True
    )
    return folder


def data(folder: Path) -> None:
    """Random pictures, as arrays with labels and as files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 64)
    arrays = {"X": rng.normal(size=(64, 3, 16, 16)).astype(np.float32), "labels": labels}
    np.savez(folder / "test.npz", **arrays)
    np.savez(folder / "calibration.npz", X=fitting(folder / "m.onnx"))
    (folder / "inputs").mkdir()
    np.savez(folder / "inputs/mine.npz", X=arrays["X"][:2])
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"pictures/{number}.png")


def fitting(path: Path) -> np.ndarray:
    """Data; the statistics that the model at `path` stores become theirs, as far as a check is concerned."""
    import bnfold

    x = np.random.default_rng(1).normal(size=(256, 3, 16, 16)).astype(np.float32)
    new = bnfold.recalibrate(path, [x]).model
    for name in ("m.onnx", "model.onnx"):
        onnx.save(new, path.parent / name)
    return x


def copied(staged: Path, folder: Path) -> Path:
    return shutil.copytree(staged, folder, symlinks=True)


def typed(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a command does in bash, in a home of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {
        "PATH": path,
        "HOME": str(folder),
        "SHELL": "/bin/bash",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(["bash", "-c", text], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)


def expected(command: Command) -> int:
    needs_gpu = "--ep cuda" in command.text and not examine("cuda").works
    return CODES["cuda"] if needs_gpu else 0


def try_out(command: Command, folder: Path) -> None:
    done = typed(command.shorter, folder)
    assert done.returncode == expected(command), f"{command.shorter}\n{done.stderr[-1000:]}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", TYPED)
def test_the_commands_in_blocks_of_a_page_run_one_after_another(page: str, staged: Path, tmp_path: Path):
    folder = copied(staged, tmp_path / "here")
    for command in TYPED[page]:
        try_out(command, folder)


@pytest.mark.parametrize("text", SAID)
def test_a_command_in_a_sentence_runs(text: str, staged: Path, tmp_path: Path):
    try_out(SAID[text], copied(staged, tmp_path / "here"))


def modules() -> list[str]:
    return sorted({" ".join(c.text.split()) for c in ALL if c.text.startswith("python -m tests.")})


@pytest.mark.parametrize("page", ["docs/api.md", "docs/faq.md"])  # that of README.md, docs/json.md: in their own tests
def test_the_python_of_a_page_runs(page: str, staged: Path, tmp_path: Path):
    here = copied(staged, tmp_path / "here")
    for kind, body in doc_commands.FENCE.findall((ROOT / page).read_text(encoding="utf-8")):
        if kind == "py":
            (here / "page.py").write_text(body, encoding="utf-8")
            done = typed("python -W error::DeprecationWarning page.py", here)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", modules())
def test_a_measurement_is_there_and_knows_its_options(text: str):
    _, _, module, *rest = text.split()
    assert [word for word in rest if word.startswith("--") and word not in usage(module)] == []


@pytest.mark.parametrize(
    "command", [c for c in ALL if c.words[0] == "bnfold" and c.is_a_name], ids=lambda c: f"{c.page}-{c.text}"
)
def test_the_name_of_a_command_is_one(command: Command):
    assert command.words[1] in COMMANDS or command.words[1].startswith("-")


def test_every_command_is_run_or_has_a_reason_not_to_be():
    """Of samples, test_readme.py runs the blocks."""
    here = {command.text for command in RUN}
    measures = {command.text for command in ALL if command.text.startswith("python -m tests.")}
    of_samples = {command.text for command in ALL if command.block and command.page.startswith("samples/")}
    rest = [c for c in ALL if c.text not in here | measures | of_samples and not (c.why_not or c.is_a_name)]
    assert [c.text for c in rest if not c.text.startswith(tuple(LONG))] == []


def test_no_exception_is_idle():
    """Each reason for not running something is about something that is there."""
    texts = [command.text for command in ALL]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)] == []
    assert [start for start in LONG if not any(text.startswith(start) for text in texts)] == []
    assert [long for long in SHORTER if not any(long in f"{text} " for text in texts)] == []


def test_what_a_sample_has_in_blocks_is_run_by_test_readme_or_named():
    """test_readme.py runs blocks of sh; others take minutes, and are named here, with a quick form that is run."""
    for page in (each for each in PAGES if each.parent.parent.name == "samples"):
        text = page.read_text(encoding="utf-8")
        for kind, body in doc_commands.FENCE.findall(text):
            if kind in ("console", "bash"):
                assert all(line.split("   ")[0] in LONG for line in doc_commands.lines(body)), body
    assert {name.name for name in (ROOT / "samples").iterdir()} >= set(SLOW)


def test_there_are_many():
    assert len([c for c in ALL if c.block]) > 60
    assert len([c for c in ALL if not c.block]) > 80
