"""The report page: what it says, that it is true, that nothing in a model can break out, and its commands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.folding import pipeline
from bnfold.model.storage import Storage
from bnfold.reporting import assets, channels, collecting, drawing, latency, node_results, page, records, table_sections
from bnfold.reporting.figures import figures, sentence
from bnfold.reporting.html import name_tag, shown, tag, written
from bnfold.system import sizes
from bnfold.verification import tensor_records
from bnfold.verification.measure import Tally
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.report_models import HOSTILE, hostile, wide
from tests.test_cli import conv_bn, single
from tests.test_cli import written as stored

ROOT = Path(__file__).resolve().parents[1]
KEPT = "c = Conv(X, W) a = Relu(c) n = {} Y = Relu(n)"


class Seen(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, kind, attributes):
        self.tags.append((kind, dict(attributes)))
        self.open.append(kind)

    def handle_endtag(self, kind):
        while self.open and self.open.pop() != kind:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A model with one BatchNormalization of 50 that stays, its fold with all records, and a model of another kind."""
    folder = tmp_path_factory.mktemp("crowd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stored(folder / "m.onnx", wide(50))
        stored(folder / "other.onnx", single(build("V = Relu(U)", "U[N,3]", "V[N,3]", {})))
        assert run(["fold", "m.onnx", "--json", "fold.json", "--report", "fold.html", "--verify", "full"]) == 0
        found = json.loads((folder / "fold.json").read_text())["verification"]
        found["models"]["folded"]["sha256"] = "0" * 64
        (folder / "verify.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def pair(crowd, tmp_path, monkeypatch):
    """A copy of it to work in."""
    folder = shutil.copytree(crowd, tmp_path / "pair")
    monkeypatch.chdir(folder)
    return folder


def test_a_fold_has_a_page(pair, capsys):
    text = (pair / "fold.html").read_text()
    data, seen = data_of(text), Seen(text)
    assert "49 of 50 BatchNormalization nodes are folded, 1 is kept" in seen.text
    assert "and the result computes what the original computes, up to rounding: proved for all inputs." in seen.text
    assert [entry["result"] for entry in data["nodes"]] == ["hoist"] * 49 + ["kept"]
    assert data["fold"]["folded"] == json.loads((pair / "fold.json").read_text())["folded"]
    assert data["verification"]["verdict"] == "PASS"
    assert {r["code"] for r in data["nodes"][-1]["reasons"]} == {"NONLINEAR"}
    assert "bnfold bench m.onnx m.folded.onnx --json bench.json" in seen.text  # what would give what is not there


def test_a_page_says_what_errors_are_against(pair):
    """Of a proved fold they are against the original's own run, not against float64; those of sites are not known."""
    command = "bnfold report m.onnx m.folded.onnx --verify full --force"
    measured = Seen((pair / "fold.html").read_text())
    assert "Errors are against a float64 evaluation of the original" in measured.text
    assert command not in measured.text
    assert run(["report", "m.onnx", "m.folded.onnx", "--verify", "fast", "-o", "fast.html"]) == 0
    proved = Seen((pair / "fast.html").read_text())
    assert "float64 evaluation" not in proved.text
    assert "how far the result's outputs are from those of the original, run once as it is written" in proved.text
    assert command in proved.text
    assert "Outputs differ by" in proved.text
    assert "Outputs of the result against the original's" in proved.text
    assert "what rounding explains" not in proved.text


def test_what_else_changed_in_the_file_is_on_the_page(pair):
    model = onnx.load("m.folded.onnx")
    model.doc_string = "slimmed"
    onnx.save(model, "slim.onnx")
    assert run(["report", "m.onnx", "slim.onnx", "-o", "slim.html"]) == 0
    seen = Seen((pair / "slim.html").read_text())
    assert "What else changed in the file" in seen.text
    assert "doc_string changed from '' to 'slimmed'" in seen.text


def test_every_folded_node_knows_its_home(pair):
    data = data_of((pair / "fold.html").read_text())
    after = data["graphs"]["after"]["nodes"]
    for entry in data["nodes"][:-1]:
        assert [after[place]["op"] for place in entry["homes"]] == ["Conv"]
        assert after[entry["homes"][0]]["name"].split("/")[0] == entry["node"].split("/")[0]
    kept = data["nodes"][-1]
    assert after[kept["after"]]["name"] == kept["node"]


def test_a_page_refers_to_nothing_outside(pair):
    for kind, attributes in Seen((pair / "fold.html").read_text()).tags:
        for key in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(key) or "#")[:1] == "#" or attributes[key] == "data:,", (kind, attributes)


def test_only_scripts_of_ours_may_run(pair):
    text = (pair / "fold.html").read_text()
    policy = next(a["content"] for k, a in Seen(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert len(scripts) == len(assets.LIBRARIES) + len(assets.SCRIPTS)
    assert re.search(r"script-src ([^;]*);", policy)[1].split() == [f"'sha256-{digest}'" for digest in digests]
    assert policy.startswith("default-src 'none';")


def test_a_report_of_a_pair_is_that_of_the_fold(pair):
    assert run(["report", "m.onnx", "m.folded.onnx", "--fold", "fold.json", "-o", "again.html"]) == 0
    first, again = (data_of((pair / f).read_text()) for f in ("fold.html", "again.html"))
    for key in ("source", "nodes", "graphs", "before", "after", "channels", "verification"):
        if key == "verification":
            first[key]["models"]["folded"]["path"] = again[key]["models"]["folded"]["path"]  # a draft, then its place
        assert first[key] == again[key], key


def test_a_pair_without_a_record_is_derived_from_the_original(pair):
    assert run(["report", "m.onnx", "m.folded.onnx", "--verify", "off"]) == 0
    data = data_of((pair / "m.folded.html").read_text())
    assert data["source"] == "derived"
    assert data["nodes"] == data_of((pair / "fold.html").read_text())["nodes"]
    assert sentence(data).endswith("That the result still computes the same has not been verified.")


def test_what_another_tool_folded_is_seen_from_the_nodes(here):
    """One BatchNormalization is taken out by hand that bnfold keeps, one stays that bnfold would fold."""
    original = wide(50)
    other = onnx.ModelProto()
    other.CopyFrom(original)
    gone = next(i for i, n in enumerate(other.graph.node) if n.name == "block49/norm")
    other.graph.node[gone].CopyFrom(helper.make_node("Identity", ["k49"], ["n49"], "block49/norm"))
    stored(here / "a.onnx", original)
    stored(here / "b.onnx", other)
    data = collecting.collect(here / "a.onnx", here / "b.onnx", verify="off")
    by_name = {entry["node"]: entry for entry in data["nodes"]}
    assert by_name["block49/norm"]["result"] == "gone"
    assert {entry["result"] for key, entry in by_name.items() if key != "block49/norm"} == {"left"}
    assert by_name["block0/norm"]["after"] is not None


def test_a_wrong_pair_is_shown_to_be_wrong(here):
    original = conv_bn()
    wrong = single(build("Y = Conv(X, W)", "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3)}))
    stored(here / "a.onnx", original)
    stored(here / "b.onnx", wrong)
    assert run(["report", "a.onnx", "b.onnx"]) == 0
    data = data_of((here / "b.html").read_text())
    assert data["verification"]["verdict"] == "FAIL"
    assert sentence(data) == (
        "The BatchNormalization is gone, but the result does not compute what the original computes."
    )


def test_a_fold_that_did_not_pass_has_a_page_too(here, monkeypatch, capsys):
    honest = pipeline.verified

    def damaged(source, draft, target, **options):
        model = onnx.load(draft)
        weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
        onnx.save(model, draft)
        return honest(source, draft, target, **options)

    monkeypatch.setattr(pipeline, "verified", damaged)
    stored(here / "m.onnx", conv_bn())
    assert run(["fold", "m.onnx", "--report", "m.html"]) == 1
    assert sorted(p.name for p in here.iterdir()) == ["m.html", "m.onnx"]
    text = (here / "m.html").read_text()
    data = data_of(text)
    assert data["verification"]["verdict"] == "FAIL"
    assert data["fold"]["written"] is False
    assert "It was not written." in Seen(text).text
    assert capsys.readouterr().err.splitlines()[0] == "wrote m.html"


def test_a_dry_run_has_a_page(here):
    stored(here / "m.onnx", conv_bn())
    assert run(["fold", "m.onnx", "--dry-run", "--report", "m.html"]) == 0
    data = data_of((here / "m.html").read_text())
    assert (data["fold"]["written"], data["nodes"][0]["result"]) == (False, "hoist")
    assert sorted(p.name for p in here.iterdir()) == ["m.html", "m.onnx"]


def test_a_model_in_which_nothing_folds_has_a_page(here):
    model = single(build(KEPT.format(BN("a", "p")), "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3), **bn("p", 4)}))
    stored(here / "m.onnx", model)
    assert run(["fold", "m.onnx", "--report", "m.html"]) == 0
    data = data_of((here / "m.html").read_text())
    assert sentence(data) == "The BatchNormalization is kept, and the result is a copy of the original."
    assert "UNCHANGED" in Seen((here / "m.html").read_text()).text


def test_the_page_goes_to_stdout(here, capsys):
    stored(here / "m.onnx", conv_bn())
    assert run(["fold", "m.onnx", "--report", "-"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("<!doctype html>")
    assert output.out.endswith("</html>\n")
    assert run(["fold", "m.onnx", "--force", "--report", "-", "--json", "-"]) == 2
    assert run(["report", "m.onnx", "m.folded.onnx", "-o", "-", "--verify", "off"]) == 0


def test_hostile_names_stay_text(here):
    stored(here / "h.onnx", hostile())
    assert run(["fold", "h.onnx", "--report", "h.html"]) == 0
    text = (here / "h.html").read_text()
    seen, data = Seen(text), data_of(text)
    plain = Seen(page.to_html({**data, "nodes": []}))
    kinds = {kind for kind, _ in seen.tags}
    rows = {
        "a",
        "b",
        "button",
        "option",
        "select",
        "input",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "caption",
    }
    assert kinds - {kind for kind, _ in plain.tags} <= rows | {"output", "bdi", "code"}
    assert not any(key.startswith("on") for _, attributes in seen.tags for key in attributes)
    scripts = [attributes for kind, attributes in seen.tags if kind == "script"]
    assert len(scripts) == len(assets.LIBRARIES) + len(assets.SCRIPTS) + 2
    names = [node["name"] for node in data["graphs"]["before"]["nodes"] if node.get("op") == "BatchNormalization"]
    assert names == [f"{each} norm" for each in HOSTILE]  # the data hold them as they are
    markup = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert not set(markup) & {chr(c) for c in (*range(9), *range(11, 32), 0x202E, 0x2028, 0x202C)}
    assert "⟨U+202E⟩gnp.xnno⟨U+202C⟩" in seen.text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_one_element_of_text(text):
    seen = Seen(written(tag("p", name_tag(text), title=shown(text))))
    assert [kind for kind, _ in seen.tags] == ["p", "code"]
    assert seen.tags[0][1]["title"] == shown(text)
    assert seen.text.strip() == shown(text)


def test_embedded_data_are_read_back_as_they_were():
    data = {"names": [*HOSTILE, "<!--<script>", "\ud800"]}
    text = page.embedded(data)
    assert json.loads(text) == data
    assert not set(text) & set("<>&")


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        page.embedded({"x": float("nan")})


def two_bodies() -> onnx.ModelProto:
    """An If whose branches both make `y`, one from a tensor of the graph around, one with a BatchNormalization."""
    value = helper.make_tensor_value_info
    params = [numpy_helper.from_array(np.ones(3, np.float32), p) for p in "gbmv"]
    norm = helper.make_node("BatchNormalization", ["x", *"gbmv"], ["y"], "inner")
    out = [value("y", TensorProto.FLOAT, None)]
    then = helper.make_graph([norm], "then", [], out)
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["y"], "minus")], "else", [], out)
    node = helper.make_node("If", ["c"], ["z"], "choose", then_branch=then, else_branch=other)
    inputs = [value("c", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [1, 3, 2, 2])]
    graph = helper.make_graph([node], "g", inputs, [value("z", TensorProto.FLOAT, None)], params)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_bodies_are_drawn_inside_their_node():
    found = drawing.draw_graph(two_bodies()).plain()
    names = [node.get("op") or node["kind"] for node in found["nodes"]]
    edges = {(names[a], names[b]) for a, b, _ in found["edges"]}
    assert ("BatchNormalization", "If") in edges
    assert ("Neg", "If") in edges
    assert ("If", "output") in edges
    assert found["nodes"][names.index("Neg")]["inside"] == names.index("If")
    assert found["constants"]["g"] == "float32 3"
    assert "X" not in found["constants"]


def test_functions_are_drawn_apart():
    norm = helper.make_node("BatchNormalization", ["x", *"gbmv"], ["y"], "inner")
    function = helper.make_function("d", "Normed", ["x", *"gbmv"], ["y"], [norm], [helper.make_opsetid("", 17)])
    model = wide(1)
    model.functions.append(function)
    node = drawing.draw_graph(model).nodes[-1]
    assert (node["op"], node["inside"]) == ("BatchNormalization", "d::Normed")


def test_nodes_without_names_are_matched():
    first, second = wide(3), wide(3)
    for model in (first, second):
        for node in model.graph.node:
            node.name = ""
    second.graph.node.remove(second.graph.node[1])  # the first BatchNormalization; its Conv makes what it made
    second.graph.node[0].output[0] = "n0"
    before, after = drawing.draw_graph(first), drawing.draw_graph(second)
    found = node_results.match_nodes(before, after)
    pairs = {(before.nodes[a].get("op"), after.nodes[b].get("op")) for a, b in found.items()}
    assert all(a == b for a, b in pairs)
    assert len(found) == len(after.nodes)


def with_channels(scale, var) -> onnx.ModelProto:
    model = conv_bn()
    values = {"pg": scale, "pv": var}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.array(values[tensor.name], np.float32), tensor.name))
    return model


def test_dead_channels_are_counted(tmp_path):
    found = channels.channels(with_channels([1, 0, -2, 1], [1, 1, 4, 1e-9]), Storage(tmp_path))
    assert (found["channels"], found["dead"], found["unread"]) == (4, 2, 0)
    assert found["nodes"][0]["dead_channels"] == [1, 3]
    assert found["histograms"]["factor"]["zero"] == 1
    assert sum(found["histograms"]["factor"]["live"]) == 2
    assert sum(found["histograms"]["var"]["dead"]) == 2
    low, *_, high = found["nodes"][0]["factor"]
    assert (low, high) == (0, pytest.approx(1 / np.sqrt(1e-9 + 1e-5), rel=1e-3))


def test_the_scale_factor_is_that_of_the_fold(tmp_path):
    """|scale| / sqrt(var + epsilon), which is what Conv's weights are multiplied by."""
    found = channels.channels(with_channels([1, 1, -2, 1], [1, 1, 4, 1]), Storage(tmp_path))
    middle = found["nodes"][0]["factor"][2]
    assert middle == pytest.approx(1, rel=1e-4)


def test_a_norm_without_stored_statistics_is_counted(tmp_path):
    model = conv_bn()
    mean = helper.make_tensor_value_info("pv", TensorProto.FLOAT, [4])
    model.graph.input.append(mean)
    kept = [t for t in model.graph.initializer if t.name != "pv"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    found = channels.channels(model, Storage(tmp_path))
    assert (found["channels"], found["unread"], found["nodes"]) == (0, 1, [])


def test_errors_of_channels_are_those_of_the_tensor(pair):
    """Their root mean square is the error of the whole tensor."""
    data = data_of((pair / "fold.html").read_text())
    off = next(level for level in data["verification"]["levels"] if level["level"] == "off")
    sites = [tensor for tensor in off["tensors"] if tensor["site"]]
    assert len(sites) >= 49
    for tensor in sites:
        by_channel = tensor["by_channel"]
        assert (by_channel["channels"], by_channel["every"], len(by_channel["original"])) == (4, True, 4)
        for which in ("original", "folded"):
            assert np.sqrt(np.mean(np.square(by_channel[which]))) == pytest.approx(tensor[f"rms_{which}"], rel=0.02)


def blocks(**changed) -> list[dict]:
    plain = {"level": "default", "provider": "cpu", "mode": "e2e", "dims": [["N", 1]], "cuda_graph": False}
    made = [
        {"launch": launch, **plain, "model": model, "times": [0.001 * scale * (1 + i / 100) for i in range(50)]}
        for launch in range(3)
        for model, scale in (("original", 2.0), ("folded", 1.0))
    ]
    return [{**each, **changed} for each in made]


def test_errors_of_very_many_channels_are_quantiles():
    rng = np.random.default_rng(0)
    tally = Tally("y", (1,))
    truth = rng.standard_normal((2, tensor_records.CHANNELS_IN_FULL + 1))
    tally.add(truth, truth.astype(np.float32), (truth * (1 + 1e-6)).astype(np.float32), [])
    by_channel = tensor_records.by_channel([tally])["y"]
    assert (by_channel.every, by_channel.channels, len(by_channel.folded)) == (
        False,
        tensor_records.CHANNELS_IN_FULL + 1,
        tensor_records.QUANTILES,
    )
    assert [*by_channel.folded] == sorted(by_channel.folded)
    assert by_channel.folded[-1] > by_channel.original[-1]


def test_runs_are_condensed():
    found = latency.condense(blocks())
    assert len(found) == 1
    models = found[0]["models"]
    assert {key: times["runs"] for key, times in models.items()} == {"original": 150, "folded": 150}
    for times in models.values():
        assert sum(times["counts"]) + times["beyond"] == 150
        assert len(times["launches"]) == 3
    assert models["folded"]["launches"][0][2] == pytest.approx(1.245, rel=0.01)  # median, in milliseconds


def test_runs_of_another_precision_or_search_are_apart():
    found = latency.condense([*blocks(precision="float32"), *blocks(precision="float16"), *blocks()])
    assert [each.get("precision") for each in found] == ["float32", "float16", None]
    words = "default, cuda, float16, device, N=1, CUDA graph, heuristic cuDNN search"
    more = {"provider": "cuda", "mode": "device", "cuda_graph": True, "cudnn_search": "heuristic"}
    assert table_sections.setting_words(blocks(**more, precision="float16")[0]) == words
    assert table_sections.setting_words(blocks()[0]) == "default, cpu, e2e, N=1"


BAD_RAW = [
    "",
    "{",
    "[]",
    '{"launch": 0}',
    json.dumps({**blocks()[0], "times": []}),
    json.dumps({**blocks()[0], "times": [-1]}),
]


@pytest.mark.parametrize("text", BAD_RAW[1:])
def test_what_is_no_raw_file_is_refused(text):
    with pytest.raises(latency.ModelProblem, match="not a file of raw samples"):
        latency.lines(text, "raw.jsonl")


def bench_record(data: dict, **changed) -> dict:
    """What `bench --json` writes, of a page's models."""
    interval, times = (
        {"estimate": 1.5, "low": 1.4, "high": 1.6},
        {"count": 9, "p50": 1.0, "p90": None, "p99": None, "iqr": 0.1},
    )
    cell = {"level": "default", "provider": "cpu", "mode": "e2e", "dims": [], "cuda_graph": False, "ms": [1.5, 1.0]}
    cell |= {"speedup": interval, "control": {"estimate": 1.0, "low": None, "high": None}, "verdict": "FASTER"}
    cell |= {"log_ratios": [0.4], "log_controls": [0.0], "left": [1, 0], "times": [times, times], "flags": []}
    counts = {key: {"original": data["before"][key], "folded": data["after"][key]} for key in ("nodes",)}
    norms = {"original": data["before"]["batch_normalizations"], "folded": data["after"]["batch_normalizations"]}
    record = {
        "schema": "bnfold.bench/1",
        "verdict": "FASTER",
        "summary": "FASTER",
        "cells": [cell],
        "cold": [],
        **counts,
    }
    record |= {"batch_normalization": norms, "left_by_onnxruntime": norms, "same_graph": False, "notes": []}
    return record | {
        "launches": 1,
        "margin": 0.01,
        "environment": {"processor": "<b>"},
        "models": data["models"],
        **changed,
    }


def test_latency_is_shown(pair):
    data = data_of((pair / "fold.html").read_text())
    (pair / "bench.json").write_text(json.dumps(bench_record(data)))
    (pair / "raw.jsonl").write_text("".join(json.dumps(block) + "\n" for block in blocks(dims=[])))
    command = [
        "report",
        "m.onnx",
        "m.folded.onnx",
        "--fold",
        "fold.json",
        "--bench",
        "bench.json",
        "--raw",
        "raw.jsonl",
    ]
    assert run(command) == 0
    text = (pair / "m.folded.html").read_text()
    found = data_of(text)
    assert [f.value for f in figures(found) if f.what == "Times as fast"] == [("1.500×",)]
    assert found["runs"][0]["models"]["folded"]["runs"] == 150
    assert "one launch, no interval" in Seen(text).text


WRONG = {
    "no file": (None, 3, "no file at"),
    "no JSON": ("{", 3, "is not what `bnfold bench --json` writes"),
    "NaN": ('{"schema": NaN}', 3, "is not what"),
    "deep": ("[" * 100_000, 3, "is not what"),
    "other schema": ('{"schema": "bnfold.bench/2"}', 3, "is not what"),
    "empty record": ('{"schema": "bnfold.bench/1"}', 3, "is not what"),
    "other nodes": ({"nodes": {"original": 5, "folded": 4}}, 2, "is about other models: there the original"),
    "other file": (
        {"models": {"original": {"sha256": "0" * 64}}},
        2,
        "its original model has the SHA-256 000000000000",
    ),
    "a text for a number": ({"margin": "much"}, 3, "is not what"),
    "sizes that are none": ({"cells": [{"dims": {}}]}, 3, "is not what"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_record_that_does_not_belong_here_is_refused(pair, capsys, case):
    content, code, words = WRONG[case]
    data = data_of((pair / "fold.html").read_text())
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(bench_record(data, **content))
        (pair / "bench.json").write_text(text)
    before = sorted(p.name for p in pair.iterdir())
    capsys.readouterr()
    assert run(["report", "m.onnx", "m.folded.onnx", "--bench", "bench.json", "--verify", "off"]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert hint.startswith("hint: ")
    assert sorted(p.name for p in pair.iterdir()) == before


REFUSED = {
    "no model": (["missing.onnx", "m.folded.onnx"], 3, "no model at missing.onnx"),
    "no second": (["m.onnx", "missing.onnx"], 3, "no model at missing.onnx"),
    "no onnx": (["m.onnx", "fold.json"], 3, "is not an ONNX model"),
    "swapped": (["m.folded.onnx", "m.onnx"], 2, "the second model has more BatchNormalization"),
    "no pair": (["m.onnx", "other.onnx"], 2, "these are no two versions of one model"),
    "taken": (["m.onnx", "m.folded.onnx", "-o", "fold.html"], 2, "fold.html exists"),
    "an input": (["m.onnx", "m.folded.onnx", "-o", "m.onnx", "--force"], 2, "m.onnx is the name of a model"),
    "a folder": (["m.onnx", "m.folded.onnx", "-o", "."], 2, "is a folder"),
    "no folder": (["m.onnx", "m.folded.onnx", "-o", "no/page.html"], 4, "no folder no"),
    "raw alone": (["m.onnx", "m.folded.onnx", "--raw", "raw.jsonl"], 2, "--raw without --bench"),
    "raw and run": (["m.onnx", "m.folded.onnx", "--raw", "r.jsonl", "--bench", "run"], 2, "--raw with --bench run"),
    "verify of others": (
        ["m.onnx", "m.folded.onnx", "--verify", "verify.json"],
        2,
        "verify.json is about other models",
    ),
    "fold of others": (["m.onnx", "m.onnx", "--fold", "fold.json"], 2, "fold.json is about other models"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_reported_is_refused(pair, capsys, case):
    arguments, code, words = REFUSED[case]
    before = {p.name: p.read_bytes() for p in pair.iterdir()}
    capsys.readouterr()
    more = [] if "--verify" in arguments else ["--verify", "off"]
    assert run(["report", *arguments, *more]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert words in error
    assert hint.startswith("hint: ")
    assert {p.name: p.read_bytes() for p in pair.iterdir()} == before


def test_a_fold_of_many_has_no_page(pair, capsys):
    assert run(["fold", "m.onnx", "--out-dir", "out", "--report", "x.html"]) == 2
    assert "--report is about one model" in capsys.readouterr().err
    assert run(["fold", "m.onnx", "--force", "--report", "m.folded.onnx"]) == 2


@pytest.mark.parametrize("path", sorted((ROOT / "tests/fuzz/kept").glob("*.onnx")), ids=lambda path: path.stem)
def test_a_model_that_broke_something_once_has_a_page(path):
    data = collecting.collect(path, path, verify="off")
    assert Seen(page.to_html(data)).text.count("BatchNormalization")


def test_kinds_of_plain_data():
    assert records.matches_kind({"a": [1, 2], "more": None}, {"a": [int]})
    assert records.matches_kind({}, {"a?": int})
    assert not records.matches_kind({"a": "1"}, {"a?": int})
    assert records.matches_kind([None, 1, 1.5], [(*records.NUMBER, None)])
    assert not records.matches_kind(None, records.NUMBER)
    assert not records.matches_kind({"a": [1, "2"]}, {"a": [int]})
    assert not records.matches_kind({}, {"a": int})
    assert not records.matches_kind(True, int)
    assert not records.matches_kind([], {"a": int})


def test_libraries_are_as_their_makers_published_them():
    """`python -m tests.vendor_assets` compares them with npm itself."""
    folder = Path(assets.__file__).parent / "assets"
    assert {*assets.LIBRARIES, assets.WORKER} == set(assets.manifest())
    for library, about in assets.manifest().items():
        content = (folder / f"{library}.min.js").read_bytes()
        assert hashlib.sha256(content).hexdigest() == about["sha256"], library
        assert b"</script" not in content.lower()
        assert "opyright" in assets.asset_text(f"licenses/{library}.txt")
        assert assets.asset_text(f"licenses/{library}.txt").strip() in assets.library(library)


def test_all_assets_are_shipped():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = stated["tool"]["setuptools"]["package-data"]
    folders = {name: ROOT / name.replace(".", "/") for name in data if name.startswith("bnfold.reporting.")}
    shipped = {path for name, folder in folders.items() for pattern in data[name] for path in folder.glob(pattern)}
    assert {path for path in (ROOT / "bnfold/reporting/assets").rglob("*") if path.is_file()} == shipped


def test_our_scripts_are_small():
    for script in (*assets.SCRIPTS, assets.LAYOUT, "page.css"):
        assert len(assets.asset_text(script).splitlines()) < 300, script
        assert "innerHTML" not in assets.asset_text(script), script


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (46817209, "46.8 MB")]
)
def test_sizes_are_for_people(count, words):
    assert sizes.words(count) == words


def test_many_kept_nodes_share_a_row_and_a_copy_needs_no_proof(here, capsys):
    from tests.test_advice import dense

    onnx.save(dense(9), "m.onnx")
    assert run(["fold", "m.onnx", "--report", "r.html"]) == 0
    page = Seen(Path("r.html").read_text()).text
    assert "Kept nodes, by reason" in page
    assert "9 in net: block0 (4), block1 (4), block2" in page
    assert "there is nothing to compare" in page
    assert "Not verified." not in page


def test_a_fold_measures_latency_for_its_page(here, capfd):
    onnx.save(conv_bn(), "m.onnx")
    assert run(["fold", "m.onnx", "--report", "r.html", "--bench"]) == 0
    assert "Times as fast" in Path("r.html").read_text()
    assert run(["fold", "m.onnx", "--force", "--bench"]) == 2
    assert capfd.readouterr().err.splitlines()[-2] == "error: --bench is for the page of --report"


@pytest.mark.parametrize("option", ["--json", "--junit", "--report"])
@pytest.mark.parametrize("name", ["m.onnx", "m.folded.onnx", "other.onnx"])
def test_no_report_takes_the_place_of_a_model(pair, capsys, option, name):
    """`fold m.onnx --json m.onnx` replaced the input, which is never to be touched."""
    before = {p.name: p.read_bytes() for p in pair.iterdir()}
    assert run(["fold", "m.onnx", "--force", "--verify", "off", option, name]) == 2
    assert f"error: {name} is the name of a model" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in pair.iterdir()} == before


@pytest.mark.parametrize("command", [["explain", "m.onnx", "--json"], ["bench", "m.onnx", "m.folded.onnx", "--raw"]])
def test_nor_does_that_of_another_command(pair, capsys, command):
    before = (pair / "m.onnx").read_bytes()
    assert run([*command, "m.onnx"]) == 2
    assert "error: m.onnx is the name of a model" in capsys.readouterr().err
    assert (pair / "m.onnx").read_bytes() == before
