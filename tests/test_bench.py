"""The benchmark: its statistics against known values, and small real runs of it in real child processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.benchmarking import bench
from bnfold.benchmarking.environment import environment
from bnfold.benchmarking.results import Benchmark
from bnfold.benchmarking.statistics import Interval, is_steady, paired, speedup, student_cdf, student_quantile, verdict
from bnfold.errors import EnvironmentProblem, Inconclusive, ModelProblem, UsageProblem
from bnfold.runtime.input_options import parse_dim
from bnfold.system.limits import limited

T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 6: 2.4469, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize("freedom", T_TABLE)
def test_student_quantile_is_that_of_the_tables(freedom: int) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(T_TABLE[freedom], abs=6e-5)
    assert student_cdf(-T_TABLE[freedom], freedom) == pytest.approx(0.025, abs=2e-6)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 29, 30, 1000])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.995, 0.9995])
def test_student_quantile_is_that_of_scipy(probability: float, freedom: int) -> None:
    special = pytest.importorskip("scipy.special")
    assert student_quantile(probability, freedom) == pytest.approx(special.stdtrit(freedom, probability), rel=1e-12)


def test_the_interval_is_the_t_interval_of_the_logarithms() -> None:
    found = speedup([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (math.exp(0.2), math.exp(0.2 - half), math.exp(0.2 + half))
    )
    assert found.half_width == pytest.approx(half)
    assert speedup([0.1]) == Interval(math.exp(0.1), 0.0, math.inf)


def simulated(
    random: np.random.Generator, truth: float, effect: float = 0.004, drift: float = 0.01, rho: float = 0.7
) -> list[float]:
    """Log ratios of seven launches, each with an effect of its own, slow drift, and autocorrelated noise in every block."""
    ratios = []
    for _ in range(7):
        base, own = random.normal(0, 0.05), random.normal(0, effect)
        noise, blocks = 0.0, ([], [])
        for block in range(20):
            slow = drift * math.sin(block / 6 + base * 100)
            for which in random.permutation(2):
                times = []
                for shock in random.normal(0, 0.01, 10).tolist():
                    noise = rho * noise + shock
                    times.append(math.exp(base + slow + noise + (truth + own if which == 0 else 0.0)))
                blocks[which].append(times)
        ratios.append(paired(*blocks))
    return ratios


@pytest.mark.parametrize(
    "how",
    [{}, {"drift": 0.0, "rho": 0.0}, {"effect": 0.0, "rho": 0.0, "drift": 0.05}, {"effect": 0.0, "rho": 0.9}],
    ids=["all effects", "launches", "drift", "autocorrelation"],
)
def test_the_95_percent_interval_covers_the_truth_about_95_percent_of_the_time(how: dict[str, float]) -> None:
    random = np.random.default_rng(1)
    intervals = [speedup(simulated(random, math.log(1.05), **how)) for _ in range(600)]
    assert 0.92 <= sum(i.low <= 1.05 <= i.high for i in intervals) / len(intervals) <= 0.98


def test_an_interval_over_pooled_runs_would_not() -> None:
    """Why there are launches: runs of one process share an effect that no number of them averages out."""
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        own = random.normal(0, 0.004)
        runs = [random.normal(own, 0.01) for _ in range(1400)]
        covered += abs(float(np.mean(runs))) < 1.96 * float(np.std(runs)) / math.sqrt(len(runs))
    assert covered / 200 < 0.5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.02, 1.05, "FASTER"),
        (0.995, 1.008, "EQUIVALENT"),
        (1.001, 1.004, "EQUIVALENT"),
        (0.9, 0.98, "SLOWER"),
        (0.97, 1.05, "INCONCLUSIVE"),
        (0.0, math.inf, "INCONCLUSIVE"),
        (1.005, 1.2, "FASTER"),
    ],
)
def test_verdicts(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == expected


def test_steady_waits_until_warming_up_is_over() -> None:
    assert not is_steady([1.0] * 14)
    assert is_steady([5.0] * 5 + [1.0] * 15)
    assert not is_steady([2.0] * 5 + [1.5] * 5 + [1.0] * 5)


def test_outliers_within_a_block_do_not_matter() -> None:
    calm = [[1.0] * 9] * 5
    wild = [[1.0] * 7 + [50.0] * 2] * 5
    assert paired(calm, wild) == 0.0
    assert paired(calm, [[0.5] * 9] * 5) == pytest.approx(math.log(2))


def dense(layers: int, width: int = 64) -> onnx.ModelProto:
    lines = " ".join(f"t{i + 1} = MatMul (t{i}, w)" for i in range(layers))
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{width}] t0) => (float[N,{width}] y) '
    text += f"{{ {lines} y = Relu (t{layers}) }}"
    model = onnx.parser.parse_model(text)
    w = np.eye(width, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return model


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    return bench(dense(40), dense(8), launches=5, budget_s=6.0, dims={"N": 256}, threads=1)


def test_a_model_with_a_fifth_of_the_work_is_faster(measured: Benchmark) -> None:
    assert measured.verdict == "FASTER"
    assert measured.headline.speedup.low > 1.5
    assert [cell.level for cell in measured.cells] == ["off", "default"]
    assert measured.shapes == {"t0": [256, 64]}


def test_json_is_plain_and_complete(measured: Benchmark) -> None:
    answer = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert answer["schema"] == "bnfold.bench/1"
    assert answer["verdict"] == "FASTER"
    assert 3 <= len(answer["cells"][0]["log_ratios"]) == answer["launches"] <= 5
    assert answer["environment"]["processors_usable"] >= 1
    assert answer["environment"]["onnxruntime_build"]
    assert all(
        value > 0 for cell in answer["cells"] for key in ("ms", "create_ms", "first_run_ms") for value in cell[key]
    )


def test_it_counts_what_onnxruntime_folds_by_itself() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
        c = Conv (x, w)  n = BatchNormalization (c, s, s, s, s)  r = Relu (n)
        y = BatchNormalization (r, s, s, s, s) }"""
    model = onnx.parser.parse_model(text)
    ones = {"w": np.ones((2, 2, 1, 1), np.float32), "s": np.ones(2, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in ones.items())
    found = bench(model, model, launches=2, budget_s=2.0)
    assert found.batch_normalization == {"original": 2, "folded": 2}
    assert found.left_by_onnxruntime == {"original": 1, "folded": 1}
    assert found.same_graph
    assert "onnxruntime folds 1 of 2" in found.summary()
    assert found.verdict != "FASTER" or found.headline.speedup.low < 1.3


def test_a_model_that_onnxruntime_cannot_run_is_a_model_problem() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[2] x) => (float[2] y) { y = acme.Mystery (x) }'
    )
    model = onnx.parser.parse_model(text)
    with pytest.raises(ModelProblem, match="Mystery"):
        bench(model, model, launches=2, budget_s=2.0)


