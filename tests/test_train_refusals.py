"""Training: the errors of options that cannot be and of damaged runs; nothing stays on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bnfold.train
from bnfold.errors import BnfoldError, EnvironmentProblem, ModelProblem, UsageProblem
from bnfold.system.installed import install_command, need
from bnfold.train import TrainOptions, TrainResult, runs, train
from bnfold.train.export import export
from bnfold.train.runs import VERSION
from tests.test_train import short


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of one step."""
    return train(short(tmp_path_factory.mktemp("runs") / "finished", steps=1))


REFUSED: dict[str, tuple[dict[str, Any], type[BnfoldError], str]] = {
    "data": ({"data": "digit"}, UsageProblem, "unknown data set"),
    "arch": ({"arch": "mpl"}, UsageProblem, "unknown architecture"),
    "device": ({"device": "gpu"}, UsageProblem, "unknown device"),
    "both lengths": ({"epochs": 1}, UsageProblem, "steps and epochs were both given"),
    "steps": ({"steps": 0}, UsageProblem, "--steps is 0"),
    "lr": ({"lr": float("nan")}, UsageProblem, "--lr is nan"),
    "seed": ({"seed": -1}, UsageProblem, "--seed is -1"),
    "batch of none": ({"batch_size": 0}, UsageProblem, "--batch-size is 0"),
    "batch of one": ({"batch_size": 1}, UsageProblem, "1 value per channel"),
    "batch too large": ({"batch_size": 1439}, UsageProblem, "more than the 1438 training images"),
    "method": ({"statistics": "sequentail"}, UsageProblem, "unknown method of statistics 'sequentail'"),
    "mini-batches of none": ({"statistics": "alg2", "statistics_batch": 1}, UsageProblem, "--statistics-batch is 1"),
    "mini-batches of what has none": ({"statistics_batch": 9}, UsageProblem, "--statistics sequential has no mini-b"),
    "mini-batch too large": (
        {"statistics": "pooled", "statistics_batch": 1439},
        UsageProblem,
        "--statistics-batch 1439",
    ),
    "missing data": ({"data": "mnist", "data_dir": "nowhere"}, ModelProblem, "no file nowhere"),
}


