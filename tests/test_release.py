"""What is released: a wheel and a source archive that hold what they should, and the workflow that publishes them."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import bnfold
from tests.shape_of_the_code import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
JOBS = WORKFLOW["jobs"]
PATHS = ("bnfold", "cli")
SOURCE = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "docs/reasons.md",
    "tests/cases.py",
    "tests/words.py",
    "samples/README.md",
)
needs_build = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("build", "twine")), reason="build or twine is not installed"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder with both archives, built from a copy of the files that git knows, as a release is."""
    place = tmp_path_factory.mktemp("release")
    (place / "source").mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    names = listed.stdout.decode().split("\0")[:-1] if listed.returncode == 0 else found()
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist")]
    done = subprocess.run(command, cwd=place / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would be ignored" not in done.stdout + done.stderr
    return place / "dist"


def found() -> list[str]:
    """The files of a copy without git."""
    tops = ("bnfold", "cli", "docs", "samples", "tests", ".ci")
    paths = [*ROOT.glob("*"), *(path for top in tops for path in (ROOT / top).rglob("*"))]
    return [str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts]


@needs_build
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(made):
    with zipfile.ZipFile(made / f"bnfold-{bnfold.__version__}-py3-none-any.whl") as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    there = {path for name in PATHS for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix != ".pyc"}
    named = {re.sub("^cli/", "bnfold_cli/", path.relative_to(ROOT).as_posix()) for path in there}
    assert held == {name for name in named if not name.endswith("README.md")}


@needs_build
def test_the_source_archive_has_the_tests_and_documentation_whole(made):
    top = f"bnfold-{bnfold.__version__}/"
    with tarfile.open(made / f"bnfold-{bnfold.__version__}.tar.gz") as archive:
        names = {name.removeprefix(top) for name in archive.getnames()}
    assert {name for name in SOURCE if name not in names} == set()
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*.py")}
    assert tests <= names
    assert not [name for name in names if "__pycache__" in name]


@needs_build
def test_the_index_can_show_what_the_archives_say(made):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(made.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_nothing_is_published_that_was_not_built_tried_and_tagged():
    assert {name: job.get("needs") for name, job in JOBS.items()} == {
        "build": None, "try": "build", "publish": "try", "release": "publish",
    }  # fmt: skip
    assert all(JOBS[name]["if"] == "github.ref_type == 'tag'" for name in ("publish", "release"))
    said = " ".join(step.get("run", "") for step in JOBS["build"]["steps"])
    assert all(words in said for words in ("twine check --strict", "python -m build", "CHANGELOG.md"))


def test_only_what_publishes_may_sign_and_no_password_is_there():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert JOBS["publish"]["permissions"] == {"id-token": "write"}
    assert all("permissions" not in JOBS[name] for name in ("build", "try"))
    (step,) = (step for step in JOBS["publish"]["steps"] if "pypi-publish" in step["uses"])
    assert step["with"] == {"attestations": True}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_pythons_that_are_tried_are_those_that_are_promised():
    text = (ROOT / "pyproject.toml").read_text()
    lowest = re.search(r'requires-python = ">=([\d.]+)"', text)[1]
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    assert promised[0] == lowest
    assert set(promised) <= set(JOBS["try"]["strategy"]["matrix"]["python"])


def test_the_notes_of_a_release_are_its_part_of_the_changelog(tmp_path):
    (step,) = (step for step in JOBS["release"]["steps"] if step.get("name") == "Release")
    command = next(line for line in step["run"].splitlines() if line.startswith("awk"))
    command = command.replace("$version", bnfold.__version__).replace("> notes.md", "")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    whole = (ROOT / "CHANGELOG.md").read_text()
    assert done.stdout.strip() == whole.split(f"## {bnfold.__version__}\n")[1].split("\n## ")[0].strip()
