"""The benchmark on CUDA, where the CPU plays it: which sessions are made, in which order what happens, what is recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from bnfold.benchmarking import bench, launch, measurement, runner, settings
from bnfold.benchmarking.settings import Setting
from bnfold.errors import Inconclusive, ModelProblem, UsageProblem
from bnfold.process import launcher, turns
from bnfold.process.endings import Failed
from bnfold.process.jobs import Job
from bnfold.runtime import libraries, providers, sessions
from bnfold.runtime.sessions import CPU, CUDA
from bnfold_cli.main import run
from tests.test_bench import dense


class Cuda:
    """A CUDA that is the CPU under another name; notes the options that its sessions get, and what children do."""

    def __init__(self) -> None:
        self.options: list[tuple[str, dict[str, str]]] = []
        self.children: list[tuple[str, dict[str, Any]]] = []
        self.during: Callable[[str, Mapping[str, Any]], None] = lambda job, request: None

    def session(self, model: Any, made: Any, chain: Any = ((CPU, {}),)) -> Any:
        self.options += [(str(model), dict(given)) for name, given in chain if name == CUDA]
        return _session(model, made, [(CPU, {}) for _ in chain])

    def child(self, job: Job, request: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        request = json.loads(json.dumps(request))
        self.children.append((job.__name__, request | how))
        self.during(job.__name__, request)
        return json.loads(json.dumps(job(request)))


_session = sessions.session


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    bound = runner._bound
    monkeypatch.setattr(sessions, "session", made.session)
    monkeypatch.setattr(launcher, "run", made.child)
    monkeypatch.setattr(measurement, "require_providers", lambda names: None)
    monkeypatch.setattr(libraries, "preload", lambda provider: None)
    monkeypatch.setattr(runner, "_bound", lambda session, where, *rest: bound(session, {"device_type": "cpu"}, *rest))
    monkeypatch.setattr(runner, "run_options", lambda mode: None)
    return made


QUICK = {"providers": ["cuda"], "levels": ["default"], "budget_s": 0.3, "launches": 3, "threads": 1, "cold": False}


def test_the_search_is_the_same_for_both_models_and_all_sessions_and_recorded(cuda: Cuda) -> None:
    found = bench(dense(4), dense(2), **QUICK, cudnn_search="heuristic")
    assert {options["cudnn_conv_algo_search"] for _, options in cuda.options} == {"HEURISTIC"}
    assert len({model for model, _ in cuda.options}) == 2
    assert [cell["cudnn_search"] for cell in found.to_json()["cells"]] == ["heuristic"]
    assert "heuristic cuDNN search" in found.tables()[0].title


def test_the_usual_search_is_that_of_onnxruntime(cuda: Cuda) -> None:
    found = bench(dense(2), dense(1), **QUICK)
    assert {options["cudnn_conv_algo_search"] for _, options in cuda.options} == {"EXHAUSTIVE"}
    assert found.cells[0].setting.cudnn_search == "exhaustive"


def test_a_search_without_cuda_or_of_another_name_is_a_usage_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(dense(1), tmp_path / "m.onnx")
    command = ["bench", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx")]
    assert run([*command, "--cudnn-search", "heuristic"]) == 2
    assert capsys.readouterr().err.startswith("error: a search of cuDNN needs --ep cuda\nhint: ")
    assert run([*command, "--cudnn-search", "quick", "--ep", "cuda"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: invalid value for '--cudnn-search': 'quick' is not one of 'exhaustive', 'heuristic'"
    )
    chain = settings.settings(["default"], ["tensorrt"], None, {}, cudnn_search="default")[0].chain({})
    assert chain[-1] == (CUDA, {"cudnn_conv_algo_search": "DEFAULT"})


def test_sizes_share_sessions_unless_they_are_built_into_them(cuda: Cuda) -> None:
    how = {**QUICK, "launches": 2, "dims": {"N": [1, 4, 8]}, "cudnn_search": "heuristic"}
    bench(dense(4), dense(2), **how)
    assert len(cuda.options) == 2 * 3
    cuda.options.clear()
    found = bench(dense(4), dense(2), **how, cuda_graph="both")
    tried = 2  # whether graphs can be captured
    assert len(cuda.options) == tried + 2 * 3 * (1 + 3)
    assert sum(options.get("enable_cuda_graph") == "1" for _, options in cuda.options) == tried + 2 * 3 * 3
    parts = [(cell.setting.dims[0][1], cell.setting.cuda_graph) for cell in found.cells]
    assert parts == [(n, graph) for n in (1, 4, 8) for graph in (False, True)]
    assert all(len(cell.log_ratios) == 2 and cell.difference is not None for cell in found.cells)
    served = Setting("default", "tensorrt", "device", (("N", 1),))
    assert served.session == served


def test_a_session_does_not_go_to_and_fro_between_sizes(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA it would search again, each time."""
    events: list[str] = []
    timed, started = launch._figures, runner._runner
    monkeypatch.setattr(launch, "_figures", lambda *a: events.append("timed") or timed(*a))
    monkeypatch.setattr(runner, "_runner", lambda *a: events.append("first run") or started(*a))
    how = {**QUICK, "dims": {"N": [1, 4]}, "launches": 2, "budget_s": 0.5}
    bench(dense(2), dense(1), **how, cudnn_search="exhaustive")
    assert events == [*["first run"] * 3, "timed"] * 4


