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
from bnfold.evaluation import evaluate
from bnfold.recalibration import Options, Recalibration, check, recalibrate
from bnfold.recalibration.asked import METHODS
from bnfold.runtime import host, libraries, providers, sessions
from bnfold.runtime.doctor import examined
from bnfold.runtime.providers import DEFAULT, STRICT, Way
from bnfold.runtime.sessions import CPU, CUDA
from bnfold_cli.main import run
from tests.test_cli import conv_bn, listing, written
from tests.test_evaluate import classifier
from tests.test_recalibrate import POSITIONS, data, model_of

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

    monkeypatch.setattr(host, "require", lambda names: None)
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
    assert "cuda, strict math: 6 nodes on CPUExecutionProvider" in found.notes
    assert same(found, recalibrate(model, [data(model)], method=method)) == 0


def same(found: Recalibration, wanted: Recalibration) -> float:
    """How far statistics are apart, of the size of what was normalized: the most of all channels."""
    far = [0.0]
    for ours, theirs in zip(stored(found.model), stored(wanted.model), strict=True):
        spread = np.sqrt(theirs[1] + np.square(theirs[0]))
        far += [np.abs((ours[0] - theirs[0]) / spread).max(), np.abs(ours[1] / theirs[1] - 1).max()]
    return float(np.max(far))


def stored(model: onnx.ModelProto) -> list[list[np.ndarray]]:
    """Mean and variance of every BatchNormalization."""
    arrays = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    return [[arrays[x] for x in node.input[3:5]] for node in model.graph.node if node.op_type == "BatchNormalization"]


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
    note = "cuda, strict math: 0 nodes on CUDAExecutionProvider, 6 nodes on CPUExecutionProvider"
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
        ("recalibrate", "gpu", "error: unknown choice 'gpu' for --ep\nhint: Choose one of: cpu, cuda.\n"),
        ("recalibrate", "tensorrt", "error: unknown choice 'tensorrt' for --ep\nhint: Choose one of: cpu, cuda.\n"),
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

    monkeypatch.setattr(host, "require", missing)
    written(Path("m.onnx"), conv_bn())
    np.savez("t.npz", X=data(conv_bn()), labels=np.zeros(150, np.int64))
    before = listing(here)
    assert run([command[0], "m.onnx", "--data", "t.npz", "--ep", "cuda", *command[1:]]) == 4
    assert capfd.readouterr().err == (
        "error: CUDAExecutionProvider cannot run here: libcurand.so.10 is missing\nhint: Install it.\n"
    )
    assert listing(here) == before


def test_without_a_gpu_the_doctor_says_so() -> None:
    if examined("cuda").works:
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
def gpu() -> None:
    health = examined("cuda")
    if not health.works:
        pytest.skip(f"no CUDA here: {health.why}")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", POSITIONS)
def test_cuda_finds_the_statistics_that_the_cpu_finds(name: str, method: str) -> None:
    model = model_of(name)
    found = recalibrate(model, [data(model)], method=method, provider="cuda")
    assert same(found, recalibrate(model, [data(model)], method=method)) < 1e-5
    assert any("on CUDAExecutionProvider" in note for note in found.notes) or name == "first"


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_network_trained_on_a_gpu_is_recalibrated_and_evaluated_there(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    from bnfold.train import TrainOptions, train
    from bnfold.train.export import export

    options = TrainOptions(data="digits", arch="convnet", steps=300, device="cuda", out=tmp_path / "run")
    trained = train(options)
    model = tmp_path / "m.onnx"
    export(trained.run, model)
    digits = load_digits()
    images = np.tile(digits.images[:, None].astype(np.float32) / 16, (1, 1, 1, 1))
    found = recalibrate(model, [images], provider="cuda")
    assert same(found, recalibrate(model, [images])) < 1e-5
    scores = [evaluate([model], "digits", provider=provider).models[0] for provider in ("cpu", "cuda")]
    assert scores[1].top1 == pytest.approx(scores[0].top1, abs=2e-3)
    assert scores[1].top1 == pytest.approx(trained.accuracy, abs=5e-3)
