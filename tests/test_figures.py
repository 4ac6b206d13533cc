"""The figures of the README show what the records hold."""

from __future__ import annotations

import re

import matplotlib
import pytest

from tests.benchmarks import figures

WORDS = re.compile(r"<text[^>]*>([^<]*)</text>")
BY = re.compile(r"Matplotlib v([\d.]+)")


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_as_the_records_are_now(name, tmp_path):
    committed = (figures.RESULTS / f"{name}.svg").read_text()
    figures.drawn(name, tmp_path / "again.svg")
    again = (tmp_path / "again.svg").read_text()
    assert WORDS.findall(again) == WORDS.findall(committed)
    if BY.search(committed)[1] == matplotlib.__version__:
        assert again == committed


def test_what_is_drawn_is_what_is_told():
    words = " ".join(WORDS.findall((figures.RESULTS / "left.svg").read_text()))
    rows = figures.unfinished()
    assert f"of {sum(row['batch_norms'][0] for row in rows)} in {len(rows)}" in words
    assert f"bnfold: {sum(row['batch_norms'][1] for row in rows)}," in words
    assert all(row["best_peer"] == min(row["peers"].values()) for row in rows)
