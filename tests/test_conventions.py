"""What a command is expected to know without reading: -V, -o, -f, help, choices, sizes, data files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.folding.pipeline import Options, fold_file
from bnfold_cli.main import COMMANDS, command_of, run
from tests.build import BN, bn, build
from tests.test_cli import conv_bn, here, single, written  # noqa: F401


def test_bnfold_alone_shows_help(capfd):
    assert run([]) == 0
    out, err = capfd.readouterr()
    assert "Usage: " in out
    assert err == ""


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(option, capfd):
    assert run([option]) == 0
    assert capfd.readouterr().out == f"bnfold {bnfold.__version__}\n"


def test_python_runs_it(here):  # noqa: F811
    done = subprocess.run([sys.executable, "-m", "bnfold", "-V"], capture_output=True, text=True)
    assert done.stdout == f"bnfold {bnfold.__version__}\n"


def test_out_and_force_have_short_names(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    for force in ([], ["-f"]):
        assert run(["fold", "m.onnx", "-o", "n.onnx", "--verify", "off", *force]) == 0
    assert run(["fold", "m.onnx", "n.onnx", "-o", "o.onnx"]) == 2
    np.savez("d.npz", X=np.random.default_rng(0).normal(size=(80, 3, 6, 6)).astype(np.float32))
    assert run(["recalibrate", "m.onnx", "-o", "r.onnx", "--data", "d.npz"]) == 0
    assert run(["recalibrate", "m.onnx", "r.onnx", "-o", "s.onnx", "--data", "d.npz"]) == 2
    assert "two names for OUT" in capfd.readouterr().err
    assert Path("n.onnx").exists()
    assert Path("r.onnx").exists()


CHOICES = {
    "fold m.onnx --verify": "'fast', 'full', 'off'",
    "fold m.onnx --require": "'measured', 'proved'",
    "fold m.onnx --external": "'single', 'keep', 'inline'",
    "fold m.onnx --engine": "'local', 'ray'",
    "verify m.onnx m.onnx --effort": "'fast', 'full'",
    "verify m.onnx m.onnx --placement": "'strict', 'compute', 'any'",
    "bench m.onnx m.onnx --mode": "'e2e', 'device', 'enqueue'",
    "bench m.onnx m.onnx --cuda-graph": "'off', 'on', 'both'",
    "recalibrate m.onnx --data x --method": "'sequential', 'alg2', 'pooled'",
    "export m.onnx --dtype": "'float32', 'float16'",
}


@pytest.mark.parametrize("command", CHOICES)
def test_choices_are_shown_as_choices(command, capfd, monkeypatch):
    assert run([*command.split(), "none of them"]) == 2
    assert f"is not one of {CHOICES[command]}" in capfd.readouterr().err
    monkeypatch.setenv("COLUMNS", "200")
    assert run([command.split()[0], "--help"]) == 0
    out, words = capfd.readouterr().out, CHOICES[command].replace("'", "").split(", ")
    assert "|".join(words) in out or all(word in out for word in words)


@pytest.mark.parametrize("command", ["fold", "verify", "bench", "report"])
def test_sizes_are_options_wherever_a_model_is_run(command, capfd):
    assert run([command, "--help"]) == 0
    out = capfd.readouterr().out
    assert "--shape" in out
    assert "--dim" in out


def test_fold_runs_the_sizes_and_the_inputs_that_it_is_given(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    np.savez("mine.npz", X=np.random.default_rng(0).normal(size=(5, 3, 6, 6)).astype(np.float32))
    report = fold_file(Path("m.onnx"), options=Options(inputs=("mine.npz",), dims={"N": (7,)}))
    cases = {case for level in report.verification.levels for case in level.cases}
    assert any("mine.npz" in case for case in cases)
    assert any("N 7" in case for case in cases)
    assert run(["fold", "m.onnx", "-f", "--inputs", "mine.npz", "--shape", "X:2,3,6,6"]) == 0
    assert run(["fold", "m.onnx", "-f", "--dim", "M=2"]) == 2
    assert "no dynamic dimension 'M'" in capfd.readouterr().err


def test_bench_takes_shapes():
    found = bnfold.bench(conv_bn(), conv_bn(), launches=2, budget_s=1.0, cold=False, shapes={"X": (3, 3, 6, 6)})
    assert found.shapes == {"X": [3, 3, 6, 6]}


def test_every_command_is_a_function_with_a_docstring():
    assert all(command_of(name).__doc__ for name in COMMANDS)


def with_data_file(folder: Path) -> Path:
    """Two convolutions in one data file, of which the fold changes one; and a BatchNormalization that is kept."""
    body = f"c = Conv(X, W) b = {BN('c', 'p')} r = Relu(b) d = Conv(r, V) s = Relu(d) Y = {BN('s', 'q')}"
    weights = {"W": (32, 3, 3, 3), "V": (32, 32, 1, 1), **bn("p", 32), **bn("q", 32)}
    model = single(build(body, "X[N,3,6,6]", "Y[N,32,4,4]", weights))
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=512)
    return path


LAYOUTS = {"single": {"out.onnx", "out.onnx.data"}, "keep": {"out.onnx"}, "inline": {"out.onnx"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_data_go(tmp_path, layout):
    source = with_data_file(tmp_path)
    report = fold_file(source, tmp_path / "out.onnx", Options(external=layout))
    assert report.verification.passed
    assert {path.name for path in tmp_path.glob("out*")} == LAYOUTS[layout]
    model = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    outside = {t.name: t.external_data[0].value for t in model.graph.initializer if t.external_data}
    expected = {"single": {"W": "out.onnx.data", "V": "out.onnx.data"}, "keep": {"V": "weights.bin"}, "inline": {}}
    assert outside == expected[layout]
    assert report.before.data_bytes > 0
    assert (report.after.data_bytes == 0) == (layout == "inline")
    for name in ("W", "V"):  # in each layout, the same numbers
        whole, again = onnx.load(tmp_path / "out.onnx"), bnfold.fold(onnx.load(source)).model
        one, other = (next(t for t in m.graph.initializer if t.name == name).raw_data for m in (whole, again))
        assert one == other


def test_a_copy_follows_the_layout(tmp_path):
    model = single(build("Y = Conv(X, W)", "X[N,3,6,6]", "Y[N,32,4,4]", {"W": (32, 3, 3, 3)}))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=512)
    report = fold_file(tmp_path / "m.onnx", tmp_path / "out.onnx", Options(external="inline"))
    assert report.unchanged
    assert [path.name for path in tmp_path.glob("out*")] == ["out.onnx"]
    (kept,) = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert kept.raw_data == onnx.load(tmp_path / "m.onnx").graph.initializer[0].raw_data
