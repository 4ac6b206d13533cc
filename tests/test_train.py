"""Runs: accuracy, determinism, exact resumption, and the errors of what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnfold.errors import CheckFailed, UsageProblem
from bnfold.train import Event, Interrupted, TrainOptions, TrainResult, architectures, runs, train
from tests.data import data_path

Files = dict[str, bytes]


def short(out: Path, **changed: Any) -> TrainOptions:
    """Thirty steps of the small network on digits, evaluated after each."""
    return TrainOptions(**{"arch": "mlp", "steps": 30, "evaluate_every": 1, "out": out} | changed)


def stop_at(step: int) -> Callable[[Event], None]:
    """Ctrl-C at this step."""

    def watch(event: Event) -> None:
        if event.step == step and event.accuracy is None:
            raise KeyboardInterrupt

    return watch


def same(one: Path, other: Path) -> bool:
    """Metrics equal to the byte, and every tensor of the checkpoints to the bit."""
    a, b = runs.load_checkpoint(one), runs.load_checkpoint(other)
    pairs = [(a.model, b.model), (a.statistics, b.statistics), (a.rng, b.rng)]
    equal = all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)
    text = [(run / runs.METRICS).read_bytes() for run in (one, other)]
    return equal and text[0] == text[1] and (a.step, a.scores) == (b.step, b.scores)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A short run that nothing disturbed."""
    return train(short(tmp_path_factory.mktemp("runs") / "whole"))


def test_options_are_settings_that_are_given_and_those_of_the_call() -> None:
    options = TrainOptions(lr=0.5, steps=None, device="cpu")
    assert (options.settings, options.device, options.resume) == ({"lr": 0.5}, "cpu", False)
    assert replace(options, steps=7).settings == {"lr": 0.5, "steps": 7}
    with pytest.raises(TypeError, match="learning_rate"):
        TrainOptions(learning_rate=0.5)


def test_the_defaults_learn_digits(tmp_path: Path) -> None:
    result = train(TrainOptions(out=tmp_path / "run"))
    assert result.accuracy >= 0.97
    assert result.accuracy_moving_average >= 0.97
    assert (result.batch_norms, result.test_images, result.steps) == (3, 359, 690)


def test_an_evaluation_shows_the_network_itself(whole: TrainResult, tmp_path: Path) -> None:
    """Whoever watches may run a copy of it, and changes nothing by that; other steps do not carry it."""
    moved: list[bool] = []

    def watch(event: Event) -> None:
        assert (event.network is None) == (event.accuracy is None)
        if event.network is not None:
            before = event.network.hidden1.linear.weight.clone()
            copy.deepcopy(event.network).train()(torch.zeros(60, 1, 8, 8))
            moved.append(
                bool(torch.equal(before, runs.load_checkpoint(tmp_path / "run").model["hidden1.linear.weight"]))
            )

    train(short(tmp_path / "run"), watch)
    assert moved == [True] * 30
    assert same(whole.run, tmp_path / "run")


