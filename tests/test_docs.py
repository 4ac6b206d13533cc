"""The pages of docs: they build without a warning, refer to nothing that is not there, and the README stays short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from bnfold_cli.main import COMMANDS, run
from tests.doc_commands import commands, usage
from tests.shape_of_the_code import ROOT

LONGEST = 1500  # words, tables included
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= LONGEST


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/reasons/index.html").exists()
    assert "and prove that nothing else changed" in (tmp_path / "site/api/index.html").read_text()


def test_the_page_on_python_has_the_whole_public_surface():
    import bnfold
    import bnfold.train

    page = (ROOT / "docs/api.md").read_text()
    assert [name for name in bnfold.__all__ if f"::: bnfold.{name}\n" not in page] == []
    named = set(re.findall(r"^::: bnfold\.train\.(?:\w+\.)?(\w+)$", page, re.MULTILINE))
    assert {*bnfold.train.__all__} - named == {"Event", "Interrupted"}  # which `watch` is called with, and an error


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    nav = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if f"- {page.name}\n" not in nav] == []
    for page in (ROOT / "README.md", *PAGES):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        local = [link for link in links if not link.startswith("http")]
        assert [link for link in local if not (page.parent / link).exists()] == [], page.name


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_every_file_and_record_that_a_page_names_is_there(page):
    text = page.read_text()
    named = re.findall(r"`((?:bnfold|cli|docs|samples|tests)/[\w/.-]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    records = re.findall(r"`(\w+_(?:cuda|cpu|rtx)\.json)`", text)
    assert [name for name in records if not (ROOT / "tests/benchmarks/results" / name).exists()] == []
    functions = re.findall(r"`(\w+)(?:\.\w+)?` in `(bnfold/[\w/]+\.py)`", text)
    assert [name for name, path in functions if f" {name}(" not in (ROOT / path).read_text()] == []


HELP: dict[str, str] = {}  # of each command, shown once


def options_of(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    if command not in HELP:
        assert run([command, "--help"]) == 0
        HELP[command] = capfd.readouterr().out
    return HELP[command]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_command_and_option_on_a_page_exists(page, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for words in (command.words for command in commands(page) if command.words[0] == "bnfold"):
        if words[1].startswith("-"):
            continue
        assert words[1] in COMMANDS, words
        known = options_of(words[1], capfd)
        options = [word.split("=")[0] for word in words[2:] if word.startswith("--")]
        assert [option for option in options if option not in known] == [], words


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_option_that_a_page_names_exists(page, capfd, monkeypatch):
    """Of bnfold, or of a module of tests that the page names."""
    monkeypatch.setenv("COLUMNS", "200")
    known = "".join(options_of(name, capfd) for name in COMMANDS) + "--version --install-completion"
    modules = "".join(
        usage(command.words[2]) for command in commands(page) if command.text.startswith("python -m tests.")
    )
    named = re.findall(r"`(--[a-z][a-z-]+)", page.read_text())
    assert [option for option in named if option not in known + modules] == []
