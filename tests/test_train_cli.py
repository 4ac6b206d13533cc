"""`bnfold train` and `bnfold export` as a person at the terminal meets them."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import get_type_hints

import pytest

import bnfold.train
from bnfold.errors import UsageProblem
from bnfold.train import TrainOptions
from bnfold.train.architectures import ARCHITECTURES, FORMS
from bnfold.train.data import DATASETS
from bnfold.train.options import CallOptions
from bnfold.train.recipe import METHODS, OneOf, Settings
from bnfold_cli.main import run
from bnfold_cli.train import PANELS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and a terminal that is wide enough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_train_then_export(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--arch", "mlp", "--steps", "20", "--seed", "3"]) == 0
    out, err = capfd.readouterr()
    assert "accuracy, moving averages" in out
    assert "accuracy, population statistics" in out
    assert "sequential" in out
    assert "runs/digits-mlp" in out
    assert err.splitlines()[-3].startswith("step 20/20  loss ")
    assert err.splitlines()[-2:] == [
        "wrote runs/digits-mlp/curves.png",
        "next: bnfold export model.onnx --checkpoint runs/digits-mlp",
    ]

    assert run(["export", "digits.onnx"]) == 0
    out, err = capfd.readouterr()
    assert "digits.onnx" in out
    assert "worst error against PyTorch in float64" in out
    assert err == "next: bnfold fold digits.onnx\n", "the exporter's own warnings are not the user's business"
    assert sorted(path.name for path in here.iterdir()) == ["digits.onnx", "runs"]

    assert run(["train", "--arch", "mlp"]) == 2
    out, err = capfd.readouterr()
    assert err == ("error: runs/digits-mlp exists\nhint: --resume goes on with it; another --out starts a new run.\n")
    assert out == ""

    assert run(["train", "--resume", "--no-bn"]) == 2
    assert "the run has batch_norm True, not False" in capfd.readouterr().err
    assert run(["export", "digits.onnx"]) == 2
    assert "digits.onnx exists" in capfd.readouterr().err


PROBLEMS = {
    "train --data digit": (2, "unknown data set 'digit'"),
    "train --arch mpl": (2, "unknown architecture 'mpl'"),
    "train --data mnist --data-dir nowhere": (3, "no file nowhere/train-images-idx3-ubyte.gz"),
    "train --steps 5 --epochs 1": (2, "steps and epochs were both given"),
    "train --steps many": (2, "'--steps'"),
    "train --resume": (2, "there is no run under"),
    "export x.onnx": (2, "there is no run under"),
    "export x.onnx --checkpoint nowhere": (3, "nowhere is not a run"),
    "export x.onnx --opset 15": (2, "cannot export opset 15"),
}


@pytest.mark.parametrize(("command", "expected"), PROBLEMS.items(), ids=PROBLEMS.keys())
def test_problems_are_one_line_and_a_hint(
    here: Path, capfd: pytest.CaptureFixture[str], command: str, expected: tuple[int, str]
) -> None:
    assert run(command.split()) == expected[0]
    out, err = capfd.readouterr()
    error, hint = err.splitlines()
    assert error.startswith("error: ")
    assert expected[1] in error
    assert hint.startswith("hint: ")
    assert out == ""
    assert list(here.iterdir()) == []


def value_of(kind: object, i: int) -> object:
    """A value of this kind that no other option gets."""
    values = {bool: True, Path: Path(f"p{i}"), str: f"s{i}", int: i, float: float(i)}
    return next(value for known, value in values.items() if kind in (known, known | None))


def test_every_option_reaches_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[TrainOptions] = []

    def train(options: TrainOptions, watch: object) -> None:
        calls.append(options)
        raise UsageProblem("far enough", "")

    monkeypatch.setattr(bnfold.train, "train", train)
    kinds = get_type_hints(Settings) | get_type_hints(CallOptions)
    assert sorted(" ".join(PANELS.values()).split()) == sorted([*kinds, "plot"])
    given = {name: value_of(kind, i) for i, (name, kind) in enumerate(kinds.items())} | {"batch_norm": False}
    flags = {name: "--no-bn" if name == "batch_norm" else f"--{name.replace('_', '-')}" for name in given}
    words = [[flags[name]] if isinstance(value, bool) else [flags[name], str(value)] for name, value in given.items()]
    run(["train", *chain.from_iterable(words)])
    run(["train"])
    assert calls == [TrainOptions(**given), TrainOptions()]


def test_help_states_names_and_defaults(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["train", "--help"]) == 0
    text = capfd.readouterr().out
    for default in (Settings.data, Settings.arch, Settings.batch_size, Settings.lr, Settings.seed, Settings.statistics):
        assert f"[default: ({default})]" in text
    assert all(name in text for name in (*DATASETS, *ARCHITECTURES, *FORMS, *METHODS))
    limits = [field.metadata["option"].limit for field in fields(Settings)]
    assert all(name in text for limit in limits if isinstance(limit, OneOf) for name in limit.names)
    assert all(f" {panel} " in text for panel in PANELS)