def test_each_size_is_timed_at_its_size(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    figures = launch._figures

    def noted(ready: Any, *rest: Any) -> Any:
        shapes = [each.fetch()["y"].shape for each in ready.runners.values()]
        seen.append((dict(ready.task.setting.dims)["N"], shapes))
        return figures(ready, *rest)

    monkeypatch.setattr(launch, "_figures", noted)
    bench(dense(2), dense(1), **{**QUICK, "dims": {"N": [1, 4]}}, cudnn_search="heuristic")
    assert sorted(seen) == sorted((n, [(n, 64)] * 3) for n in (1, 4) for _ in range(3))


@pytest.mark.parametrize(("search", "turns_taken"), [("heuristic", 3), ("default", 3), ("exhaustive", 0)])
def test_launches_get_ready_together_where_nothing_is_timed_meanwhile(
    cuda: Cuda, search: str, turns_taken: int
) -> None:
    bench(dense(2), dense(1), **QUICK, cudnn_search=search)
    launched = [request for job, request in cuda.children if job == "launch"]
    assert len(launched) == 3
    assert sum("turn" in request for request in launched) == turns_taken
    assert len({request["seed"] for request in launched}) == 3


def test_the_cpu_never_gets_ready_together(cuda: Cuda) -> None:
    bench(dense(2), dense(1), **{**QUICK, "providers": ["cpu", "cuda"]}, cudnn_search="heuristic")
    assert not any("turn" in request for _, request in cuda.children)


def test_nobody_is_timed_before_all_are_ready_nor_at_the_same_time(tmp_path: Path) -> None:
    events: list[tuple[str, int]] = []

    def one(delay: float, turn: turns.Turn) -> int:
        time.sleep(delay)
        events.append(("ready", turn[1]))
        turns.wait(*turn)
        events.append(("timed", turn[1]))
        time.sleep(0.05)
        events.append(("over", turn[1]))
        return turn[1]

    assert turns.together([partial(one, delay) for delay in (0.1, 0.0, 0.2)]) == [0, 1, 2]
    assert {event for event, _ in events[:3]} == {"ready"}
    assert events[3:] == [(event, number) for number in range(3) for event in ("timed", "over")]


def test_a_launch_that_fails_keeps_nobody_waiting() -> None:
    def one(turn: turns.Turn) -> int:
        if turn[1] == 0:
            raise ModelProblem("it does not fit", "Do nothing.")
        turns.wait(*turn)
        return turn[1]

    with pytest.raises(ModelProblem, match="does not fit"):
        turns.together([one, one, one])


def test_a_launch_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    ended: list[str] = []

    def one() -> None:
        try:
            turns.wait(str(tmp_path / "gone"), 0, 2)
        except SystemExit as why:
            ended.append(str(why))

    thread = threading.Thread(target=one)
    thread.start()
    thread.join(10)
    assert ended == ["the benchmark was given up"]


def test_what_does_not_fit_at_the_same_time_is_done_one_after_another(cuda: Cuda) -> None:
    def full(job: str, request: Mapping[str, Any]) -> None:
        if "turn" in request and request["turn"][1] == 1:
            raise Failed("onnxruntime, loading the copy model failed: out of memory")

    cuda.during = full
    found = bench(dense(2), dense(1), **QUICK, cudnn_search="heuristic")
    assert found.launches == 3
    (note,) = (note for note in found.notes if note.startswith(measurement.ONE_AFTER_ANOTHER))
    assert note.endswith("out of memory")

    def always(job: str, request: Mapping[str, Any]) -> None:
        if job == "launch":
            raise Failed("onnxruntime, loading the copy model failed: out of memory")

    cuda.during = always
    with pytest.raises(Inconclusive, match="out of memory"):
        bench(dense(2), dense(1), **QUICK, cudnn_search="heuristic")


def test_what_the_cpu_cannot_run_is_looked_at_on_cuda(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cuda.session

    def only_cuda(model: Any, options: Any, chain: Any = ((CPU, {}),)) -> Any:
        if chain[0][0] == CPU:
            raise sessions.CannotRun("no kernel for Mystery on the CPU")
        return made(model, options, chain)

    monkeypatch.setattr(sessions, "session", only_cuda)
    found = bench(dense(2), dense(1), **QUICK)
    assert found.cells[0].verdict
    searches = [options["cudnn_conv_algo_search"] for _, options in cuda.options]
    assert searches[:3] == ["DEFAULT"] * 3
    assert {*searches[3:]} == {"EXHAUSTIVE"}
    with pytest.raises(ModelProblem, match="Mystery"):
        bench(dense(2), dense(1), **{**QUICK, "providers": ["cpu"]})


@pytest.mark.parametrize(
    ("options", "search", "jobs"),
    [
        (["--quick"], "heuristic", ["preflight"]),
        (["--quick", "--cudnn-search", "exhaustive"], "exhaustive", ["preflight"]),
        (["--budget", "1"], "exhaustive", ["preflight", *["cold_start"] * 4]),
        (["--budget", "1", "--no-cold"], "exhaustive", ["preflight"]),
    ],
)
def test_a_quick_look_leaves_out_what_takes_long(
    options: list[str], search: str, jobs: list[str], cuda: Cuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(dense(2), tmp_path / "m.onnx")
    command = ["bench", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"), "--ep", "cuda", "--opt", "default"]
    assert run([*command, *options, "--launches", "2", "--json", "-"]) in (0, 5)
    answer = json.loads(capsys.readouterr().out)
    assert [cell["cudnn_search"] for cell in answer["cells"]] == [search]
    assert [job for job, _ in cuda.children if job != "launch"] == jobs
    assert bool(answer["cold"]) is ("cold_start" in jobs)


def test_a_cold_start_shows_what_another_search_costs(cuda: Cuda) -> None:
    how = {**QUICK, "cold": True, "launches": 2}
    for search, other in (("exhaustive", "default"), ("heuristic", "exhaustive"), ("default", "exhaustive")):
        cuda.children.clear()
        found = bench(dense(2), dense(1), **how, cudnn_search=search)
        models = [(cold.cudnn_search, cold.model) for cold in found.cold]
        assert models == [(s, model) for s in (search, other) for model in ("original", "folded")]
        searches = [
            request["cells"][0]["setting"]["cudnn_search"] for job, request in cuda.children if job == "cold_start"
        ]
        assert searches == [search] * 2 + [other] * 2
        seconds = [request["seconds"] for job, request in cuda.children if job == "cold_start"]
        assert min(seconds[:2]) >= 300
        assert max(seconds[2:]) == measurement.LEAST_START
        assert f"cuda, {other} cuDNN search" in [row[0] for row in found.tables()[2].rows]


def test_another_search_may_not_take_minutes(cuda: Cuda) -> None:
    def slow(job: str, request: Mapping[str, Any]) -> None:
        if job == "cold_start" and request["cells"][0]["setting"]["cudnn_search"] == "exhaustive":
            raise Failed(f"loading the {request['model']} model took longer than 8 s and was stopped")

    cuda.during = slow
    found = bench(dense(2), dense(1), **{**QUICK, "cold": True, "launches": 2}, cudnn_search="default")
    assert [cold.cudnn_search for cold in found.cold] == ["default"] * 2
    words = "cold start: loading the {} model took longer than 8 s and was stopped"
    assert {words.format(name) for name in ("original", "folded")} <= {*found.notes}
    with pytest.raises(Inconclusive, match="was stopped"):
        bench(dense(2), dense(1), **{**QUICK, "cold": True, "launches": 2}, cudnn_search="exhaustive")


REFUSED = "This session cannot use the graph capture feature as requested by the user"


def test_where_no_cuda_graph_can_be_captured_the_rest_is_timed(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cuda.session

    def without_graphs(model: Any, options: Any, chain: Any = ((CPU, {}),)) -> Any:
        if "enable_cuda_graph" in chain[0][1]:
            raise sessions.CannotRun(REFUSED)
        return made(model, options, chain)

    monkeypatch.setattr(sessions, "session", without_graphs)
    how = {**QUICK, "launches": 2, "dims": {"N": [1, 2]}, "cudnn_search": "default"}
    found = bench(dense(2), dense(1), **how, cuda_graph="both")
    assert [cell.setting.cuda_graph for cell in found.cells] == [False, False]
    assert any(note.startswith("no CUDA graph: onnxruntime cannot load") and REFUSED in note for note in found.notes)
    assert measurement.GRAPHS_NEED in found.notes
    with pytest.raises(ModelProblem, match="no CUDA graph: .*cannot use the graph capture") as caught:
        bench(dense(2), dense(1), **how, cuda_graph="on")
    assert caught.value.hint == measurement.GRAPHS_NEED


def test_a_cuda_graph_is_tried_in_a_process_of_its_own_once_for_each_precision(cuda: Cuda) -> None:
    how = {**QUICK, "launches": 2, "dims": {"N": [1, 2]}, "cudnn_search": "default"}
    found = bench(dense(2), dense(1), **how, cuda_graph="both", precisions=["float32", "float16"])
    tried = [request["cells"][0]["setting"] for job, request in cuda.children if job == "capture_graph"]
    assert [(each["precision"], each["cuda_graph"], each["dims"]) for each in tried] == [
        (precision, True, [["N", 1]]) for precision in ("float32", "float16")
    ]
    assert len(found.cells) == 2 * 2 * 2
    bench(dense(2), dense(1), **{**QUICK, "launches": 2})
    assert [job for job, _ in cuda.children].count("capture_graph") == 2


def test_a_provider_without_memory_of_its_own_is_noted(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "cuda offers no memory of its own: inputs and outputs are bound in the CPU's"
    assert words not in bench(dense(2), dense(1), **QUICK).notes
    monkeypatch.setattr(launch, "memory", lambda way: {"device_type": "cpu"})
    assert words in bench(dense(2), dense(1), **QUICK).notes
    assert words not in bench(dense(2), dense(1), **{**QUICK, "mode": "e2e"}).notes


def test_levels_are_those_of_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(dense(1), tmp_path / "m.onnx")
    command = ["bench", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"), "--quick"]
    assert run([*command, "--opt", "off", "--json", "-"]) in (0, 5)
    assert [cell["level"] for cell in json.loads(capsys.readouterr().out)["cells"]] == ["off"]
    assert run([*command, "--opt", "most"]) == 2
    assert "unknown optimization level 'most'" in capsys.readouterr().err


def test_a_provider_that_is_missing_comes_before_what_is_wrong_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(names: list[str]) -> None:
        assert names == ["cuda"]
        raise UsageProblem("no GPU", "Get one.")

    def wrong(job: str, request: object, **how: object) -> dict[str, object]:
        raise ModelProblem("the model is wrong", "Repair it.")

    monkeypatch.setattr(measurement, "require_providers", missing)
    monkeypatch.setattr(launcher, "run", wrong)
    with pytest.raises(UsageProblem, match="no GPU"):
        bench(dense(1), dense(1), providers=["cuda"])
    assert providers.PROVIDERS["cuda"] == CUDA


def test_outputs_that_differ_are_reported() -> None:
    import numpy as np

    a = {"y": np.array([1.0, -4.0], np.float32), "z": np.array([], np.float32)}
    assert launch.difference(a, a) == 0
    assert launch.difference(a, {**a, "y": np.array([1.0, -3.0], np.float16)}) == 0.25
    assert launch.difference(a, {**a, "y": np.array([1.0, np.nan])}) is None
    assert launch.difference(a, {"y": a["y"]}) is None
    assert launch.difference(a, {**a, "y": np.ones((2, 2), np.float32)}) is None
    assert launch.difference({"y": np.zeros(2)}, {"y": np.array([0.0, 0.5])}) == 0.5
    assert launch.difference({"i": np.array([250], np.uint8)}, {"i": np.array([255], np.uint8)}) == 5 / 250
