"""What pipelines read: JUnit reports of fold and verify, and a folded model that did not pass kept for inspection."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.folding import driver as folding
from bnfold_cli.main import run
from tests.verify_nets import GEMM, one_channel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weights = GEMM.weights(0)
    folded = GEMM.fold(weights)
    onnx.save(GEMM.original(weights), tmp_path / "m.onnx")
    onnx.save(GEMM.folded({**folded, "w": one_channel(folded["w"])}), tmp_path / "wrong.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that gets the first weight wrong."""
    sound = folding.fold_in_place

    def fold(*given, **options):
        result = sound(*given, **options)
        weight = next(t for t in result.model.graph.initializer if len(t.dims) == 2)
        weight.CopyFrom(numpy_helper.from_array(one_channel(numpy_helper.to_array(weight)), weight.name))
        return result

    monkeypatch.setattr(folding, "fold_in_place", fold)


def outcomes(path: Path) -> dict[str, str]:
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    found = {
        case.attrib["name"]: next((child.tag for child in case if child.tag != "system-out"), "") for case in cases
    }
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suite.attrib[count]) == list(found.values()).count(kind)
    return found


def test_verify_reports_every_tier(folder: Path) -> None:
    assert run(["verify", "m.onnx", "wrong.onnx", "--junit", "report.xml"]) == 1
    found = outcomes(folder / "report.xml")
    assert found["structure"] == ""
    assert found["off"] == found["algebra"] == found["verdict"] == "failure"
    assert "fold site 'n'" in (folder / "report.xml").read_text()


def test_a_verdict_that_could_not_be_reached_is_an_error(folder: Path) -> None:
    assert run(["verify", "m.onnx", "m.onnx", "--junit", "same.xml"]) == 0
    assert set(outcomes(folder / "same.xml").values()) == {""}
    found = bnfold.verify("m.onnx", "wrong.onnx", levels=["default"])
    assert found.checks()[-1].outcome == {"FAIL": "failure"}.get(found.verdict, "error")


def test_fold_reports_what_it_did_and_what_it_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fold", "m.onnx", "--strict", "--junit", "-"]) == 0
    assert capsys.readouterr().out.startswith("<?xml")
    assert run(["fold", "m.onnx", "--strict", "--force", "--junit", "fold.xml"]) == 0
    found = outcomes(folder / "fold.xml")
    assert {"fold", "nothing kept", "structure", "off", "default", "verdict"} <= found.keys()
    assert set(found.values()) == {""}


def test_a_fold_that_ends_with_an_error_has_a_report(folder: Path, faulty: None) -> None:
    assert run(["fold", "nowhere.onnx", "--junit", "none.xml"]) == 3
    assert outcomes(folder / "none.xml") == {"fold": "error"}
    assert run(["fold", "m.onnx", "--junit", "wrong.xml"]) == 1
    assert outcomes(folder / "wrong.xml") == {"fold": "failure"}


def test_a_model_that_did_not_pass_is_kept_only_on_request(
    folder: Path, faulty: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in folder.iterdir()}
    assert run(["fold", "m.onnx"]) == 1
    assert {path.name for path in folder.iterdir()} == before
    assert run(["fold", "m.onnx", "--keep-failed"]) == 1
    assert {path.name for path in folder.iterdir()} - before == {"m.folded.failed.onnx"}
    assert "It is kept as m.folded.failed.onnx" in capsys.readouterr().err
    assert run(["verify", "m.onnx", "m.folded.failed.onnx"]) == 1
    assert run(["fold", "m.onnx", "--keep-failed"]) == 2
    assert "m.folded.failed.onnx exists" in capsys.readouterr().err
