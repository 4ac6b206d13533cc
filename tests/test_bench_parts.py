"""The parts of the benchmark: settings, percentiles, control, conditions, files, modes, what needs a GPU without one."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.benchmarking import Benchmark, answers, bench, environment, gate, launch, outputs
from bnfold.benchmarking.results import Block, Cell
from bnfold.benchmarking.runner import Runner, calls, run_options
from bnfold.benchmarking.settings import Setting, settings
from bnfold.benchmarking.statistics import Interval, judged, nearest_rank, paired, speedup, times, trusted
from bnfold.errors import EnvironmentProblem, Inconclusive, ModelProblem, UsageProblem
from bnfold.process import launcher
from bnfold.process.endings import Failed
from bnfold.process.jobs import Job
from bnfold.runtime import nvml, sessions
from bnfold.runtime.input_options import parse_dim
from bnfold.system.installed import install_command
from bnfold_cli.main import run
from tests.test_bench import dense


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    """Both levels, two batch sizes, I/O binding."""
    return bench(dense(24), dense(6), launches=3, budget_s=5.0, dims={"N": [1, 64]}, mode="device", threads=1, seed=3)


def test_every_combination_is_a_setting() -> None:
    found = settings(["off", "default"], ["cpu"], None, {"N": [1, 8], "M": 3})
    assert [each.words() for each in found[:2]] == ["off, cpu, e2e, N=1, M=3", "default, cpu, e2e, N=1, M=3"]
    assert len(found) == 4
    graphs = settings(["default"], ["cuda"], None, {}, "both")
    assert [(each.mode, each.cuda_graph) for each in graphs] == [("device", False), ("device", True)]
    assert Setting.of(json.loads(json.dumps(found[3].to_json()))) == found[3]


@pytest.mark.parametrize(
    ("levels", "providers", "mode", "graph", "words"),
    [
        (["most"], ["cpu"], None, "off", "unknown optimization level 'most'"),
        (["off"], ["rocm"], None, "off", "unknown execution provider 'rocm'"),
        (["off"], [], None, "off", "unknown execution provider ''"),
        (["off"], ["cpu"], "fast", "off", "unknown mode 'fast'"),
        (["off"], ["cuda"], None, "maybe", "unknown choice of CUDA graph 'maybe'"),
        (["off"], ["cpu"], "enqueue", "off", "mode enqueue needs a GPU"),
        (["off"], ["cpu"], None, "on", "a CUDA graph needs --ep cuda or tensorrt-rtx and --mode device"),
        (["off"], ["cuda", "tensorrt"], None, "on", "a CUDA graph needs --ep cuda or tensorrt-rtx"),
        (["off"], ["cuda"], "e2e", "both", "a CUDA graph needs --ep cuda"),
    ],
)
def test_what_cannot_be_combined(levels: list[str], providers: list[str], mode: str, graph: str, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        settings(levels, providers, mode, {}, graph)


def test_several_sizes_of_a_dimension() -> None:
    assert parse_dim("N=1,8,32") == ("N", (1, 8, 32))
    for text in ("N=1,", "N=1,x", "N=0,1"):
        with pytest.raises(UsageProblem, match="NAME=SIZE"):
            parse_dim(text)


def test_gpu_options_are_those_that_onnxruntime_documents() -> None:
    graph = Setting("default", "cuda", "device", cuda_graph=True).chain()
    assert graph == [("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
    compiled = Setting("default", "tensorrt-rtx", "device", cuda_graph=True).chain({"nv_runtime_cache_path": "a"})
    assert [options for _, options in compiled] == [{"nv_runtime_cache_path": "a", "enable_cuda_graph": "1"}, {}]
    for provider, options in [
        *graph,
        *Setting("default", "tensorrt", "device").chain({"trt_engine_cache_enable": "1"}),
    ]:
        assert sessions.checked_options(provider, options) == options
    assert run_options("enqueue").get_run_config_entry("disable_synchronize_execution_providers") == "1"
    with pytest.raises(RuntimeError, match="disable_synchronize"):
        run_options("device").get_run_config_entry("disable_synchronize_execution_providers")


class Bound:
    """Stands for a session with I/O binding."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def io_binding(self) -> Bound:
        return self

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="y")]

    def bind_output(self, name: str, device: str) -> None:
        self.said.append(f"{name} on {device}")

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.said.append("run")

    def synchronize_outputs(self) -> None:
        self.said.append("wait")


