"""The faults of others are there in the versions that have them, and gone in those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.benchmarks.upstream import __main__ as upstream
from tests.benchmarks.upstream import cases
from tests.benchmarks.upstream.cases import CASES, FUSION, MODELS, Case
from tests.benchmarks.upstream.trial import error, tried

BY_NAME = {case.name: case for case in CASES}
IDS = [*BY_NAME]
TURNED = BY_NAME["matmul_transpose_batchnorm"]
STORED = """<ir_version: 8, opset_import: ["" : 17]>
case (float[40,8] x, float[8,8] w, float[8] scale, float[8] bias, float[8] mean, float[8] var) => (float[40,8] y)
{ t = MatMul (x, w) y = BatchNormalization <epsilon = 0.0> (t, scale, bias, mean, var) }"""


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_version_does_what_is_known_of_it(case):
    found = upstream.result(case)
    expected = case.expected(found.version)
    if found.result == "skipped":
        pytest.skip(found.words)
    if expected is None:
        pytest.skip(f"nobody has entered what {case.runtime} {found.version} does: {found.result}")
    assert found.result == expected, found.words


def test_what_is_known_goes_by_versions():
    assert [TURNED.expected(v) for v in ("1.22.0", "1.23.2", "1.31.1", "1.32.0", "1.100.0")] == [
        *(None, "wrong", "wrong", "right", "right")
    ]
    kept = BY_NAME["matmul_flat_reshape_output_batchnorm"]
    assert [kept.expected(v) for v in ("1.31.1", "1.32.0", "1.32.1.dev3")] == ["does not load", "does not load", None]


@pytest.mark.parametrize("case", [c for c in CASES if c.runtime == "onnxruntime" and c.optimized], ids=lambda c: c.name)
def test_what_is_called_right_is_what_comes_without_optimization(case):
    on_cpu = replace(case, optimized=False, provider="CPUExecutionProvider", instead="")
    assert tried(on_cpu).result == "right"
    if case.instead:
        assert tried(replace(on_cpu, name=case.instead)).result == "right"


@pytest.mark.parametrize("case", [case for case in CASES if FUSION in case.why], ids=lambda case: case.name)
def test_the_fusion_is_to_blame_and_can_be_switched_off(case):
    model = case.model()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMul_BatchNormalization_Fusion"],
    )
    values = case.values()
    got = dict(zip((o.name for o in model.graph.output), session.run(None, values), strict=True))
    want = case.right({name: value.astype(np.float64) for name, value in values.items()})
    assert max(error(got[name], value) for name, value in want.items()) < 1e-3


def test_every_model_is_valid_and_has_a_case():
    assert {path.stem for path in MODELS.iterdir()} == {*BY_NAME, *(case.instead for case in CASES if case.instead)}
    for case in CASES:
        onnx.checker.check_model(case.model(), full_check=True)


def test_the_readme_has_every_row():
    lines = (MODELS.parent / "README.md").read_text().splitlines()
    assert [line for line in lines if "](models/" in line] == [upstream.described(case) for case in CASES]


def test_what_cannot_run_is_skipped_with_the_reason():
    found = tried(replace(TURNED, provider="NoSuchExecutionProvider"))
    assert (found.result, found.words) == ("skipped", "this onnxruntime has no NoSuchExecutionProvider")
    on_gpu = tried(replace(TURNED, provider="CUDAExecutionProvider"))
    assert on_gpu.result in ("skipped", TURNED.expected(on_gpu.version))
    assert on_gpu.words


def test_many_numbers_are_drawn_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "MODELS", tmp_path)
    (tmp_path / "large.onnxtxt").write_text(STORED)
    names = ("w", "scale", "bias", "mean", "var")
    case = Case("large", "wrong", ("0", "0"), None, "", of_large, stored=names)
    model = case.model()
    assert [value.name for value in model.graph.input] == ["x"]
    assert [tensor.name for tensor in model.graph.initializer] == [*names]
    assert tried(case).result == "right"
    assert tried(replace(case, right=lambda v: {"y": of_large(v)["y"] * 1.01})).result == "wrong"


def of_large(v):
    return {"y": v["scale"] * (v["x"] @ v["w"] - v["mean"]) / np.sqrt(v["var"]) + v["bias"]}


SUM = """<ir_version: 8, opset_import: ["" : 17]>
case (float[300,300] x) => (float[300,300] y) { BODY }"""


def test_what_takes_too_long_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "MODELS", tmp_path)
    (tmp_path / "long.onnxtxt").write_text(SUM.replace("BODY", "t = MatMul (x, x) u = Sub (t, t) y = Add (x, u)"))
    (tmp_path / "short.onnxtxt").write_text(SUM.replace("BODY", "y = Identity (x)"))
    case = Case("long", "slow", ("0", "0"), None, "", lambda v: {"y": v["x"]}, instead="short")
    found = tried(case)
    assert found.result == "slow"
    assert found.words.endswith("times what the same takes otherwise")
    assert tried(replace(case, instead="long")).result == "right"
    assert tried(replace(case, right=lambda v: {"y": 2 * v["x"]})).result == "wrong"


def test_the_command_fails_where_a_version_is_not_as_known(monkeypatch, capsys):
    case = BY_NAME["reference_loop_without_condition"]
    monkeypatch.setattr("sys.argv", ["upstream", case.name])
    assert upstream.main() == 0
    assert f"| {case.name} | onnx {onnx.__version__} | wrong | as known |" in capsys.readouterr().out
    monkeypatch.setattr(upstream, "CASES", [replace(case, fixed="1.0.0")])
    assert upstream.main() == 1
    assert "NOT AS KNOWN: right" in capsys.readouterr().out
