"""Models that the benchmark converts to float16: valid, of the same interface, close to what they were, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.benchmarking import bench
from bnfold.benchmarking.precision import require_float32, to_float16
from bnfold.benchmarking.settings import settings
from bnfold.errors import ModelProblem, UsageProblem
from bnfold.runtime import sessions
from bnfold_cli.main import run
from tests.test_bench import dense

X = np.random.default_rng(0).uniform(-2, 2, (2, 3, 4, 4)).astype(np.float32)


def parsed(
    lines: str, outputs: str = "float[A,B,C,D] y", opsets: str = '"" : 17', **weights: np.ndarray
) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{opsets}]> g (float[N,3,4,4] x) => ({outputs}) {{ {lines} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


W, B = np.random.default_rng(1).normal(0, 0.3, (3, 3, 1, 1)).astype(np.float32), np.ones(3, np.float32)
SCALES = np.array([1, 1, 2, 2], np.float32)
CASES = {
    "conv and norm": parsed("c = Conv (x, w)  y = BatchNormalization (c, b, b, b, b)", w=W, b=B),
    "two that stay in float32 read one tensor": parsed(
        "c = Conv (x, w)  m = Max (c, c)  n = Min (c, m)  y = Add (m, n)", w=W
    ),
    "a constant that is a number": parsed("k = Constant <value_float = 0.5> ()  y = Mul (x, k)"),
    "constants that are numbers": parsed("k = Constant <value_floats = [0.5, 1.0, 2.0, 3.0]> ()  y = Mul (x, k)"),
    "casts within": parsed("s = Shape (x)  f = Cast <to = 1> (s)  r = ReduceMean <keepdims = 0> (f)  y = Mul (x, r)"),
    "resized": parsed("c = Conv (x, w)  y = Resize (c, , s)", w=W, s=SCALES),
    "made of a shape": parsed("s = Shape (x)  z = ConstantOfShape (s)  y = Add (x, z)"),
    "another operator set": parsed(
        "c = Conv (x, w)  f = Flatten (c)  n = ai.onnx.ml.Normalizer <norm = \"L2\"> (f)  y = Relu (n)",
        "float[N,M] y",
        '"" : 17, "ai.onnx.ml" : 3',
        w=W,
    ),
    "an output that others read": parsed(
        "c = Conv (x, w)  y = Relu (c)  z = Max (y, y)", "float[A,B,C,D] y, float[A,B,C,D] z", w=W
    ),
    "an input that is an output": parsed("y = Identity (x)  z = Conv (x, w)", "float[A,B,C,D] y, float[A,B,C,D] z", w=W),
}  # fmt: skip


def branching(operation: str) -> onnx.ModelProto:
    bodies = f"then_branch = one () => (float[A,B,C,D] p) {{ p = {operation} }}, "
    bodies += "else_branch = two () => (float[A,B,C,D] q) { q = Relu (c) }"
    first = "s = ReduceSum <keepdims = 0> (x)  k = Constant <value_float = 0.0> ()  g = Greater (s, k)  c = Conv (x, w)"
    return parsed(f"{first}  y = If (g) <{bodies}>", w=W)


CASES["branches"] = branching("Sigmoid (c)")


def ran(model: onnx.ModelProto) -> list[np.ndarray]:
    session = sessions.session(model.SerializeToString(), sessions.options("default"))
    return sessions.outputs(session, [each.name for each in session.get_outputs()], {"x": X})


@pytest.mark.parametrize("name", CASES)
def test_a_model_in_float16_is_valid_and_close_to_what_it_was(name: str) -> None:
    model = CASES[name]
    made, _ = to_float16(onnx.ModelProto.FromString(model.SerializeToString()), "m.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert [*made.graph.input] == [*model.graph.input]
    assert [*made.graph.output] == [*model.graph.output]
    for before, after in zip(ran(model), ran(made), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_allclose(after, before, rtol=1e-2, atol=1e-2)


def test_weights_and_activations_are_float16_and_what_stays_is_said() -> None:
    made, notes = to_float16(CASES["two that stay in float32 read one tensor"], "m.onnx")
    types = {each.name: each.data_type for each in made.graph.initializer}
    assert types == {"w": TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert kinds["c"] == TensorProto.FLOAT16
    assert notes == ["float16: in m.onnx these operators stay in float32: Max, Min"]


def test_numbers_out_of_range_are_counted() -> None:
    w = W.copy()
    w[0, 0], w[1, 0], w[1, 1], w[2, 2] = 1e6, -7e4, np.inf, 1e-9
    _, notes = to_float16(parsed("y = Conv (x, w)", w=w), "m.onnx")
    assert notes == [
        "float16: 2 numbers in m.onnx, above 65504 in magnitude, clipped to that",
        "float16: 1 number in m.onnx, below 5.96e-08 in magnitude, clipped to that",
    ]


def test_numbers_that_stay_in_float32_are_not_counted() -> None:
    _, notes = to_float16(parsed("y = Max (x, k)", k=np.array([1e6], np.float32)), "m.onnx")
    assert notes == ["float16: in m.onnx these operators stay in float32: Max"]


def half() -> onnx.ModelProto:
    made, _ = to_float16(dense(2), "m.onnx")
    return made


def test_a_model_that_is_in_float16_already_is_a_usage_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(half(), tmp_path / "m.onnx")
    path = str(tmp_path / "m.onnx")
    for precision in ("float16", "float32", "float32,float16"):
        assert run(["bench", path, path, "--quick", "--precision", precision]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == [
            f"error: {path} is in float16 already",
            "hint: Leave --precision out: a model is timed as it is.",
        ]
    assert run(["bench", path, path, "--quick", "--precision", "int8"]) == 2
    assert "unknown precision 'int8'" in capsys.readouterr().err
    for nothing in (",", "float16,"):
        assert run(["bench", path, path, "--quick", "--precision", nothing]) == 2
        assert "unknown precision ''\nhint: Choose from: float32, float16." in capsys.readouterr().err
    assert run(["bench", path, path, "--quick"]) in (0, 5)


@pytest.mark.parametrize("precisions", [[], [""], ["", "float16"], [None]])
def test_a_precision_is_named_or_left_out(precisions: list[str]) -> None:
    if precisions == [""]:
        assert settings(["off"], ["cpu"], None, {}, precisions=precisions)[0].precision == ""
        return
    with pytest.raises(UsageProblem, match="unknown precision"):
        settings(["off"], ["cpu"], None, {}, precisions=precisions)


def test_a_model_without_float32_is_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (double[2] x) => (double[2] y) { y = Relu (x) }'
    )
    with pytest.raises(ModelProblem, match="holds nothing in float32"):
        require_float32(model, "m.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float16), "k"))
    with pytest.raises(UsageProblem, match="already"):
        require_float32(model, "m.onnx")


def test_what_the_converter_does_not_manage_is_refused_with_its_reason() -> None:
    model = dense(2)
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelProblem, match=r"m\.onnx cannot be converted to float16: .*nowhere") as caught:
        to_float16(model, "m.onnx")
    assert "--precision" in caught.value.hint
    with pytest.raises(ModelProblem, match="cannot be converted to float16: .*sorted"):
        to_float16(branching("Max (c, c)"), "m.onnx")
    circle = parsed("y = Relu (x)")
    circle.graph.node.append(helper.make_node("Add", ["a", "b"], ["a"]))
    circle.graph.node.append(helper.make_node("Relu", ["a"], ["b"]))
    with pytest.raises(ModelProblem, match="computed from its own output"):
        to_float16(circle, "m.onnx")


def test_a_model_that_does_not_load_after_conversion_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scale of a DequantizeLinear is converted, which its opset does not allow."""
    model = parsed("d = DequantizeLinear (q, s)  y = Add (x, d)")
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.ones(1, np.int8), "q"), numpy_helper.from_array(np.float32(0.5), "s")]
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    quick = ["--launches", "2", "--budget", "1", "--opt", "default", "--no-cold", "--precision", "float16"]
    assert run(["bench", str(path), str(path), *quick]) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"error: after conversion to float16 onnxruntime cannot load {path}: ")
    assert ".float16.onnx" not in err


