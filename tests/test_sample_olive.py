"""samples/09_olive: models with data files, nothing to fold, and a fold that is not proved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from tests.build import assert_same
from tests.samples import folder, module

pytestmark = pytest.mark.skipif(find_spec("olive") is None, reason="the package olive-ai is not installed")
SAMPLE = folder("09_olive")
WORKFLOW = json.loads((SAMPLE / "workflow.json").read_text())


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the model of the sample."""
    monkeypatch.chdir(tmp_path)
    with module(SAMPLE / "make_model.py") as made:
        made.main()
    return tmp_path


@pytest.fixture
def workflow(here, monkeypatch, capfd) -> Callable[..., str]:
    """Runs the workflow of the sample, of the fold alone; returns what was said."""
    monkeypatch.setenv("OLIVE_DISABLE_TELEMETRY", "1")
    monkeypatch.syspath_prepend(str(SAMPLE))
    from olive.workflows import run

    def said(**options: object) -> str:
        passes = {"fold": {**WORKFLOW["passes"]["fold"], **options}}
        try:
            run({**WORKFLOW, "passes": passes}, package_config=str(SAMPLE / "package.json"))
        except Exception as problem:
            print(problem)
        return "".join(capfd.readouterr())

    return said


def test_a_model_with_a_data_file_becomes_one_that_stands_on_its_own(here, workflow):
    original = onnx.load("model.onnx")
    onnx.save(original, "model.onnx", save_as_external_data=True, size_threshold=0, location="model.data")
    original = onnx.load("model.onnx")
    assert "2 before, 0 after; PASS" in workflow()
    (here / "model.data").unlink()
    assert_same(original, onnx.load("out/model.onnx"), tolerance=1e-5)


def test_the_result_has_a_data_file_where_olive_is_asked_for_one(here, workflow):
    workflow(save_as_external_data=True, size_threshold=0)
    assert [path.name for path in (here / "out").rglob("*.data")] == ["model.onnx.data"]
    (out,) = (here / "out").rglob("*.onnx")
    assert_same(onnx.load("model.onnx"), onnx.load(out), tolerance=1e-5)


def test_a_model_with_nothing_to_fold_passes_through(here, workflow):
    workflow()
    os.replace("out/model.onnx", "model.onnx")
    before = onnx.load("model.onnx")
    assert "BatchNormalization: 0 before, 0 after" in workflow()
    assert onnx.load("out/model.onnx").graph == before.graph


def test_a_model_that_cannot_be_proved_ends_the_workflow_unless_the_proof_is_off(here, workflow):
    model = onnx.load("model.onnx")
    model.graph.node[0].name = model.graph.node[2].name = "same"  # onnxruntime refuses two nodes with one name
    onnx.save(model, "model.onnx")
    assert "two nodes with same node name" in workflow()
    assert not [*(here / "out").rglob("*.onnx")]
    workflow(verify=False)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load("out/model.onnx").graph.node}
