"""Plain words: in every sentence that bnfold stops with, in names, docstrings and comments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.shape_of_the_code import ROOT, files
from tests.words import NOT_IN_NAMES, NOT_IN_PROSE, Said, prose, sentences, words_of_names

ALL = [said for said in sentences() if said.message != "{...}"]
# what may begin with a capital letter: names of things
NAMES = ("PyTorch", "CUDA", "AdamW", "ONNX", "Ray", "BatchNorm", "BNFOLD_THREADS")
HINTS = re.compile(r"(\{\.\.\.\}|.*[.?]|pip install .*|.*\{\.\.\.\})", re.S)
INSTEAD = {  # of a word, another that is used everywhere
    r"\bdirectory, not\b|\ba directory\b": "folder",
    r"\boverwrite": "replace",
    r"\bexists already": "exists",
    r"\bMend\b": "Repair",
    r"\(s\)|\(es\)": "the plural, by display.counted",
    r"\bparameters? file\b": "data file",
    r"\bgamma\b|\bbeta\b": "scale, bias",
    r"\bfuse": "fold",
    r"\bbackend\b": "execution provider",
    r"\bcheckpoint file\b": "run",
    r"\bis no [a-z]+$": "is not a",
}


def test_there_are_some():
    assert len(ALL) > 200


@pytest.mark.parametrize("said", ALL, ids=lambda said: said.place)
def test_an_error_is_a_clause_and_a_hint_a_sentence(said: Said):
    message, hint = said.message, said.hint
    assert not message.endswith("."), message
    assert message[0] in "{'-`0123456789" or message[0].islower() or message.startswith(NAMES), message
    assert HINTS.fullmatch(hint), hint
    assert not hint[0].islower() or hint.startswith(("pip ", "onnx")) or hint.startswith(NAMES), hint
    assert len(message) < 160
    assert len(hint) < 200


@pytest.mark.parametrize("said", ALL, ids=lambda said: said.place)
def test_things_have_one_name(said: Said):
    for wrong, right in INSTEAD.items():
        assert not re.search(wrong, f"{said.message} {said.hint}"), right


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files(), ids=place)
def test_names_and_prose_are_plain(path: Path):
    assert unplain(path.read_text(encoding="utf-8")) == []


def unplain(source: str) -> list[str]:
    """The words of a module that have a plainer one, each with its line and with what to say."""
    names = [f"{n}: {name}: {NOT_IN_NAMES[word]}" for n, name, word in words_of_names(source) if word in NOT_IN_NAMES]
    lines = [
        (n, text, say)
        for n, text in prose(source)
        for word, say in NOT_IN_PROSE.items()
        if re.search(word, text.lower())
    ]
    return names + [f"{n}: {text.strip()}: {say}" for n, text, say in lines]


OWN = ("words.py", "test_words.py")  # which have the words themselves


@pytest.mark.parametrize("path", [p for p in sorted((ROOT / "tests").rglob("*.py")) if p.name not in OWN], ids=place)
def test_titles_and_docstrings_of_tests_are_plain(path: Path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    documented = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    texts = [ast.get_docstring(node) or "" for node in documented]
    texts += [node.name.replace("_", " ") for node in documented if getattr(node, "name", "").startswith("test_")]
    words = [word for word in NOT_IN_PROSE if "bars" not in word]
    assert [text for text in texts if any(re.search(word, text.lower()) for word in words)] == []


SCRIPTS = [
    path
    for suffix in ("js", "css")
    for path in sorted((ROOT / "bnfold/reporting/assets").glob(f"*.{suffix}"))
    if ".min." not in path.name
]


@pytest.mark.parametrize("path", SCRIPTS, ids=place)
def test_the_scripts_of_the_page_are_plain(path: Path):
    text = path.read_text(encoding="utf-8")
    assert [word for word in NOT_IN_PROSE if "bars" not in word and re.search(word, text)] == []


@pytest.mark.parametrize(
    "line",
    ["found = 1", "f(asked=1)", "class Held: ...", "def tell_disk(): ...", "x = 1  # what is told", '"""beside it"""'],
)
def test_a_word_with_a_plainer_one_is_seen(line: str):
    assert unplain(line)


def test_what_is_plain_is_not():
    assert (
        unplain('"""held-out images, asked for"""\nfile.tell()  # FileNotFoundError: not found\nFileNotFoundError')
        == []
    )
