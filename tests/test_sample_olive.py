"""samples/09_olive, in processes of its own: models with data files, nothing to fold, and a fold that is not proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def workflow(here: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The workflow of the sample, of the fold alone."""
    passes = {"fold": {**WORKFLOW["passes"]["fold"], **options}}
    (here / "workflow.json").write_text(json.dumps({**WORKFLOW, "passes": passes}))
    command = [sys.executable, "-m", "olive", "run", "--config", "workflow.json", "--disable_telemetry"]
    command += ["--package-config", str(SAMPLE / "package.json")]
    environment = {**os.environ, "PYTHONPATH": f"{SAMPLE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)


def test_a_model_with_a_data_file_becomes_one_that_stands_on_its_own(here):
    original = onnx.load("model.onnx")
    onnx.save(original, "model.onnx", save_as_external_data=True, size_threshold=0, location="model.data")
    original = onnx.load("model.onnx")
    done = workflow(here)
    assert "2 before, 0 after; PASS" in done.stdout + done.stderr
    (here / "model.data").unlink()
    assert_same(original, onnx.load("out/model.onnx"), tolerance=1e-5)


def test_the_result_has_a_data_file_where_olive_is_asked_for_one(here):
    assert workflow(here, save_as_external_data=True, size_threshold=0).returncode == 0
    assert [path.name for path in (here / "out").rglob("*.data")] == ["model.onnx.data"]
    (out,) = (here / "out").rglob("*.onnx")
    assert_same(onnx.load("model.onnx"), onnx.load(out), tolerance=1e-5)


def test_a_model_with_nothing_to_fold_passes_through(here):
    folded = workflow(here)
    assert folded.returncode == 0
    os.replace("out/model.onnx", "model.onnx")
    before = onnx.load("model.onnx")
    done = workflow(here)
    assert "BatchNormalization: 0 before, 0 after" in done.stdout + done.stderr
    assert onnx.load("out/model.onnx").graph == before.graph


def test_a_model_that_cannot_be_proved_ends_the_workflow_unless_the_proof_is_off(here):
    model = onnx.load("model.onnx")
    model.graph.node[0].name = model.graph.node[2].name = "same"  # onnxruntime refuses two nodes with one name
    onnx.save(model, "model.onnx")
    done = workflow(here)
    assert "two nodes with same node name" in done.stdout + done.stderr
    assert not [*(here / "out").rglob("*.onnx")]
    workflow(here, verify=False)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load("out/model.onnx").graph.node}
