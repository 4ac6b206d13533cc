"""What `import bnfold` offers: names, signatures, docstrings; what models it takes; how results show themselves."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.display.display import MOST_ROWS
from bnfold.errors import ModelProblem
from tests.test_cli import conv_bn

SIGNATURES = {
    "bench": "original folded * launches budget_s dims shapes levels providers mode cuda_graph cudnn_search precisions cold margin threads seed",
    "explain": "model * freeze_initializers",
    "evaluate": "models data * crops data_dir provider images",
    "fold": "model * freeze_initializers verify",
    "load": "model",
    "recalibrate": "model batches * method batch_size memory_limit provider watch",
    "report": "original folded target * verify bench shapes dims allow_external_outside",
    "save": "model path source_folder",
    "verify": "original folded * effort seed levels providers maths placement inputs dims shapes budget_s untouched freeze_initializers require "
    "allow_external_outside",
}
RESULTS = ("Benchmark", "Evaluation", "Explanation", "FoldResult", "Recalibration", "Verification")
HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m"


def test_names():
    assert sorted([*SIGNATURES, *RESULTS]) == bnfold.__all__
    assert dir(bnfold) == sorted([*bnfold.__all__, "__version__"])


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_function_says_what_it_takes_gives_and_raises(name):
    function = getattr(bnfold, name)
    parameters = inspect.signature(function).parameters
    said = [("* " if p.kind is p.KEYWORD_ONLY and i else "") + p.name for i, p in enumerate(parameters.values())]
    assert " ".join(said).replace(" * ", " @ ", 1).replace("* ", "").replace(" @ ", " * ") == SIGNATURES[name]
    hints = typing.get_type_hints(function)
    assert {*parameters, "return"} <= {*hints}
    words = " ".join(function.__doc__.split())
    assert "Raises " in words or "Takes and raises what `fold` does" in words
    own = {n for n in parameters if n not in ("original", "folded", "model", "path", "watch", "seed")}
    assert {n for n in own if f"`{n}`" not in words and name not in ("explain", "load")} == set()


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_frozen_and_shows_itself(name):
    kind = getattr(bnfold, name)
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert kind.__repr__ is not object.__repr__
    assert callable(kind._repr_html_)
    assert kind.__doc__


def test_importing_bnfold_is_light():
    heavy = ("torch", "onnxruntime", "onnx", "onnx_ir", "numpy", "rich", "matplotlib", "typer", "IPython")
    code = f"import sys, bnfold; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_folding_a_proto_imports_neither_torch_nor_onnx_ir(tmp_path):
    (tmp_path / "m.onnx").write_bytes(conv_bn().SerializeToString())
    code = (
        "import sys, bnfold, onnx; r = bnfold.fold(onnx.load('m.onnx')); r._repr_html_(); repr(r);"
        "print([m for m in ('torch', 'onnx_ir', 'onnxruntime', 'rich', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def of_ir(model):
    import onnx_ir

    return onnx_ir.serde.deserialize_model(model)


KINDS = {
    "path": lambda model, path: path,
    "text": lambda model, path: str(path),
    "bytes": lambda model, path: path.read_bytes(),
    "memoryview": lambda model, path: memoryview(path.read_bytes()),
    "ModelProto": lambda model, path: model,
    "onnx_ir": lambda model, path: of_ir(model),
}


@pytest.fixture
def path(tmp_path) -> Path:
    place = tmp_path / "m.onnx"
    place.write_bytes(conv_bn().SerializeToString(deterministic=True))
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_kind_is_folded_and_left_as_it_was(path, kind):
    pytest.importorskip("onnx_ir")
    model = onnx.load(path)
    given, before = KINDS[kind](model, path), model.SerializeToString(deterministic=True)
    result = bnfold.fold(given)
    assert [node.op_type for node in result.model.graph.node] == ["Conv"]
    assert len(bnfold.explain(given).folded) == 1
    assert bnfold.load(given).graph.node[1].op_type == "BatchNormalization"
    bnfold.save(given, path.with_name("copy.onnx"))
    assert onnx.load(path.with_name("copy.onnx")).graph.node[1].op_type == "BatchNormalization"
    assert model.SerializeToString(deterministic=True) == before
    assert path.read_bytes() == before


def test_every_function_takes_bytes_and_protos(path):
    model, rng = onnx.load(path), np.random.default_rng(0)
    before = model.SerializeToString(deterministic=True)
    result = bnfold.fold(model)
    found = bnfold.verify(path.read_bytes(), result.model)
    assert found.passed
    timed = bnfold.bench(model, result.model.SerializeToString(), launches=2, budget_s=0.5)
    assert timed.launches == 2
    batches = [rng.normal(size=(64, 3, 6, 6)).astype(np.float32)]
    again = bnfold.recalibrate(path.read_bytes(), batches)
    assert len(again.drifts) == 1
    assert bnfold.recalibrate(model, batches).drifts == again.drifts
    assert model.SerializeToString(deterministic=True) == before
    for shown, word in (
        (result, "1 before, 0 after"),
        (found, "PASS"),
        (timed, timed.verdict),
        (again, "1 BatchNormalization"),
    ):
        assert word in repr(shown)
        assert repr(shown).startswith(f"<{type(shown).__name__}: ")
        assert len(repr(shown).splitlines()) == 1
        assert word in plain(shown._repr_html_())


def test_data_of_onnx_ir_in_other_files_comes_along(path, tmp_path):
    onnx_ir = pytest.importorskip("onnx_ir")
    inside = bnfold.fold(path).model.SerializeToString(deterministic=True)
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0, location="e.data")
    stored = onnx_ir.load(tmp_path / "e.onnx")
    values = [value.const_value for value in stored.graph.initializers.values()]
    assert all(isinstance(value, onnx_ir.ExternalTensor) for value in values)
    result = bnfold.fold(stored)
    assert [numpy_helper.to_array(t).tolist() for t in result.model.graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in onnx.load_from_string(inside).graph.initializer
    ]
    assert [value.const_value for value in stored.graph.initializers.values()] == values
    (tmp_path / "e.data").unlink()
    with pytest.raises(ModelProblem, match=r"the Model of onnx_ir cannot be converted: ") as raised:
        bnfold.fold(onnx_ir.load(tmp_path / "e.onnx"))
    assert raised.value.hint == "Save it with onnx_ir.save, and give the path."


@pytest.mark.parametrize("function", ["fold", "explain", "verify", "recalibrate", "bench"])
def test_a_model_in_memory_with_data_elsewhere_is_refused(path, tmp_path, function):
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0, location="e.data")
    stored = onnx.load(tmp_path / "e.onnx", load_external_data=False)
    more = {"verify": [path], "bench": [path], "recalibrate": [[]]}.get(function, [])
    for given in (stored, stored.SerializeToString()):
        with pytest.raises(ModelProblem, match=r"is in another file, and a model in memory has no folder") as raised:
            getattr(bnfold, function)(given, *more)
        assert raised.value.hint == "Give the path of the model, or what onnx.load(path) returns."


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_is_taken():
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    program = torch.onnx.export(net, (torch.randn(2, 3, 8, 8),), dynamo=True, optimize=False, verbose=False)
    result = bnfold.fold(program)
    assert isinstance(result.model, onnx.ModelProto)
    assert "BatchNormalization" not in {node.op_type for node in result.model.graph.node}
    assert bnfold.verify(program, result.model).passed


@pytest.mark.parametrize("function", [n for n in SIGNATURES if n not in ("evaluate", "report", "save")])
@pytest.mark.parametrize("model", [3, None, object(), ["a.onnx"], onnx.GraphProto()])
def test_anything_else_is_one_sentence(function, model, path):
    more = {"verify": [path], "bench": [path], "recalibrate": [[]]}.get(function, [])
    with pytest.raises(TypeError, match=r"^a model is a path, bytes, an onnx\.ModelProto, .*; this is of type \w+$"):
        getattr(bnfold, function)(model, *more)


@pytest.mark.parametrize("data", [b"", b"hello, this is text", conv_bn().SerializeToString()[:100]])
def test_bytes_that_hold_no_model_are_refused(data):
    with pytest.raises(ModelProblem, match=r"^the model is (empty|not an ONNX model)"):
        bnfold.fold(data)


def plain(html: str) -> str:
    """The text of a piece of HTML, whose tags must all be closed."""
    text, open_tags = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag in ("div", "b", "table", "tr", "th", "td"), tag
            assert [name for name, _ in attrs] in ([], ["style"])
            open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

        def handle_data(self, data):
            text.append(data)

    Reader(convert_charrefs=True).feed(html)
    assert open_tags == []
    return " ".join(text)


def test_fold_proves_unless_it_is_not_to(path, monkeypatch):
    from bnfold.errors import CheckFailed
    from bnfold.folding import driver

    assert bnfold.fold(path).verification.grade == "proved"
    assert bnfold.fold(path, verify=False).verification is None
    assert "PASS, proved for all inputs" in repr(bnfold.fold(path))
    right = driver.fold

    def wrong(model, **options):
        result = right(model, **options)
        bias = result.model.graph.initializer[-1]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
        return result

    monkeypatch.setattr(driver, "fold", wrong)
    with pytest.raises(CheckFailed, match="does not compute what the original does") as raised:
        bnfold.fold(path)
    assert raised.value.evidence.verification.verdict == "FAIL"
    assert bnfold.fold(path, verify=False).verification is None


def test_no_room_hides_a_function():
    """A submodule that is imported takes its name in the package."""
    code = "import pkgutil, bnfold\nfor m in pkgutil.walk_packages(bnfold.__path__, 'bnfold.'):\n"
    code += "    if 'train' not in m.name and '__main__' not in m.name: __import__(m.name)\n"
    code += "print([n for n in bnfold.__all__ if not callable(getattr(bnfold, n))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_report_is_a_page(path):
    bnfold.save(bnfold.fold(path).model, path.with_name("b.onnx"))
    text = bnfold.report(path, path.with_name("b.onnx"), path.with_name("r.html"))
    assert "PASS, proved" in text
    assert path.with_name("r.html").read_text() == text
    with pytest.raises(TypeError, match="a model of a report is a path"):
        bnfold.report(onnx.load(path), path)


def hostile() -> bnfold.FoldResult:
    model = conv_bn("c = Sigmoid(X) a = Conv(c, W) b = Sigmoid(a) Y = {}")
    for node in model.graph.node:
        node.name = HOSTILE + node.op_type
    model.graph.node[-1].input[0] = "b"
    return bnfold.fold(model)


def test_names_in_models_are_escaped():
    result = hostile()
    assert len(result.kept) == 1
    html = result._repr_html_()
    assert "<script" not in html
    assert "\x1b" not in html
    assert "<script>alert(1)</script>" in plain(html)
    assert "\x1b" not in repr(replace(result, kept=()))


def test_a_table_of_many_rows_is_short():
    result = hostile()
    (kept,) = result.kept
    reasons = (replace(kept.not_hoisted, words=f"reason number {i}") for i in range(100))
    many = replace(result, kept=tuple(replace(kept, not_hoisted=reason) for reason in reasons))
    html = many._repr_html_()
    assert html.count("<tr") == 1 + MOST_ROWS
    assert f"and {100 - MOST_ROWS} more" in html
    assert len(html) < 40_000


def test_a_notebook_shows_it():
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    result = hostile()
    data, _ = formatters.DisplayFormatter().format(result)
    assert data["text/plain"] == repr(result)
    assert data["text/html"] == result._repr_html_()


def test_results_cannot_be_changed():
    result = hostile()
    with pytest.raises(FrozenInstanceError):
        result.kept = ()
    assert [f.name for f in fields(result)][:3] == ["model", "folded", "kept"]
    assert [*bnfold.explain(conv_bn())] == [*bnfold.explain(conv_bn()).folded]
    assert re.fullmatch(r"<Explanation: BatchNormalization: 1 before, 0 after>", repr(bnfold.explain(conv_bn())))