@pytest.mark.parametrize(("changed", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_cannot_be_met_leaves_nothing(
    tmp_path: Path, changed: dict[str, Any], kind: type[BnfoldError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        train(short(tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


def test_cuda_is_not_replaced_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="no CUDA"):
        train(short(tmp_path / "run", device="cuda"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        train(short(tmp_path / "file" / "run", steps=1))


def test_resuming_with_another_setting_is_refused(finished: TrainResult) -> None:
    with pytest.raises(UsageProblem, match="the run has lr 0.1, not 0.2"):
        train(TrainOptions(out=finished.run, resume=True, lr=0.2))


def test_resuming_on_other_data_is_refused(finished: TrainResult, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.train import data

    digits = data.load_dataset("digits", None)
    monkeypatch.setitem(data.DATASETS, "digits", lambda _: replace(digits, train=digits.test))
    with pytest.raises(ModelProblem, match="is not what .* was trained on"):
        train(TrainOptions(out=finished.run, resume=True))


def test_resuming_where_there_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match="there is no run under"):
        train(TrainOptions(resume=True))
    with pytest.raises(ModelProblem, match="is not a run"):
        train(TrainOptions(resume=True, out=tmp_path))


def break_checkpoint(run: Path, how: str) -> None:
    """Damage the checkpoint of a run in one way."""
    path = run / runs.CHECKPOINT
    content = path.read_bytes()
    checkpoint = {"version": VERSION, **vars(runs.load_checkpoint(run))}
    if how == "missing":
        path.unlink()
    elif how in {"empty", "text", "cut", "flipped"}:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "text": b"hello\n" * 99, "cut": content[:-999], "flipped": flipped}[how])
    elif how == "code":
        torch.save({"version": VERSION, "model": Path}, path)
    else:
        other = {"version": {"version": 1}, "list": [1], "fields": {"extra": 1}}[how]
        torch.save(checkpoint | other if isinstance(other, dict) else other, path)


BROKEN = {
    "missing": "has no checkpoint.pt",
    "empty": "is damaged",
    "text": "is damaged",
    "cut": "is damaged",
    "flipped": "is damaged",
    "code": "is damaged",
    "list": "is damaged",
    "fields": "is damaged",
    "version": "has version 1; this bnfold reads version 2",
}


@pytest.mark.parametrize(("how", "words"), BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_checkpoint_is_named(tmp_path: Path, how: str, words: str) -> None:
    run = tmp_path / "run"
    train(short(run, steps=1))
    break_checkpoint(run, how)
    with pytest.raises(ModelProblem, match=words):
        train(TrainOptions(out=run, resume=True))


def test_a_broken_config_is_named(finished: TrainResult, tmp_path: Path) -> None:
    stored = json.loads((finished.run / "config.json").read_text())
    bad = [{**stored, "shape": 3}, {**stored, "settings": {"colour": 1}}, {"version": VERSION}, [], "{"]
    for content in bad:
        (tmp_path / "config.json").write_text(content if content == "{" else json.dumps(content))
        with pytest.raises(ModelProblem, match=r"config\.json is damaged"):
            train(TrainOptions(out=tmp_path, resume=True))
    (tmp_path / "config.json").write_text(json.dumps({**stored, "version": 7}))
    with pytest.raises(ModelProblem, match=r"config\.json has version 7"):
        train(TrainOptions(out=tmp_path, resume=True))


def test_an_architecture_of_another_version_is_named(finished: TrainResult, tmp_path: Path) -> None:
    shutil.copytree(finished.run, tmp_path / "run")
    stated = json.loads((tmp_path / "run" / "config.json").read_text())
    stated["settings"]["arch"] = "of-tomorrow"
    (tmp_path / "run" / "config.json").write_text(json.dumps(stated))
    with pytest.raises(ModelProblem, match="run is of an architecture unknown here: of-tomorrow") as caught:
        export(tmp_path / "run", tmp_path / "m.onnx")
    assert caught.value.hint == "Use the bnfold that trained it."
    assert not (tmp_path / "m.onnx").exists()


def test_a_run_that_somebody_else_made_meanwhile_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="exists"):
        runs.create(tmp_path, None)  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


def test_an_onnxruntime_that_is_too_old_for_the_file_says_so(finished: TrainResult, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxruntime.InferenceSession", lambda *_, **__: (_ for _ in ()).throw(RuntimeError()))
        with pytest.raises(UsageProblem, match="the installed onnxruntime cannot load the exported file"):
            export(finished.run, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_package_that_is_missing_says_how_to_install_it() -> None:
    with pytest.raises(EnvironmentProblem, match="needs the package no_such_package") as caught:
        need("no_such_package", what="this")
    assert caught.value.hint == install_command("train")


@pytest.mark.parametrize(
    "call",
    [
        "train.train(train.TrainOptions())",
        "train.population_statistics",
        "train.export.export(None, pathlib.Path('x'))",
    ],
)
def test_without_torch(call: str) -> None:
    code = (
        "import sys, pathlib; sys.modules['torch'] = None\n"
        "from bnfold import train\nimport bnfold.train.export\nfrom bnfold.errors import EnvironmentProblem\n"
        f"try: {call}\nexcept EnvironmentProblem as e: print(e.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{install_command('train')}\n"


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, bnfold.train, bnfold.train.export, bnfold_cli.train, bnfold_cli.export\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names() -> None:
    assert set(bnfold.train.__all__) <= set(dir(bnfold.train))
    assert all(getattr(bnfold.train, name).__doc__ for name in bnfold.train.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bnfold.train.nonsense  # noqa: B018
