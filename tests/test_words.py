"""Every sentence that bnfold stops with: of one make, and of the same words for the same things."""

from __future__ import annotations

import re

import pytest

from tests.words import Said, sentences

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
