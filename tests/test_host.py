"""`--ep` of recalibrate and evaluate: what onnxruntime is given, what is said of it, and on a GPU the same statistics.

Where there is no GPU, sessions of the CPU stand in for those of CUDA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.recalibration import Options, check, recalibrate
from bnfold.recalibration.evaluation import evaluate
from bnfold.recalibration.options import METHODS
from bnfold.runtime import host, libraries, providers, sessions
from bnfold.runtime.doctor import examine
from bnfold.runtime.providers import DEFAULT, STRICT, Way
from bnfold.runtime.sessions import CPU, CUDA
from bnfold_cli.main import run
from tests.test_cli import conv_bn, listing, written
from tests.test_evaluate import classifier
from tests.test_recalibrate import POSITIONS, data, model_of, statistics

Asked = list[tuple[Way, bool]]  # of each session: how it was to run, and whether with deterministic kernels


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A CUDA that is the CPU under another name."""
    seen: Asked = []
    real, ways = sessions.session, {"CPU": Way()}

    def chain(way: Way, engine: Mapping[str, str] | None = None) -> providers.Chain:
        ways["last"] = way
        return [(CPU, {})]

    def session(model: bytes | str, made: Any, given: Any = ((CPU, {}),)) -> Any:
        seen.append((ways["last"], made.use_deterministic_compute))
        return real(model, made, given)

    monkeypatch.setattr(host, "require_providers", lambda names: None)
    monkeypatch.setattr(libraries, "preload", lambda provider: None)
    monkeypatch.setattr(providers, "chain", chain)
    monkeypatch.setattr(sessions, "session", session)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", CPU)
    return seen


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = "a residual block"


@pytest.mark.parametrize("method", METHODS)
def test_statistics_are_taken_in_strict_float32_with_deterministic_kernels(method: str, cuda: Asked) -> None:
    model = model_of(MODEL)
    found = recalibrate(model, [data(model)], method=method, provider="cuda")
    assert found.provider == found.to_json()["provider"] == "cuda"
    assert {*cuda} == {(Way(), False), (Way("cuda", STRICT), True)}
    assert cuda[0] == (Way(), False), "constants are computed on the CPU"
    assert "cuda, strict math: 7 nodes on CPUExecutionProvider" in found.notes
    assert apart(found.model, recalibrate(model, [data(model)], method=method).model) == 0


def apart(found: onnx.ModelProto, wanted: onnx.ModelProto) -> float:
    """How far statistics are apart, relative to the size of what is normalized: the most of all channels."""
    far = []
    for ours, theirs in zip(statistics(found), statistics(wanted), strict=True):
        mean, var, same_mean, same_var = (value.astype(np.float64) for value in (*ours, *theirs))
        size = np.sqrt(same_var + np.square(same_mean)) + LEAST
        far += [np.abs((mean - same_mean) / size).max(), np.abs((var - same_var) / (same_var + LEAST)).max()]
    return float(np.max(far))


LEAST = np.finfo(np.float32).tiny  # of the variance of a channel that is constant


def test_the_check_of_statistics_runs_there_too(cuda: Asked) -> None:
    model = model_of(MODEL)
    found = check(model, [data(model)], provider="cuda")
    assert found.provider == found.to_json()["provider"] == "cuda"
    assert cuda[-1] == (Way("cuda", STRICT), True)
    assert any("nodes on" in note for note in found.notes)


def test_accuracy_is_measured_as_the_model_is_served(cuda: Asked, here: Path) -> None:
    written(Path("m.onnx"), classifier())
    np.savez("t.npz", X=np.ones((6, 3, 16, 16), np.float32), labels=np.arange(6))
    found = evaluate(["m.onnx"], "t.npz", provider="cuda")
    assert cuda == [(Way("cuda", DEFAULT), False)]
    assert found.provider == found.to_json()["provider"] == "cuda"
    assert any(note.startswith("cuda, default math: ") for note in found.notes)
    assert found.scores == evaluate(["m.onnx"], "t.npz").scores


def test_nothing_is_said_of_where_it_ran_on_the_cpu() -> None:
    model = model_of(MODEL)
    found = recalibrate(model, [data(model)])
    assert (found.provider, found.notes) == ("cpu", ())