def test_in_mode_enqueue_only_the_end_of_a_block_waits() -> None:
    session = Bound()
    made = Runner(session, *calls(session, Setting("default", "cuda", "enqueue"), {}, {}))
    made.block(3)
    assert session.said == ["y on cuda", "run", "run", "wait", "run", "run", "run", "wait"]
    assert len(made.blocks[0]) == 3


def test_device_mode_computes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(dense(3), path)
    session = sessions.session(str(path), sessions.options("default"))
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    for mode in ("device", "e2e"):
        submit, finish, fetch = calls(session, Setting("default", "cpu", mode), {"t0": x}, {"y": ([4, 64], "float32")})
        submit()
        finish()
        np.testing.assert_array_equal(fetch()["y"], session.run(None, {"t0": x})[0])


def test_warming_up_takes_time_and_runs_until_it_is_steady_or_the_deadline_is_over() -> None:
    import time

    calm = Runner(None, lambda: time.sleep(0.002), lambda: None)
    started = time.perf_counter()
    calm.warm(started + 5)
    assert 0.2 <= time.perf_counter() - started < 5
    started = time.perf_counter()
    calm.warm(started)
    assert time.perf_counter() - started < 0.1


def test_percentiles_wait_for_their_floors() -> None:
    def percentiles_shown(count: int) -> tuple[bool, bool]:
        found = times([1e-3 * (i + 1) for i in range(count)])
        return found.p90 is not None, found.p99 is not None

    assert [percentiles_shown(n) for n in (1, 63, 64, 661, 662)] == [(False,) * 2] * 2 + [(True, False)] * 2 + [
        (True, True)
    ]
    assert [nearest_rank([*range(1, 101)], share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    found = times([1e-3] * 50 + [3e-3] * 50)
    assert (found.p50, found.iqr, found.unstable) == (pytest.approx(1), pytest.approx(2), True)
    assert found.cv == pytest.approx(0.5, rel=0.02)
    assert not times([1e-3] * 50).unstable


def test_the_control_must_measure_like_itself() -> None:
    assert trusted([0.001, -0.001, 0.0005])
    assert trusted([0.004, 0.0041, 0.0042])  # surely not 1, yet nothing that would count as a difference
    assert not trusted([0.05, 0.051, 0.049])
    assert not trusted([-0.05, -0.051, -0.049])
    assert trusted([0.02, 0.05])  # two launches say little


def test_a_difference_counts_only_beyond_the_noise_floor() -> None:
    calm, noisy = [0.0, 0.001, -0.001], [0.05, -0.05, 0.0]
    assert judged([0.1, 0.101, 0.099], calm) == "FASTER"
    assert judged([0.1, 0.101, 0.099], noisy) == "INCONCLUSIVE"
    assert judged([-0.1, -0.101, -0.099], calm) == "SLOWER"
    assert judged([-0.1, -0.101, -0.099], noisy) == "INCONCLUSIVE"
    assert judged(calm, noisy) == "EQUIVALENT"
    assert judged(calm, [0.1, 0.101, 0.099]) == "UNTRUSTED"


def entry(ratio: float, control: float = 0.0, **more: Any) -> dict[str, Any]:
    """What one launch says of one setting."""
    runs = {"original": [[2e-3] * 4], "folded": [[2e-3 / math.exp(ratio)] * 4], "copy": [[2e-3] * 4]}
    plain = {"create_ms": [1, 1], "first_run_ms": [1, 1], "enqueue_ms": [None, None], "placed": [{}, {}]}
    plain |= {"difference": 1e-6}
    return {"log_ratio": ratio, "log_control": control, "blocks": runs, **plain, **more}


FACTS = {"batch_normalization": {"original": 5, "folded": 0}, "left_by_onnxruntime": {"original": 2, "folded": 0}}


SERVED = Setting("default")


def cell(ratios: list[float], controls: list[float], setting: Setting = SERVED, **more: Any) -> Cell:
    return answers.cell(setting, [entry(*pair, **more) for pair in zip(ratios, controls, strict=True)], FACTS, 0.01)


def test_a_cell_is_judged_by_its_margin_and_its_control() -> None:
    fast, calm = [0.1, 0.101, 0.099], [0.0, 0.001, -0.001]
    assert cell(fast, calm).verdict == "FASTER"
    assert cell(fast, fast).verdict == "UNTRUSTED"
    assert cell(calm, calm).verdict == "EQUIVALENT"
    assert answers.cell(Setting("default"), [entry(r) for r in fast], FACTS, 0.2).verdict == "EQUIVALENT"
    assert cell(fast, calm).left == (2, 0)
    assert cell(fast, calm, Setting("off")).left == (5, 0)


def test_a_run_that_is_mostly_submission_is_launch_bound() -> None:
    gpu, calm = Setting("default", "cuda", "device"), [0.0, 0.001, -0.001]
    assert "LAUNCH_BOUND" in cell(calm, calm, gpu, enqueue_ms=[1.9, 0.1]).flags
    assert "LAUNCH_BOUND" not in cell(calm, calm, gpu, enqueue_ms=[1.0, 0.1]).flags
    assert cell(calm, calm, gpu).enqueue_ms is None


def test_notes_say_what_slowed_the_gpu_and_what_sits_elsewhere() -> None:
    calm = [0.0, 0.001, -0.001]
    gpu = Setting("default", "cuda", "device")
    placed = [{"CUDAExecutionProvider": 3, "CPUExecutionProvider": 1}, {"CUDAExecutionProvider": 3}]
    around = {"load_average": [0.0], "processors_usable": 2, "gpus": [{"clocks_event_reasons": ["GpuIdle"]}]}
    around["gpus_after"] = [{"clocks_event_reasons": ["SwThermalSlowdown"]}]
    bound = cell(calm, calm, gpu, placed=placed, enqueue_ms=[1.9, 1.9])
    found = " ".join(
        answers.notes(
            around, {"float16": {"same_graph": True, "notes": []}}, [bound, cell([0.1] * 3, [0.1, 0.11, 0.1])]
        )
    )
    for words in ("same graph in float16", "SwThermalSlowdown", "CUDA graph or", "on the CPU", "measure like itself"):
        assert words in found


@pytest.mark.parametrize(
    ("difference", "column", "words"),
    [
        (1e-6, "1.0e-06", ""),
        (0.2, "2.0e-01", "are 0.2 of the largest apart"),
        (None, "unknown", "cannot be compared"),
    ],
)
def test_models_that_may_not_compute_the_same_are_noted(difference: float | None, column: str, words: str) -> None:
    calm = [0.0, 0.001, -0.001]
    apart = cell(calm, calm, difference=difference)
    assert apart.row({"level"})[-1] == column
    around = {"load_average": None, "gpus": [], "gpus_after": []}
    found = answers.notes(around, {}, [apart])
    assert [words in note for note in found] == [True] * bool(words)


def test_models_whose_outputs_have_other_names_are_timed_all_the_same() -> None:
    other = dense(1)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "z"
    for mode in ("e2e", "device"):
        found = bench(dense(1), other, levels=["default"], launches=2, budget_s=0.5, mode=mode, cold=False)
        assert found.cells[0].difference is None


def test_settings_levels_and_sizes_each_have_a_cell(measured: Benchmark) -> None:
    words = [each.setting.words() for each in measured.cells]
    assert words == [f"{level}, cpu, device, N={n}" for n in (1, 64) for level in ("off", "default")]
    assert [each.setting.dims for each in measured.headlines] == [(("N", 1),), (("N", 64),)]
    small, large = (each.ms[0] for each in measured.headlines)
    assert large > small
    assert all(each.times[0].p50 > 0 and each.times[0].count >= 9 for each in measured.cells)
    assert len(measured.rows()[0]) == len(measured.COLUMNS)
    assert len(measured.scatter()[0]) == len(measured.SCATTER)


def test_cold_costs_are_those_of_a_process_of_its_own(measured: Benchmark) -> None:
    original, folded = measured.cold
    assert (original.model, folded.model) == ("original", "folded")
    assert original.bytes > folded.bytes > 64 * 64 * 4
    assert original.peak_bytes is None or original.peak_bytes > 20e6
    assert original.create_ms > 0
    assert len(original.row()) == len(measured.COLD)


def test_the_size_of_a_model_counts_its_external_data(tmp_path: Path) -> None:
    from bnfold.benchmarking.runner import size_on_disk

    path = tmp_path / "m.onnx"
    onnx.save(dense(2), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert size_on_disk(str(path)) == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_raw_samples_are_every_block(measured: Benchmark, tmp_path: Path) -> None:
    outputs.write_raw(measured, tmp_path / "raw.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} == {"original", "folded", "copy"}
    assert {line["launch"] for line in lines} == {*range(measured.launches)}
    for line in lines:
        assert line["seconds"] == pytest.approx(sum(line["times"]))
        assert line["iterations"] == len(line["times"])
    first = [line for line in lines if line["launch"] == 0 and line["level"] == "off" and line["dims"] == [["N", 1]]]
    by = {name: [line["times"] for line in first if line["model"] == name] for name in ("original", "folded", "copy")}
    assert paired(by["original"], by["folded"]) == pytest.approx(measured.cells[0].log_ratios[0])
    assert paired(by["original"], by["copy"]) == pytest.approx(measured.cells[0].log_controls[0])


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_the_picture_is_whole_or_not_there(measured: Benchmark, tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    outputs.write_plot(measured, path)
    assert path.read_bytes().startswith(start)
    missing = tmp_path / "no" / name
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        outputs.write_plot(measured, missing)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_without_matplotlib_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["bench", "a.onnx", "b.onnx", "--plot", "x.png"]) == 4
    said, hint = capsys.readouterr().err.splitlines()
    assert said.startswith("error: a picture needs the package matplotlib, which cannot be imported here (")
    assert hint == f"hint: {install_command('plot')}"


@pytest.mark.parametrize(
    ("text", "high", "fails"),
    [
        ("slower:2%", 0.979, True),
        ("slower:2%", 0.981, False),  # 1/1.02 = 0.9804
        ("slower:0%", 0.999, True),
        ("speedup<1.05", 1.049, True),
        ("speedup<1.05", 1.051, False),
        ("speedup<1.05", math.inf, False),
    ],
)
def test_a_condition_holds_when_the_whole_interval_says_so(text: str, high: float, fails: bool) -> None:
    assert gate.gate(text).fails(Interval(high - 0.02, high - 0.04, high)) is fails


@pytest.mark.parametrize(
    "text", ["slower", "slower:2", "slower:x%", "slower:-2%", "speedup>1", "speedup<", "speedup<0"]
)
def test_a_condition_that_is_none_is_a_usage_problem(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "a.onnx", "b.onnx", "--fail-if", text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: --fail-if {text!r} is not a condition\nhint: ")


def test_margins() -> None:
    assert [gate.percent(text) for text in ("1%", "0.01", ".5%")] == pytest.approx([0.01, 0.01, 0.005])
    for text in ("0", "0%", "100%", "x", "-1%", "1.5"):
        with pytest.raises(UsageProblem, match="--margin"):
            gate.percent(text)


def test_unstable_is_said_only_where_there_is_no_verdict() -> None:
    calm, wild = [0.0, 0.001, -0.001], [-0.5, 0.5, 0.1]
    scattered = times([1e-3, 9e-3] * 50)
    flags = {
        found.verdict: replace(found, times=(scattered, scattered)).flags
        for found in (cell(calm, calm), cell(wild, calm))
    }
    assert flags == {"EQUIVALENT": (), "INCONCLUSIVE": ("UNSTABLE",)}


def test_only_trusted_cells_at_the_default_level_fail(measured: Benchmark) -> None:
    calm, slow = [0.0, 0.001, -0.001], [-0.1, -0.101, -0.099]
    off, default = Setting("off"), Setting("default")
    found = replace(measured, cells=(cell(slow, calm, off), cell(calm, calm, default)))
    assert gate.failures(found, [gate.gate("slower:2%")]) == []
    assert len(gate.failures(found, [gate.gate("slower:2%"), gate.gate("speedup<1.05")])) == 1
    assert gate.failures(replace(measured, cells=(cell(slow, slow, default),)), [gate.gate("slower:2%")]) == []


@pytest.mark.parametrize(
    ("ratios", "controls", "options", "code"),
    [
        ([0.1, 0.101, 0.099], [0.0, 0.001, -0.001], ["--fail-if", "slower:2%"], 0),
        ([-0.1, -0.101, -0.099], [0.0, 0.001, -0.001], [], 0),
        ([-0.1, -0.101, -0.099], [0.0, 0.001, -0.001], ["--fail-if", "slower:2%"], 1),
        ([0.1, 0.101, 0.099], [0.0, 0.001, -0.001], ["--fail-if", "speedup<1.5"], 1),
        ([-0.1, -0.101, -0.099], [0.1, 0.101, 0.099], ["--fail-if", "slower:2%"], 5),
        ([-0.5, 0.5, 0.1], [0.0, 0.001, -0.001], [], 0),
        ([-0.5, 0.5, 0.1], [0.0, 0.001, -0.001], ["--fail-if", "slower:2%"], 5),
        ([-0.1, -0.101, -0.099], [0.0, 0.001, -0.001], ["--fail-if", "slower:2%", "--fail-if", "speedup<0.905"], 1),
    ],
)
def test_exit_codes_of_an_answer(
    measured: Benchmark,
    ratios: list[float],
    controls: list[float],
    options: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import bnfold.benchmarking

    found = replace(measured, cells=(cell(ratios, controls),), notes=())
    monkeypatch.setattr(bnfold.benchmarking, "bench", lambda *_, **__: found)
    assert run(["bench", "a.onnx", "b.onnx", *options]) == code
    out, err = capsys.readouterr()
    assert " ".join(out.split()).endswith("BatchNormalization by itself")
    assert err.startswith("failed: ") == bool(code == 1 or "is not decided" in err)
    assert ("is not decided" in err) == (code == 5 and found.verdict != "UNTRUSTED" or "speedup<0.905" in options)


def test_all_options_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, layers in (("a", 12), ("b", 3)):
        onnx.save(dense(layers), tmp_path / f"{name}.onnx")
    options = "--quick --budget 3 --launches 2 --ep cpu --mode e2e --cuda-graph off --dim N=2,4 --threads 1 --margin 2%"
    places = ["--json", "-", "--raw", str(tmp_path / "r.jsonl"), "--plot", str(tmp_path / "p.svg")]
    command = ["bench", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), *options.split(), *places]
    assert run([*command, "--fail-if", "slower:2%"]) in (0, 5)
    answer = json.loads(capsys.readouterr().out)
    assert [(each["level"], each["dims"]) for each in answer["cells"]] == [
        (level, [["N", n]]) for n in (2, 4) for level in ("off", "default")
    ]
    assert (answer["margin"], answer["failed"], answer["launches"]) == (0.02, [], 2)
    assert answer["environment"]["threads"] == 1
    assert (tmp_path / "r.jsonl").exists()
    assert (tmp_path / "p.svg").exists()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_a_provider_that_cannot_run_is_exit_4_and_says_what_is_missing(
    provider: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"libcudart.so.13": "libcudart.so.13: cannot open shared object file: No such file or directory"}
    answer = {"offered": True, "libraries": missing, "ran_on": [], "said": "", "versions": {"onnxruntime": "1"}}
    monkeypatch.setattr(launcher, "run", lambda *_, **__: {**answer, "driver": {}})
    onnx.save(dense(1), tmp_path / "m.onnx")
    assert run(["bench", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"), "--ep", provider]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "libcudart.so.13 (wheel nvidia-cuda-runtime) is missing" in err


class Launches:
    """Stands for the children of a benchmark: each launch gives the next ratio."""

    def __init__(self, ratios: list[float]) -> None:
        self.ratios, self.asked = ratios, 0

    def __call__(self, job: Job, request: Any, **_: Any) -> dict[str, Any]:
        if job.__name__ == "preflight":
            sized = [{"sizes": {}, "shapes": {}, "outputs": {}}]
            facts = {**FACTS, "nodes": {}, "same_graph": False, "models": {}, "notes": []}
            return {"sized": sized, "precisions": {"": facts}, "build": "b"}
        if job.__name__ == "cold_start":
            return {"create_ms": 1.0, "first_run_ms": 1.0, "bytes": 1, "peak_bytes": None}
        self.asked += 1
        return {
            "cells": [entry(self.ratios[self.asked - 1], 0.0001 * (-1) ** self.asked)],
            "loaded": {},
            "gpus": [],
            "notes": [],
        }


@pytest.mark.parametrize(
    ("ratios", "launches"),
    [
        ([0.0, 0.0001, 0.0002, 0.0, 0.0, 0.0, 0.0], 3),  # narrow
        ([0.5, 0.6, 0.7, 0.5, 0.6, 0.7, 0.5], 7),  # significant from the third on, yet wide
    ],
)
def test_it_stops_on_width_never_on_significance(
    ratios: list[float], launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Launches(ratios)
    monkeypatch.setattr(launcher, "run", children)
    found = bench(dense(1), dense(1), levels=["default"], launches=7)
    assert found.launches == children.asked == launches
    assert speedup(ratios[:3]).low > 1 or launches == 3


def test_the_budget_holds_with_the_control_and_the_cold_costs() -> None:
    import time

    started = time.perf_counter()
    found = bench(dense(4), dense(3), budget_s=8.0, threads=1)
    assert time.perf_counter() - started < 12
    assert found.launches >= 3


def test_a_launch_that_does_not_end_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stuck(job: Job, request: Any, *, seconds: float, reserves: bool) -> dict[str, Any]:
        seen.append(seconds)
        raise Failed("it took too long")

    monkeypatch.setattr(launcher, "run", stuck)
    with pytest.raises(Inconclusive, match="too long"):
        bench(dense(1), dense(1))
    assert seen[0] >= 60


NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13020; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { strncpy(text, "580", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(long)(i + 7); return 0; }
int nvmlDeviceGetName(void *h, char *text, unsigned n) { strncpy(text, "H100", n); return 0; }
int nvmlDeviceGetUUID(void *h, char *text, unsigned n) { strncpy(text, "GPU-x", n); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *a, int *b) { *a = 9; *b = 0; return 0; }
int nvmlDeviceGetClockInfo(void *h, unsigned kind, unsigned *v) { *v = h == (void *)7 ? 1000 * kind + 980 : 0; return 0; }
int nvmlDeviceGetTemperature(void *h, unsigned kind, unsigned *v) { return 3; }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *v) { *v = 0x24; return 0; }
"""  # fmt: skip


def library(code: str, path: Path) -> str:
    path.with_suffix(".c").write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, path.with_suffix(".c")], check=True)
    return str(path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", ["Event", "Throttle"])  # drivers before 535 say Throttle
def test_the_state_of_a_gpu_is_read_through_nvml(name: str, tmp_path: Path) -> None:
    reasons = ["SwPowerCap", "SwThermalSlowdown"]
    expected = {"name": "H100", "driver": "580", "sm_mhz": 1980, "memory_mhz": 2980, "celsius": None}
    found = nvml.states(library(NVML.replace("EventReasons", f"{name}Reasons"), tmp_path / "nvml.so"))
    assert found == [{**expected, "clocks_event_reasons": reasons}]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_without_nvml_there_are_no_gpus(tmp_path: Path) -> None:
    assert nvml.states("no_such_library.so") == []
    off = NVML.replace("nvmlInit_v2(void) { return 0; }", "nvmlInit_v2(void) { return 9; }")
    assert nvml.states(library(off, tmp_path / "off.so")) == []


def test_a_block_as_json() -> None:
    plain = Block(2, Setting("off", dims=(("N", 4),)), "copy", (0.5, 0.25)).to_json()
    assert plain == {
        "launch": 2,
        "level": "off",
        "provider": "cpu",
        "mode": "e2e",
        "dims": (("N", 4),),
        "cuda_graph": False,
        "cudnn_search": "",
        "precision": "",
        "model": "copy",
        "seconds": 0.75,
        "iterations": 2,
        "times": [0.5, 0.25],
    }


@pytest.mark.slow
def test_a_model_against_itself_is_never_faster(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(dense(12), path)
    verdicts = [bench(path, path, levels=["default"], threads=1, budget_s=8, seed=s).verdict for s in range(20)]
    assert {*verdicts} <= {"EQUIVALENT", "INCONCLUSIVE"}


def test_a_kind_of_picture_that_nobody_draws_is_refused_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(dense(4), tmp_path / "m.onnx")
    assert run(["bench", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"), "--plot", "p.gif"]) == 2
    assert "error: --plot p.gif: '.gif' is not a format of pictures" in capsys.readouterr().err


def test_a_model_that_loads_and_does_not_run_is_no_measurement(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float y) <int64[1] d = {7}> { y = Reshape (x, d) }'
    model = onnx.parser.parse_model(text)
    with pytest.raises(ModelProblem, match="onnxruntime cannot run .*Reshape"):
        bench(model, model, budget_s=4.0, launches=2)


def test_the_most_memory_is_known_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = launch._peak()
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert peak is not None
    assert 0.5 < launch._peak() / peak < 2
    monkeypatch.setattr(sys, "platform", "win32")
    assert launch._peak() is None


@pytest.mark.parametrize("installed", [{"onnxruntime": "1.0"}, {}])
def test_which_onnxruntime_was_measured_is_recorded(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    monkeypatch.setattr(environment, "runtimes", lambda: installed)
    assert environment.environment()["onnxruntime"] == ("onnxruntime 1.0" if installed else None)