def test_the_same_seed_gives_the_same_bits(whole: TrainResult, tmp_path: Path) -> None:
    train(short(tmp_path / "again"))
    assert same(whole.run, tmp_path / "again")
    train(short(tmp_path / "other", seed=1))
    assert not same(whole.run, tmp_path / "other")


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(short(tmp_path / "run", steps=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("step", [1, 17, 30])
def test_an_interrupted_run_resumes_to_the_same_bits(whole: TrainResult, tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=f"stopped at step {step} of 30; .* keeps step {step - 1}") as caught:
        train(short(run), stop_at(step))
    assert caught.value.exit_code == 130
    assert f"--resume --out {run}" in caught.value.hint
    assert train(TrainOptions(out=run, resume=True)).accuracy == whole.accuracy
    assert same(whole.run, run)


def test_random_numbers_drawn_in_training_resume_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(shape: architectures.ImageShape, classes: int, batch_norm: bool) -> nn.Module:
        return nn.Sequential(architectures.mlp(shape, 20, batch_norm), nn.Dropout(0.5), nn.Linear(20, classes))

    monkeypatch.setitem(architectures.ARCHITECTURES, "dropping", dropping)
    train(short(tmp_path / "whole", arch="dropping"))
    with pytest.raises(Interrupted):
        train(short(tmp_path / "run", arch="dropping"), stop_at(13))
    train(TrainOptions(out=tmp_path / "run", resume=True))
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_can_be_made_longer(whole: TrainResult, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(short(run, steps=20))
    result = train(TrainOptions(out=run, resume=True, steps=30))
    assert result.steps == 30
    assert runs.metrics(run) == runs.metrics(whole.run)
    assert same(whole.run, run)


def test_resuming_a_finished_run_gives_its_result(whole: TrainResult) -> None:
    before = contents(whole.run)
    assert train(TrainOptions(out=whole.run, resume=True)) == whole
    assert contents(whole.run)["checkpoint.pt"] == before["checkpoint.pt"]
    with pytest.raises(UsageProblem, match="at step 30 already"):
        train(TrainOptions(out=whole.run, resume=True, steps=10))


def test_metrics_hold_both_accuracies(whole: TrainResult) -> None:
    rows = runs.metrics(whole.run)
    assert [row["step"] for row in rows] == [*range(1, 31), 30]
    assert rows[-1] == {
        "step": 30,
        "accuracy": whole.accuracy,
        "accuracy_moving_average": whole.accuracy_moving_average,
    }
    assert rows[-2]["loss"] < rows[0]["loss"]


def test_population_statistics_replace_the_moving_averages(whole: TrainResult) -> None:
    checkpoint = runs.load_checkpoint(whole.run)
    assert len(checkpoint.statistics) == 6
    assert all(not torch.equal(value, checkpoint.model[name]) for name, value in checkpoint.statistics.items())


@pytest.mark.parametrize("method", ["alg2", "pooled", "ema"])
def test_statistics_can_be_taken_again_by_another_method(tmp_path: Path, method: str) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    first = train(short(run))
    assert first.statistics == "sequential"
    again = train(TrainOptions(out=run, resume=True, statistics=method))
    words = method if method == "ema" else f"{method}, mini-batches of 60"
    assert again == replace(train(short(other, statistics=method)), run=run, seconds=first.seconds)
    assert again.statistics == words
    assert same(run, other)
    assert train(TrainOptions(out=run, resume=True, statistics="sequential")) == first


def test_the_mini_batches_of_statistics_have_a_size_of_their_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = train(short(run, statistics="alg2", statistics_batch=7))
    assert small.statistics == "alg2, mini-batches of 7"
    moments = runs.load_checkpoint(run).statistics
    assert train(TrainOptions(out=run, resume=True)) == small
    large = train(TrainOptions(out=run, resume=True, statistics="alg2"))
    assert large.statistics == "alg2, mini-batches of 60", "the mini-batches of another method are not kept"
    assert not torch.equal(
        runs.load_checkpoint(run).statistics["hidden1.norm.running_mean"], moments["hidden1.norm.running_mean"]
    )


def test_ema_keeps_the_moving_averages(tmp_path: Path) -> None:
    result = train(short(tmp_path / "run", statistics="ema"))
    assert result.accuracy == result.accuracy_moving_average
    checkpoint = runs.load_checkpoint(tmp_path / "run")
    assert all(torch.equal(value, checkpoint.model[name]) for name, value in checkpoint.statistics.items())


def test_without_batch_norm_both_accuracies_are_one(tmp_path: Path) -> None:
    result = train(short(tmp_path / "run", batch_norm=False, steps=5))
    assert result.batch_norms == 0
    assert result.statistics == "none"
    assert result.accuracy == result.accuracy_moving_average


def test_an_epoch_is_every_full_batch(tmp_path: Path) -> None:
    result = train(short(tmp_path / "run", steps=None, epochs=2, batch_size=500))
    assert result.steps == 2 * (1438 // 500)


def test_runs_are_named_after_data_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(TrainOptions(arch="mlp", steps=1))
    second = train(TrainOptions(arch="mlp", steps=1, batch_norm=False))
    assert first.run == Path("runs/digits-mlp")
    assert second.run == Path("runs/digits-mlp-no-bn")
    assert runs.newest() == second.run
    assert train(TrainOptions(resume=True)).run == second.run


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_existing_run_is_not_overwritten(whole: TrainResult) -> None:
    before = contents(whole.run)
    with pytest.raises(UsageProblem, match="exists") as caught:
        train(short(whole.run))
    assert "--resume" in caught.value.hint
    assert contents(whole.run) == before


DIVERGING: dict[str, tuple[dict[str, Any], str]] = {
    "parameters": ({"lr": 1e38}, "parameters became NaN at step 2"),
    "infinity": ({"lr": 3.3e38, "batch_norm": False, "init_std": 5.0}, "parameters reached infinity at step 1"),
    "loss": ({"lr": 1e38, "batch_norm": False}, "the loss reached infinity at step 2"),
    "statistics": ({"lr": 1e30}, "moving averages are not finite by step 2"),
    "late": ({"lr": 1e38, "evaluate_every": 25}, "parameters became NaN at step 2"),
}


@pytest.mark.parametrize(("changed", "words"), DIVERGING.values(), ids=DIVERGING.keys())
def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckFailed, match=f"training diverged: {words}"):
        train(short(tmp_path / "run", **changed))
    assert all(bool(torch.isfinite(w).all()) for w in runs.load_checkpoint(tmp_path / "run").model.values())


def test_metrics_cut_off_in_the_middle_of_a_line(tmp_path: Path, whole: TrainResult) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(short(run), stop_at(12))
    with (run / runs.METRICS).open("a") as stream:
        stream.write('{"step": 12, "lo')
    train(TrainOptions(out=run, resume=True))
    assert same(whole.run, run)


@pytest.mark.slow
def test_batch_norm_is_ahead_on_mnist_by_two_points_at_equal_steps(tmp_path: Path) -> None:
    mnist = str(data_path("mnist"))
    options = TrainOptions(data="mnist", data_dir=mnist, arch="mlp", steps=5000, out=tmp_path / "bn")
    with_norm = train(options)
    without = train(replace(options, batch_norm=False, out=tmp_path / "no-bn"))
    assert with_norm.accuracy >= without.accuracy + 0.02
