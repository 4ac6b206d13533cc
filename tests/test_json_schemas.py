"""What commands write as JSON is what the files in docs/schemas say, and docs/json.md lists every field of these."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.folding.driver import fold
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.json_schemas import FOLDER, ORDER, PAGE, page, problems, schemas
from tests.shape_of_the_code import ROOT, files
from tests.test_cli import here  # noqa: F401
from tests.test_evaluate import classifier
from tests.verify_nets import NETS, Net

pytest.importorskip("jsonschema", reason="the extra dev is not installed")
pytestmark = pytest.mark.usefixtures("here")
OF_THE_PAGE = {"bnfold.report/1"}  # the data within the page of `report`, which no command writes by itself


def payload(*arguments: str, code: int = 0) -> dict:
    """What a command writes with --json."""
    path = Path("payload.json")
    path.unlink(missing_ok=True)
    assert run([*arguments, "--json", str(path)]) == code
    return json.loads(path.read_text(encoding="utf-8"))


def networks() -> None:
    """Three files: a.onnx folds, b.onnx is the fold, wrong.onnx is a wrong one; kept.onnx keeps two nodes."""
    original = classifier()
    onnx.save(original, "a.onnx")
    folded = fold(original).model
    onnx.save(folded, "b.onnx")
    wrong = onnx.ModelProto()
    wrong.CopyFrom(folded)
    weight = wrong.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(wrong, "wrong.onnx")
    body = f"r = Relu(X) n = {BN('r', 'p')} Y = Sigmoid(n)"
    onnx.save(build(body, "X[N,3,4,4]", "Y[N,3,4,4]", bn("p", 3)), "kept.onnx")


def data() -> None:
    """data.npz: 32 random pictures with labels."""
    rng = np.random.default_rng(0)
    np.savez("data.npz", X=rng.normal(size=(32, 3, 16, 16)).astype(np.float32), labels=rng.integers(0, 7, 32))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("fold", "a.onnx"), 0, id="fold"),
        pytest.param(("fold", "a.onnx", "--verify", "full", "--dry-run"), 0, id="fold, verified in full"),
        pytest.param(("fold", "a.onnx", "--verify", "off"), 0, id="fold, not verified"),
        pytest.param(("fold", "kept.onnx"), 0, id="fold of nothing"),
        pytest.param(("fold", "kept.onnx", "--strict"), 1, id="fold, strict"),
        pytest.param(("fold", "a.onnx", "kept.onnx", "missing.onnx", "--out-dir", "out"), 3, id="fleet"),
        pytest.param(("explain", "a.onnx"), 0, id="explain"),
        pytest.param(("explain", "kept.onnx"), 0, id="explain, kept"),
        pytest.param(("verify", "a.onnx", "b.onnx"), 0, id="verify"),
        pytest.param(("verify", "a.onnx", "b.onnx", "--effort", "full", "--self-test"), 0, id="verify in full"),
        pytest.param(("verify", "a.onnx", "wrong.onnx"), 1, id="verify, FAIL"),
        pytest.param(("verify", "a.onnx", "a.onnx"), 0, id="verify, the same file"),
        pytest.param(("verify", "a.onnx", "kept.onnx"), 1, id="verify, other shapes"),
        pytest.param(("recalibrate", "a.onnx", "--data", "data.npz"), 0, id="recalibrate"),
        pytest.param(("recalibrate", "a.onnx", "--data", "data.npz", "--check"), 1, id="recalibrate, check"),
        pytest.param(
            ("recalibrate", "a.onnx", "--data", "data.npz", "--method", "alg2", "--batch-size", "8"),
            0,
            id="recalibrate, alg2",
        ),
        pytest.param(("evaluate", "a.onnx", "--data", "data.npz"), 0, id="evaluate"),
        pytest.param(("evaluate", "a.onnx", "b.onnx", "--data", "data.npz"), 0, id="evaluate, two"),
        pytest.param(("doctor",), 0, id="doctor"),
    ],
)
def test_what_a_command_writes_is_what_the_schema_says(arguments: tuple[str, ...], code: int):
    networks()
    data()
    assert problems(payload(*arguments, code=code)) == []


@pytest.mark.parametrize("net", NETS.values(), ids=lambda net: net.name)
def test_a_verification_of_any_operator_is_what_the_schema_says(net: Net):
    weights = net.weights(0)
    onnx.save(net.original(weights), "a.onnx")
    assert problems(payload("fold", "a.onnx", "--verify", "full")) == []


def test_a_benchmark_is_what_the_schema_says():
    networks()
    options = ("--quick", "--budget", "1", "--dim", "N=1,2", "--fail-if", "slower:900%", "--cold")
    assert problems(payload("bench", "a.onnx", "b.onnx", *options)) == []


def change(path: str, value: object) -> Callable[[dict], None]:
    def apply(payload: dict) -> None:
        *before, last = path.split(".")
        at = payload
        for name in before:
            at = at[int(name)] if isinstance(at, list) else at[name]
        at[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("unheard_of", 1),
        ("written", "yes"),
        ("before.nodes", -1),
        ("before.unheard_of", 1),
        ("folded.0.direction", "up"),
        ("verification.verdict", "FINE"),
        ("verification.levels.0.unheard_of", 1),
        ("verification.levels.0.tensors.0.ratio", None),
        ("verification.self_test", {"schema": "bnfold.selftest/1"}),
    ],
)
def test_a_field_that_is_not_in_the_schema_is_noticed(path: str, value: object):
    networks()
    made = payload("fold", "a.onnx")
    change(path, value)(made)
    assert problems(made) != []


def test_a_field_that_is_missing_is_noticed():
    networks()
    made = payload("fold", "a.onnx")
    del made["verification"]["levels"][0]["tensors"][0]["rms_folded"]
    assert len(problems(made)) == 1


def test_every_schema_of_a_command_has_a_file():
    named = {name for path in files() for name in re.findall(r'"(bnfold\.\w+/\d+)"', path.read_text(encoding="utf-8"))}
    assert named - OF_THE_PAGE == {schema["title"] for schema in schemas().values()}
    assert sorted(f"{name}-1.json" for name in ORDER) == sorted(schemas())


def test_schema_files_are_valid_and_say_what_every_field_means():
    from jsonschema import Draft202012Validator

    def fields(schema: object):
        for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from fields(value)
        if isinstance(schema, dict) and "properties" in schema:
            yield from schema["properties"].items()

    for name, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert [field for field, about in fields(schema) if not about.get("description")] == [], name
        assert "additionalProperties" not in schema, "a consumer accepts fields that are added"


def test_the_page_lists_the_fields_of_the_files():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.json_schemas"


def test_the_example_of_the_page_judges_a_payload(monkeypatch):
    networks()
    Path("fold.json").write_text(json.dumps(payload("fold", "a.onnx")))
    shutil.copytree(FOLDER, "docs/schemas")
    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/json.md").read_text(encoding="utf-8"), re.S)
    exec(compile(code, "json.md", "exec"), {})
    Path("fold.json").write_text("{}")
    with pytest.raises(Exception, match="required"):
        exec(compile(code, "json.md", "exec"), {})