def test_a_dimension_that_does_not_fit_is_a_model_problem() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[M,4] y) { y = Add (x, k) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((5, 4), np.float32), "k"))
    with pytest.raises(ModelProblem, match="cannot run") as caught:
        bench(model, model, launches=2, budget_s=2.0, dims={"N": 3})
    assert "--dim" in caught.value.hint


def test_a_dimension_that_the_model_does_not_have_is_a_usage_problem() -> None:
    with pytest.raises(UsageProblem, match="'batch'") as caught:
        bench(dense(1), dense(1), launches=2, budget_s=2.0, dims={"batch": 3})
    assert caught.value.hint == "It has: N."


def test_a_missing_model_is_a_model_problem(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="no model at"):
        bench(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_a_crash_of_the_runtime_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.process import launcher
    from bnfold.process.endings import Failed

    def crash(job: object, request: object, **limits: float) -> dict[str, object]:
        raise Failed("onnxruntime, loading the original model crashed (SIGSEGV)")

    monkeypatch.setattr(launcher, "run", crash)
    with pytest.raises(Inconclusive, match="SIGSEGV"):
        bench(dense(1), dense(1))


def test_a_limit_that_is_met_says_nothing_about_the_model() -> None:
    with limited(["seconds=0.05"]), pytest.raises(EnvironmentProblem, match="took longer than") as caught:
        bench(dense(1), dense(1))
    assert "--limit" in caught.value.hint


@pytest.mark.parametrize("text", ["N", "N=", "=3", "N=x", "N=0", "N=-1"])
def test_a_dimension_that_is_none_is_a_usage_problem(text: str) -> None:
    with pytest.raises(UsageProblem, match="NAME=SIZE"):
        parse_dim(text)


def test_sizes_and_launches() -> None:
    assert parse_dim("batch=8") == ("batch", (8,))
    with pytest.raises(UsageProblem):
        bench(dense(1), dense(1), launches=1)


def test_the_environment_is_plain_data() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert "onnxruntime" in (found["onnxruntime"] or "")
