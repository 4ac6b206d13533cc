"""The recipe of training: learning rates, weight decay, augmentation, shuffling, mixed precision; resumed exactly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.system.installed import install_command
from bnfold.train import Interrupted, TrainOptions, runs, train
from bnfold.train.augmentation import AUGMENTATIONS, augmented, distort, draws
from bnfold.train.data import batches
from bnfold.train.descent import Descent, learning_rate, optimizer
from bnfold.train.recipe import Settings
from tests.test_train import same, short, stop_at

RATES = {
    "constant": ({}, [1, 1, 1, 1, 1]),
    "exponential": ({"decay": 0.25, "decay_every": 2}, [1, 0.5, 0.25, 0.125, 0.0625]),
    "step": ({"decay": 0.25, "decay_every": 2}, [1, 1, 0.25, 0.25, 0.0625]),
    "cosine": ({}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
}


@pytest.mark.parametrize(("schedule", "options", "factors"), [(k, *v) for k, v in RATES.items()], ids=RATES)
def test_learning_rates(schedule: str, options: dict[str, Any], factors: list[float]) -> None:
    settings = Settings(schedule=schedule, lr=0.3, **options)
    rates = [learning_rate(settings, step, 4) for step in range(5)]
    np.testing.assert_allclose(rates, 0.3 * np.array(factors), atol=1e-15)


def test_the_learning_rate_of_every_evaluation_is_logged(tmp_path: Path) -> None:
    train(short(tmp_path / "run", steps=4, schedule="step", decay=0.5, decay_every=2))
    assert [row["lr"] for row in runs.metrics(tmp_path / "run")[:-1]] == [0.1, 0.1, 0.05, 0.05]


def one_step(model: nn.Module, **options: Any) -> None:
    settings = Settings(**options)
    descent = Descent(settings, model, optimizer(settings, model), torch.device("cpu"))
    descent.take(model, torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), settings.lr)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def moved(**options: Any) -> list[torch.Tensor]:
    """How far each parameter is from where the same step goes without these options."""
    plain, other = net(), net()
    one_step(plain)
    one_step(other, **options)
    return [b.detach() - a.detach() for a, b in zip(plain.parameters(), other.parameters(), strict=True)]


def test_weight_decay_acts_on_weights_alone() -> None:
    for change, start in zip(moved(weight_decay=0.5), net().parameters(), strict=True):
        expected = -0.1 * 0.5 * start if start.ndim > 1 else torch.zeros_like(start)
        torch.testing.assert_close(change, expected.detach(), atol=1e-7, rtol=1e-4)


def test_gradients_are_clipped_to_the_norm_of_the_options() -> None:
    start, end = net(), net()
    one_step(end, clip_norm=1e-3)
    steps = [(a - b).detach().ravel() / 0.1 for a, b in zip(start.parameters(), end.parameters(), strict=True)]
    assert float(torch.cat(steps).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_adamw_moves_every_parameter_that_has_a_gradient_by_the_learning_rate() -> None:
    start, end = net(), net()
    one_step(end, optimizer="adamw", lr=0.01)
    change = (list(start.parameters())[5] - list(end.parameters())[5]).detach().abs()
    torch.testing.assert_close(change, torch.full_like(change, 0.01), rtol=1e-3, atol=0)


EVERYTHING = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-3, "schedule": "exponential", "decay_every": 7, "augment": "crop-flip"},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "amp": "bfloat16", "shuffle": "batches"},
    "dropout": {
        "arch": "bn-inception",
        "width": 0.05,
        "dropout": 0.5,
        "batch_size": 8,
        "steps": 10,
        "augment": "distort",
    },
}


@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_a_run_resumes_to_the_same_bits_whatever_its_recipe(tmp_path: Path, options: dict[str, Any]) -> None:
    options = {"steps": 20, "evaluate_every": 4} | options
    train(short(tmp_path / "whole", **options))
    with pytest.raises(Interrupted):
        train(short(tmp_path / "run", **options), stop_at(options["steps"] - 3))
    train(TrainOptions(out=tmp_path / "run", resume=True))
    assert same(tmp_path / "whole", tmp_path / "run")
    states = [runs.load_checkpoint(tmp_path / name).optimizer["state"] for name in ("whole", "run")]
    assert all(
        torch.equal(states[0][i][k], states[1][i][k])
        for i in states[0]
        for k in states[0][i]
        if states[0][i][k] is not None
    )


def test_a_cosine_schedule_ends_where_the_run_ends(tmp_path: Path) -> None:
    train(short(tmp_path / "run", steps=3, schedule="cosine"))
    with pytest.raises(UsageProblem, match="the run has steps 3, not 4"):
        train(TrainOptions(out=tmp_path / "run", resume=True, steps=4))
    assert train(TrainOptions(out=tmp_path / "run", resume=True, steps=3)).steps == 3


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_what_happens_to_an_image_depends_on_seed_epoch_and_index_alone(kind: str) -> None:
    def changed(chosen: Any, seed: int = 1, epoch: int = 2) -> Any:
        return augmented(IMAGES[chosen], kind, draws(seed, epoch, len(IMAGES))[chosen])

    everything, some = changed(np.arange(40)), np.array([7, 3, 21])
    assert everything.dtype == np.uint8
    assert everything.shape == IMAGES.shape
    assert np.array_equal(changed(some), everything[some])
    if kind == "none":
        assert np.array_equal(everything, IMAGES)
    else:
        for other in (IMAGES, changed(np.arange(40), seed=2), changed(np.arange(40), epoch=3)):
            assert np.mean([np.array_equal(a, b) for a, b in zip(everything, other, strict=True)]) < 0.1


def test_crops_are_windows_of_the_image_with_black_around_it_and_half_are_mirrored() -> None:
    images = np.arange(1, 1 + 4 * 4, dtype=np.uint8).reshape(1, 1, 4, 4).repeat(4000, 0)
    crops = {image.tobytes() for image in augmented(images, "crop-flip", draws(0, 0, 4000))}
    padded = np.pad(images[0, 0], 1)
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    assert crops == {w.tobytes() for window in windows for w in (window, window[:, ::-1])}


def test_distortion_is_photometric_and_bounded() -> None:
    grey = distort(np.full((500, 3, 8, 8), 100, np.uint8), draws(0, 0, 500))
    assert all(len(np.unique(image)) == 1 for image in grey), "one colour stays one colour"
    assert (grey.min(), grey.max()) == (60, 140)
    red = np.zeros((500, 3, 8, 8), np.uint8)
    red[:, 0] = 100
    assert distort(red, draws(0, 0, 500))[:, 1].max() > 0, "less saturated is nearer to grey"
    assert distort(np.full((500, 1, 8, 8), 250, np.uint8), draws(0, 0, 500)).max() == 255


def test_shuffled_batches_keep_their_images() -> None:
    epochs = [[frozenset(batch.tolist()) for batch in batches(7, 30, 1, epoch, "batches")] for epoch in (0, 1)]
    assert len(epochs[0]) == 4
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    thorough = [[frozenset(batch.tolist()) for batch in batches(7, 30, 1, epoch)] for epoch in (0, 1)]
    assert set(thorough[0]) != set(thorough[1])


def test_statistics_are_of_images_as_training_sees_them(tmp_path: Path) -> None:
    plain, other = (
        train(short(tmp_path / name, augment=name, steps=1, lr=1e-12)).run for name in ("none", "crop-flip")
    )
    name = "hidden1.norm.running_mean"
    assert not torch.allclose(
        runs.load_checkpoint(plain).statistics[name], runs.load_checkpoint(other).statistics[name], atol=1e-3
    )


def test_channels_last_is_the_same_network(tmp_path: Path) -> None:
    plain, other = (
        train(short(tmp_path / str(last), arch="convnet", channels_last=last, steps=3)).run for last in (False, True)
    )
    for name, weights in runs.load_checkpoint(plain).model.items():
        torch.testing.assert_close(runs.load_checkpoint(other).model[name], weights, rtol=1e-3, atol=1e-4)


def test_bfloat16_trains_in_lower_precision(tmp_path: Path) -> None:
    half = train(short(tmp_path / "half", amp="bfloat16", steps=60))
    whole = train(short(tmp_path / "whole", steps=60))
    assert half.accuracy == pytest.approx(whole.accuracy, abs=0.05)
    losses = [runs.metrics(run)[0]["loss"] for run in (half.run, whole.run)]
    assert 0 < abs(losses[0] - losses[1]) < 0.05


def test_float16_scales_the_loss_so_that_small_gradients_survive() -> None:
    settings = Settings(amp="float16")
    model = net()
    descent = Descent(settings, model, optimizer(settings, model), torch.device("cpu"))
    plain = net()
    one_step(plain)
    descent.take(model, torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), settings.lr)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    state = descent.scaler.state_dict()
    assert state["scale"] > 1
    assert state["_growth_tracker"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_float16_on_a_gpu_resumes_with_its_scale(tmp_path: Path) -> None:
    options = {"arch": "convnet", "amp": "float16", "channels_last": True, "device": "cuda", "evaluate_every": 10}
    whole = train(short(tmp_path / "whole", **options))
    with pytest.raises(Interrupted):
        train(short(tmp_path / "run", **options), stop_at(25))
    resumed = train(TrainOptions(out=tmp_path / "run", resume=True, device="cuda"))
    assert runs.load_checkpoint(resumed.run).scaler == runs.load_checkpoint(whole.run).scaler != {}
    assert resumed.accuracy == pytest.approx(whole.accuracy, abs=0.05)


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    compiled = train(short(tmp_path / "compiled", compile=True))
    plain = train(short(tmp_path / "plain"))
    assert compiled.accuracy == pytest.approx(plain.accuracy, abs=0.02)


def test_a_compiler_that_fails_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module) -> Callable[[Any], Any]:
        def fail(x: Any) -> Any:
            raise RuntimeError("No working C++ compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageProblem, match="No working C\\+\\+ compiler found") as caught:
        train(short(tmp_path / "run", compile=True))
    assert "--compile" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_scalars_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = short(tmp_path / "run", tensorboard=True, evaluate_every=10)
    with pytest.raises(Interrupted):
        train(options, stop_at(25))
    train(TrainOptions(out=tmp_path / "run", resume=True, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = runs.metrics(tmp_path / "run")[:-1]
    for name, key in (("loss", "loss"), ("accuracy", "accuracy_moving_average"), ("lr", "lr")):
        written = {event.step: event.value for event in events.Scalars(name)}
        assert written == pytest.approx({row["step"]: row[key] for row in rows})


def test_tensorboard_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(EnvironmentProblem, match="needs the package tensorboard") as caught:
        train(short(tmp_path / "run", tensorboard=True))
    assert caught.value.hint == install_command("tensorboard")
    assert not (tmp_path / "run").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": ({"optimizer": "adam"}, "unknown --optimizer 'adam'"),
    "schedule": ({"schedule": "cosin"}, "unknown --schedule"),
    "augment": ({"augment": "flip"}, "unknown --augment"),
    "activation": ({"activation": "tanh"}, "unknown --activation"),
    "position": ({"bn_position": "between"}, "unknown --bn-position"),
    "no norm": ({"bn_position": "after", "batch_norm": False}, "--no-bn leaves no BatchNorm"),
    "amp": ({"amp": "fp16"}, "unknown --amp"),
    "amp on the cpu": ({"amp": "float16"}, "--amp float16 needs a CUDA device"),
    "momentum": ({"momentum": 1.0}, "--momentum is 1.0"),
    "adamw": ({"optimizer": "adamw", "momentum": 0.9}, "AdamW has no --momentum"),
    "dropout": ({"dropout": -0.1}, "--dropout is -0.1"),
    "decay": ({"decay": 0.0}, "--decay is 0.0"),
    "no schedule": ({"decay_every": 5}, "--schedule constant has no --decay-every"),
    "useless decay": ({"decay": 0.5}, "--schedule constant has no --decay"),
    "when": ({"schedule": "step"}, "--schedule step needs --decay-every"),
    "weight decay": ({"weight_decay": -1.0}, "--weight-decay is -1.0"),
    "clip": ({"clip_norm": 0.0}, "--clip-norm is 0.0"),
    "width": ({"width": float("inf")}, "--width is inf"),
    "evaluations": ({"evaluate_every": 0}, "--evaluate-every is 0"),
    "lr": ({"lr": 1e300}, "cannot be trained"),
}


@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_recipe_that_cannot_be_followed_leaves_nothing(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageProblem, match=words) as caught:
        train(short(tmp_path / "run", device="cpu", **changed))
    assert caught.value.hint
    assert not (tmp_path / "run").exists()
