"""Numbers that no option can mean: each is refused, in words, before anything is done."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import bnfold
from bnfold.errors import UsageProblem
from bnfold.folding import driver
from bnfold.system.limits import Limits
from bnfold.verification.measure import Tally
from bnfold.verification.results import SITE_LIMIT
from bnfold_cli.main import run
from tests.test_cli import conv_bn, here, written  # noqa: F401

DIGITS = "9" * 5000
WRONG = {  # an option -> numbers that it cannot have
    "verify m.onnx m.onnx --budget": ("nan", "inf", "-1", "0", "1e400", "1e10", "x", ""),
    "verify m.onnx m.onnx --seed": ("-1", "1.5", "99999999999999999999", DIGITS, "nan"),
    "verify m.onnx m.onnx --dim": ("N=0", "N=-1", "N=nan", "N=1.5", "N=99999999999", f"N={DIGITS}", "N="),
    "verify m.onnx m.onnx --shape": ("X:0,3,6,6", "X:-1,3,6,6", "X:nan", f"X:{DIGITS},3,6,6", "X:99999999999,3,6,6"),
    "bench m.onnx m.onnx --budget": ("nan", "inf", "-1", "0", "1e400", "1e10", "0.1"),
    "bench m.onnx m.onnx --launches": ("nan", "1", "-1", "1001", DIGITS, "99999999999999999999"),
    "bench m.onnx m.onnx --threads": ("0", "-1", "99999999999999999999", "100000", "1.5"),
    "bench m.onnx m.onnx --margin": ("nan", "inf", "0", "-1%", "100%", "1e400", DIGITS),
    "bench m.onnx m.onnx --fail-if": ("slower:nan%", "slower:-1%", "speedup<0", "speedup<nan", "speedup<inf"),
    "bench m.onnx m.onnx --dim": ("N=0", "N=99999999999", f"N={DIGITS}", "N=1,0"),
    "recalibrate m.onnx --data d.npz --threshold": ("nan", "inf", "0", "-1", "1e400"),
    "recalibrate m.onnx --data d.npz --batch-size": ("0", "-1", "99999999999999999999", "1e3"),
    "recalibrate m.onnx --data d.npz --memory-limit": ("nan", "-1", "inf", f"{DIGITS}T", "1e400"),
    "evaluate m.onnx --data d.npz --crops": ("0", "-1", "nan", DIGITS),
    "fold m.onnx --limit": (
        "seconds=nan",
        "seconds=inf",
        "seconds=0",
        "seconds=-1",
        f"seconds={DIGITS}",
        "seconds=1e400",
    ),
    "explain m.onnx --limit": (
        "nodes=0",
        f"nodes={DIGITS}",
        f"memory={DIGITS}TB",
        "elements=-1",
        "memory=0GB",
        "nodes=",
    ),
    "fold m.onnx --out-dir many --jobs": ("0", "-1", "nan", "1.5"),
    "export x.onnx --opset": ("nan", "-1", "0", DIGITS),
    "train --lr": ("nan", "inf", "0", "-1", "1e400"),
    "train --epochs": ("0", "-1", "nan"),
    "train --dropout": ("nan", "1", "-0.1"),
    "train --weight-decay": ("nan", "inf", "-1"),
    "train --width": ("nan", "inf", "0"),
    "train --clip-norm": ("nan", "inf", "0"),
}


@pytest.mark.parametrize(("command", "numbers"), WRONG.items(), ids=WRONG)
def test_a_number_that_an_option_cannot_have_is_refused(here, capsys, command, numbers):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    np.savez("d.npz", X=np.zeros((4, 3, 6, 6), np.float32))
    before = sorted(Path().iterdir())
    for number in numbers:
        code = run([*command.split(), number])
        words = capsys.readouterr().err
        assert code == 2, (number[:20], words)
        assert words.count("error: ") == words.count("hint: ") == 1
        assert "internal" not in words
        assert len(words) < 3000
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e10])
def test_they_hold_in_python_too(value):
    model = conv_bn()
    for call in (
        lambda: bnfold.verify(model, model, budget_s=value),
        lambda: bnfold.bench(model, model, budget_s=value),
        lambda: Limits(seconds=value),
    ):
        with pytest.raises(UsageProblem, match=r" is (nan|inf|-1\.0|10000000000\.0)\nhint: "):
            call()


def test_no_budget_begins_nothing():
    """0 was taken for no limit at all."""
    model = conv_bn()
    found = bnfold.verify(model, driver.fold(model).model, budget_s=0)
    assert any("skipped" in note or "budget" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(3))
def test_of_many_channels_of_few_elements_none_is_wrong_by_chance(seed: int) -> None:
    """Where the original's own error in a channel is small by chance, what it has in the others counts."""
    random, shape = np.random.default_rng(seed), (1, 40_000)
    tally = Tally("y", (1,))
    for _ in range(2):
        truth = random.standard_normal(shape)
        original, folded = (truth + 1e-6 * random.standard_normal(shape) for _ in range(2))
        moved = [original + 1e-7 * random.standard_normal(shape) for _ in range(4)]
        tally.add(truth, *(np.float32(run) for run in (original, folded)), [np.float32(run) for run in moved])
    assert float(tally.ratios(1).max()) < SITE_LIMIT