def test_a_provider_that_took_no_node_is_said_to_have_taken_none(cuda: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(providers.PROVIDERS, "cuda", CUDA)
    model = model_of(MODEL)
    note = "cuda, strict math: 0 nodes on CUDAExecutionProvider, 7 nodes on CPUExecutionProvider"
    assert note in recalibrate(model, [data(model)], provider="cuda").notes


def test_what_a_gpu_cannot_run_has_a_hint_for_gpus(cuda: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(running: Any, names: Any, feeds: Any) -> Any:
        raise sessions.CannotRun("CUDA failure 2: out of memory")

    model, outputs = model_of(MODEL), sessions.outputs
    monkeypatch.setattr(sessions, "outputs", lambda s, names, feeds: (full if feeds else outputs)(s, names, feeds))
    with pytest.raises(Exception, match="out of memory") as caught:
        recalibrate(model, [data(model)], provider="cuda")
    assert getattr(caught.value, "hint", "") == "Try --ep cpu; a smaller --batch-size needs less of the GPU's memory."


@pytest.mark.parametrize(
    ("command", "ep", "words"),
    [
        (
            "recalibrate",
            "gpu",
            "error: invalid value for '--ep': 'gpu' is not one of 'cpu', 'cuda'\nhint: Run `bnfold recalibrate --help` for the options.\n",
        ),
        (
            "recalibrate",
            "tensorrt",
            "error: invalid value for '--ep': 'tensorrt' is not one of 'cpu', 'cuda'\nhint: Run `bnfold recalibrate --help` for the options.\n",
        ),
        ("evaluate", "gpu", "error: unknown execution provider 'gpu'\nhint: Choose from: cpu, cuda, tensorrt"),
    ],
)
def test_an_unknown_provider_is_exit_2(
    command: str,
    ep: str,
    words: str,
    here: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run([command, "m.onnx", "--data", "t.npz", "--ep", ep]) == 2
    assert capfd.readouterr().err.startswith(words)
    with pytest.raises(UsageProblem):
        Options(provider=ep)


@pytest.mark.parametrize("command", [["recalibrate"], ["recalibrate", "--check"], ["evaluate"]], ids=" ".join)
def test_a_provider_that_cannot_run_here_is_exit_4_and_nothing_is_written(
    command: list[str],
    here: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(names: list[str]) -> None:
        raise EnvironmentProblem("CUDAExecutionProvider cannot run here: libcurand.so.10 is missing", "Install it.")

    monkeypatch.setattr(host, "require_providers", missing)
    written(Path("m.onnx"), conv_bn())
    np.savez("t.npz", X=data(conv_bn()), labels=np.zeros(150, np.int64))
    before = listing(here)
    assert run([command[0], "m.onnx", "--data", "t.npz", "--ep", "cuda", *command[1:]]) == 4
    assert capfd.readouterr().err == (
        "error: CUDAExecutionProvider cannot run here: libcurand.so.10 is missing\nhint: Install it.\n"
    )
    assert listing(here) == before


def test_without_a_gpu_the_doctor_says_so() -> None:
    if examine("cuda").works:
        pytest.skip("there is a GPU")
    with pytest.raises(EnvironmentProblem, match="CUDAExecutionProvider cannot run here") as caught:
        recalibrate(model_of(MODEL), [], provider="cuda")
    assert caught.value.hint


def test_the_report_names_the_provider(cuda: Asked, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written(Path("m.onnx"), conv_bn())
    np.savez("t.npz", X=data(conv_bn()))
    assert run(["recalibrate", "m.onnx", "--data", "t.npz", "--ep", "cuda", "--json", "r.json"]) == 0
    assert json.loads(Path("r.json").read_text())["provider"] == "cuda"
    assert "cuda, strict math: " in capfd.readouterr().err


# On a GPU: python -m pytest -m gpu


@pytest.fixture(scope="module")
def health() -> str:
    """Why CUDA does not run here, or nothing."""
    return examine("cuda").why


@pytest.fixture
def gpu(health: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, looked at once: a child for every test would take most of the time."""
    if health:
        pytest.skip(f"no CUDA here: {health}")
    monkeypatch.setattr(host, "require_providers", lambda names: None)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", POSITIONS)
def test_cuda_finds_the_statistics_that_the_cpu_finds(name: str, method: str) -> None:
    model = model_of(name)
    found = recalibrate(model, [data(model)], method=method, provider="cuda")
    assert apart(found.model, recalibrate(model, [data(model)], method=method).model) < 1e-5
    assert any("on CUDAExecutionProvider" in note for note in found.notes) or name == "first"


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_network_trained_on_a_gpu_is_recalibrated_and_evaluated_there(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    from bnfold.train import TrainOptions, train
    from bnfold.train.export import export

    trained = train(TrainOptions(data="digits", arch="convnet", steps=200, device="cuda", out=tmp_path / "run"))
    model = tmp_path / "m.onnx"
    export(trained.run, model)
    images = load_digits().images[:, None].astype(np.float32) / 16
    found = recalibrate(model, [images], provider="cuda")
    assert apart(found.model, recalibrate(model, [images]).model) < 1e-5
    scores = [evaluate([model], "digits", provider=provider).models[0].top1 for provider in ("cpu", "cuda")]
    assert scores == pytest.approx([trained.accuracy] * 2, abs=5e-3)