def test_the_record_of_a_conversion_is_about_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conversion adds Casts, which are not nodes of the models that a report compares."""
    names = [str(tmp_path / name) for name in ("a.onnx", "b.onnx", "bench.json", "page.html")]
    onnx.save(dense(4), names[0])
    onnx.save(dense(2), names[1])
    quick = ["--launches", "2", "--budget", "1", "--opt", "default", "--no-cold", "--precision", "float16"]
    assert run(["bench", *names[:2], *quick, "--json", names[2]]) in (0, 5)
    nodes = json.loads(Path(names[2]).read_text(encoding="utf-8"))["nodes"]
    assert nodes == {"original": len(dense(4).graph.node), "folded": len(dense(2).graph.node)}
    report = ["report", *names[:2], "--out", names[3], "--bench", names[2]]
    assert run(report) == 0, capsys.readouterr().err


def test_both_precisions_side_by_side(tmp_path: Path) -> None:
    found = bench(
        dense(12), dense(3), precisions=["float32", "float16"], levels=["default"], launches=2, budget_s=1, cold=False
    )
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [cell["precision"] for cell in answer["cells"]] == ["float32", "float16"]
    assert all(cell["difference"] < 1e-3 for cell in answer["cells"])
    assert "float16" in found.rows()[1][0]
    assert sum(found.cells[1].placed[0].values()) > sum(found.cells[0].placed[0].values())
    plain = bench(dense(2), dense(1), levels=["default"], launches=2, budget_s=1, cold=False)
    assert plain.cells[0].setting.precision == ""
