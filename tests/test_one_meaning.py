"""One name has one meaning in the package: of files, and of public functions, classes and constants."""

from __future__ import annotations

import pytest

from tests import one_meaning
from tests.one_meaning import ALLOWED_FILES, ALLOWED_NAMES, twice


def test_no_file_has_the_name_of_another_with_another_meaning():
    assert {name: places for name, places in twice(one_meaning.files()).items() if name not in ALLOWED_FILES} == {}


def test_no_public_name_has_two_meanings():
    assert {name: places for name, places in twice(one_meaning.names()).items() if name not in ALLOWED_NAMES} == {}


def test_what_is_allowed_is_there():
    assert {*ALLOWED_FILES} <= {*twice(one_meaning.files())}
    assert {*ALLOWED_NAMES} <= {*twice(one_meaning.names())}


@pytest.mark.parametrize("line", ["def twin(): ...", "class twin: ...", "one, twin = 1, 2", "twin: int = 1"])
def test_a_second_meaning_is_seen(tmp_path, line):
    (tmp_path / "a.py").write_text(f"{line}\n_own = twin2 = 1")
    assert "twin" in one_meaning.defined(tmp_path / "a.py")
    assert "_own" not in one_meaning.defined(tmp_path / "a.py")
    assert twice(iter([("twin", "a"), ("twin", "b"), ("other", "b")])) == {"twin": ["a", "b"]}
