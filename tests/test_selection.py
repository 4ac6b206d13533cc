"""Which models a folder or a pattern stands for, where each goes, and what is said of what lies next to them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bnfold.errors import UsageProblem
from bnfold.folding.fleet import tasks
from bnfold.folding.selection import selected
from bnfold_cli.main import run
from tests.test_cli import conv_bn, here, without_bn, written  # noqa: F401

TREE = (
    *("models/a.onnx", "models/vision/a.onnx", "models/vision/deep/b.onnx", "models/text/a.onnx"),
    *("models/a.folded.onnx", "models/text/b.failed.onnx", "models/weights.bin", "models/text/README.md"),
    *("models/.hidden/c.onnx", "models/.d.onnx", "models/.git", "models/out/e.onnx", "elsewhere/f.onnx"),
)


@pytest.fixture
def tree(here: Path) -> Path:  # noqa: F811
    """Names alone, with a loop of links, a link to a file, to nothing and to a folder elsewhere, a folder like a file."""
    for name in TREE:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    (here / "models/folder.onnx").mkdir()
    (here / "models/vision/loop").symlink_to(here / "models")
    (here / "models/vision/again").symlink_to(".")
    (here / "models/elsewhere").symlink_to(here / "elsewhere")
    (here / "models/link.onnx").symlink_to("a.onnx")
    (here / "models/nothing.onnx").symlink_to("missing")
    os.mkfifo(here / "models/pipe.onnx")
    return here


BELOW = ["a.onnx", "text/a.onnx", "vision/a.onnx", "vision/deep/b.onnx"]


def chosen(*given: str, out_dir: str = "folded") -> list[str]:
    return sorted(str(place) for place in selected([Path(each) for each in given], Path(out_dir)).models.values())


@pytest.mark.parametrize("given", ["models", "./models", "models/", "models/../models", "models/vision/loop"])
def test_a_folder_is_every_model_below_it(tree: Path, given: str):
    assert chosen(given) == sorted([*BELOW, "out/e.onnx"])
    assert chosen(str(tree / given)) == sorted([*BELOW, "out/e.onnx"])


@pytest.mark.parametrize("out_dir", ["models/out", "./models/out", "models/../models/out"])
def test_the_folder_of_results_may_lie_in_it(tree: Path, out_dir: str):
    assert chosen("models", out_dir=out_dir) == BELOW
    assert chosen("models", out_dir=str(tree / out_dir)) == BELOW


def test_what_is_skipped_is_said_with_the_reason(tree: Path):
    assert selected([Path("models")], Path("models/out")).counts() == {
        "folder of results": 1,
        "hidden": 3,
        "link": 5,
        "not .onnx": 2,
        "result of fold": 2,
        "special file": 1,
    }


PATTERNS = {
    "models/*.onnx": ["a.onnx"],
    "models/**/*.onnx": [*BELOW, "out/e.onnx"],
    "models/**": [*BELOW, "out/e.onnx", "text/README.md", "weights.bin"],
    "models/*/a.onnx": ["text/a.onnx", "vision/a.onnx"],
    "models/**/deep/*": ["vision/deep/b.onnx"],
    "models/**/**/b.*": ["vision/deep/b.onnx"],
    "mod*/vision/**/[ab].onnx": ["models/vision/a.onnx", "models/vision/deep/b.onnx"],
    "**/f.onnx": ["elsewhere/f.onnx"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_every_file_that_fits_and_links_have_no_end_of_them(tree: Path, pattern: str):
    assert chosen(pattern) == sorted(PATTERNS[pattern])
    if not pattern.startswith(("mod*", "**")):
        assert chosen(str(tree / pattern)) == sorted(PATTERNS[pattern])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("models/.hidden/no*", "no model matches models/.hidden/no*"),
        ("models/link*", "no model matches models/link* (skipped: 1 link)"),
        ("models/pipe*", "no model matches models/pipe* (skipped: 1 special file)"),
        ("models/folder.onnx", "no model in models/folder.onnx"),
        ("**/*.folded.onnx", "no model matches **/*.folded.onnx (skipped: 1 hidden, 3 links, 1 result of fold)"),
    ],
)
def test_no_model_says_what_there_was(tree: Path, given: str, words: str):
    with pytest.raises(UsageProblem) as caught:
        selected([Path(given)], Path("folded"))
    assert str(caught.value) == words


def test_a_file_that_is_named_is_meant_whatever_it_is_called(tree: Path):
    assert chosen("models/link.onnx", "models/a.folded.onnx", "models/.d.onnx") == [
        ".d.onnx",
        "a.folded.onnx",
        "link.onnx",
    ]
    Path("models/[a].onnx").touch()
    assert chosen("models/[a].onnx") == ["[a].onnx"]


def test_each_model_is_folded_once(tree: Path):
    assert chosen("models", "models/**/*.onnx", "./models/a.onnx") == sorted([*BELOW, "out/e.onnx"])


def places(*given: str) -> dict[str, str]:
    planned = tasks(selected([Path(each) for each in given], Path("out")).models, Path("out"))
    return {str(task.source): str(task.target) for task in planned}


def test_a_name_that_repeats_keeps_its_folders(tree: Path):
    assert places("models/text/a.onnx", "models/vision/a.onnx", "elsewhere/f.onnx") == {
        "models/text/a.onnx": "out/text/a.folded.onnx",
        "models/vision/a.onnx": "out/vision/a.folded.onnx",
        "elsewhere/f.onnx": "out/f.folded.onnx",
    }
    assert places("models/text", "models/vision") == {
        "models/text/a.onnx": "out/text/a.folded.onnx",
        "models/vision/a.onnx": "out/vision/a.folded.onnx",
        "models/vision/deep/b.onnx": "out/deep/b.folded.onnx",
    }
    with pytest.raises(UsageProblem, match="would both become out/a.folded.onnx"):
        places("models/a.onnx", "models/a")


def test_results_are_where_the_models_were_and_folders_without_any_are_not_made(
    here: Path,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
):
    for name in ("models/a.onnx", "models/x/a.onnx", "models/x/y/a.onnx", "models/z/plain.onnx"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        written(here / name, without_bn() if "plain" in name else conv_bn())
    (here / "models/z/notes.txt").touch()
    (here / "models/bad").mkdir()
    (here / "models/bad/b.onnx").write_text("not a model, but long enough for one")
    assert run(["fold", "models", "--out-dir", "folded", "--verify", "off", "--json", "r.json"]) == 3
    assert "note: skipped: 1 not .onnx\n" in capfd.readouterr().err
    assert json.loads(Path("r.json").read_text())["skipped"] == {"not .onnx": 1}
    assert sorted(str(path.relative_to("folded")) for path in Path("folded").rglob("*")) == [
        *("a.folded.onnx", "x", "x/a.folded.onnx", "x/y", "x/y/a.folded.onnx", "z", "z/plain.folded.onnx"),
    ]
    assert run(["fold", "models/bad", "--out-dir", "new/deep", "--verify", "off"]) == 3
    assert not Path("new").exists()


def test_a_dry_run_over_folders_makes_none(here: Path):  # noqa: F811
    (here / "models/x").mkdir(parents=True)
    written(here / "models/x/a.onnx", conv_bn())
    before = sorted(here.rglob("*"))
    assert run(["fold", "models", "--out-dir", "folded", "--verify", "off", "--dry-run"]) == 0
    assert sorted(here.rglob("*")) == before


def test_in_detail_each_thing_that_was_skipped_is_named(here: Path, capfd: pytest.CaptureFixture[str]):  # noqa: F811
    (here / "models").mkdir()
    written(here / "models/a.onnx", conv_bn())
    (here / "models/b.txt").touch()
    assert run(["fold", "models", "--out-dir", "folded", "--verify", "off", "-v"]) == 0
    assert "skipped models/b.txt: not .onnx\n" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_said(tree: Path):
    (tree / "models/text").chmod(0)
    try:
        assert selected([Path("models")], Path("out")).counts()["unreadable folder"] == 1
    finally:
        (tree / "models/text").chmod(0o755)
