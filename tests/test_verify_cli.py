"""The commands verify and bench: exit codes, what goes to stdout, what to stderr."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from bnfold_cli.main import run
from tests.verify_nets import GEMM, one_channel


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    weights = GEMM.weights(0)
    folded = GEMM.fold(weights)
    models = {
        "original": GEMM.original(weights),
        "folded": GEMM.folded(folded),
        "wrong": GEMM.folded({**folded, "w": one_channel(folded["w"])}),
    }
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    return {name: str(tmp_path / f"{name}.onnx") for name in models}


def test_pass_is_exit_0_with_the_verdict_last_on_stdout(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", files["original"], files["folded"]]) == 0
    out, err = capsys.readouterr()
    assert out.strip().splitlines()[-1] == "PASS, proved for all inputs"
    assert "outputs differ from the original's by " in err


def test_fail_is_exit_1_and_names_the_site(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", files["original"], files["wrong"]]) == 1
    out, err = capsys.readouterr()
    assert out.strip().splitlines()[-1] == "FAIL"
    assert "fold site 'n' (BatchNormalization) channel 9: its error is" in err


def test_json_on_stdout_replaces_the_table(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", files["original"], files["folded"], "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PASS"


def test_a_comparison_of_one_file_with_itself_passes(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", files["original"], files["original"]]) == 0
    assert "the two models are the same" in capsys.readouterr().err


def test_what_else_changed_is_a_table_and_fails_with_untouched(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(files["folded"])
    model.doc_string, model.producer_name = "slimmed", "a tool"
    onnx.save(model, files["folded"])
    assert run(["verify", files["original"], files["folded"]]) == 0
    table = capsys.readouterr().out.split("What else changed in the file\n")[1].splitlines()
    assert [line.split()[:2] for line in table[:3]] == [["what", "changes"], ["version", "1"], ["documentation", "1"]]
    assert run(["verify", files["original"], files["folded"], "--untouched", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    assert [each["kind"] for each in json.loads(out)["structure"]["changes"]] == ["version", "documentation"]
    assert "failed: not untouched: producer_name changed from '' to 'a tool'" in err


def test_a_grade_can_be_required(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", files["original"], files["folded"], "--require", "proved"]) == 0
    model = onnx.load(files["folded"])
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "LeakyRelu"
    relu.attribute.append(onnx.helper.make_attribute("alpha", 1e-7))  # which rounding explains
    onnx.save(model, files["folded"])
    assert run(["verify", files["original"], files["folded"], "--json", str(tmp_path / "j.json")]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "PASS, measured on 3 inputs"
    assert json.loads((tmp_path / "j.json").read_text())["grade"] == "measured"
    assert run(["verify", files["original"], files["folded"], "--require", "proved"]) == 5
    out, err = capsys.readouterr()
    assert out.strip().splitlines()[-1] == "INCONCLUSIVE"
    assert "failed: the models agree, but that is measured on 3 inputs, not proved for all" in err


def test_fold_can_require_it_too(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fold", files["original"], str(tmp_path / "out.onnx"), "--require", "proved"]) == 0
    assert "verified: PASS, proved for all inputs: " in capsys.readouterr().err
    off = ["--verify", "off", "--require", "proved", "--force"]
    assert run(["fold", files["original"], str(tmp_path / "out.onnx"), *off]) == 2


def test_models_with_nothing_in_common_fail(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime gives all outputs where none is asked for, which was an internal error."""
    model = onnx.load(files["folded"])
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"other/{name}" for name in names]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info):
        value.name = f"other/{value.name}"
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    assert run(["verify", files["original"], str(other)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "FAIL"
    assert "failed: the inputs changed from " in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "{original}", "nowhere.onnx"], 3, "no model at nowhere.onnx"),
        (
            ["verify", "{original}", "{folded}", "--effort", "some"],
            2,
            "invalid value for '--effort': 'some' is not one of 'fast', 'full'",
        ),
        (["verify", "{original}", "{folded}", "--opt", "most"], 2, "unknown optimization level 'most'"),
        (
            ["verify", "{original}", "{folded}", "--require", "certain"],
            2,
            "invalid value for '--require': 'certain' is not one of 'measured', 'proved'",
        ),
        (["bench", "{original}", "nowhere.onnx"], 3, "no model at nowhere.onnx"),
        (["bench", "{original}", "{folded}", "--dim", "N"], 2, "--dim 'N' is not NAME=SIZE"),
        (["bench", "{original}", "{folded}", "--dim", "Q=2"], 2, "no dynamic dimension 'Q'"),
        (["bench", "{original}", "{folded}", "--launches", "1"], 2, "--launches"),
    ],
)
def test_what_cannot_be_done_is_one_line_a_hint_and_an_exit_code(
    arguments: list[str], code: int, words: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([argument.format(**files) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert lines[1].startswith("hint: ")


def test_bench_ends_with_a_sentence_and_writes_json(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "bench.json"
    options = ["--quick", "--budget", "2", "--dim", "N=4", "--json", str(target)]
    assert run(["bench", files["original"], files["folded"], *options]) == 0
    out = capsys.readouterr().out
    answer = json.loads(target.read_text())
    assert answer["shapes"] == {"x": [4, 12]}
    assert answer["verdict"] in ("FASTER", "EQUIVALENT", "SLOWER", "INCONCLUSIVE")
    assert "BatchNormalization by itself" in " ".join(out.split()[-12:])
