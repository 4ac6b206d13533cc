"""The command line: exit code, stdout and stderr of every way it can be used or misused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold_cli.main import COMMANDS, run
from tests.build import BN, bn, build, operators

HEAVY = ("torch", "onnxruntime", "onnx", "numpy")


def single(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float32."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float64:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def conv_bn(body: str = "c = Conv(X, W) Y = {}", **attributes) -> onnx.ModelProto:
    model = single(build(body.format(BN("c", "p")), "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3), **bn("p", 4)}))
    model.graph.node[-1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return model


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def changed(model: onnx.ModelProto, **fields) -> onnx.ModelProto:
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def with_opset(version: int) -> onnx.ModelProto:
    model = conv_bn()
    model.opset_import[0].version = version
    return model


def with_nan() -> onnx.ModelProto:
    model = conv_bn()
    parameter = next(t for t in model.graph.initializer if t.name == "pm")
    parameter.CopyFrom(numpy_helper.from_array(np.array([1, np.nan, 1, 1], np.float32), "pm"))
    return model


def without_bn() -> onnx.ModelProto:
    return single(build("Y = Conv(X, W)", "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3)}))


def five_outputs() -> onnx.ModelProto:
    model = with_opset(9)
    model.graph.node[1].output.extend(["m2", "v2", "m3", "v3"])
    return model


BAD_FILES = {  # what the file holds -> exit code, error
    "nothing": (b"", 3, "m.onnx is empty"),
    "text": (b"hello, this is a text file\n" * 20, 3, "m.onnx is not an ONNX model"),
    "half a model": (conv_bn().SerializeToString()[:200], 3, "m.onnx is not an ONNX model, or is cut off"),
    "another protobuf": (onnx.TensorProto(name="t", dims=[1]).SerializeToString(), 3, "m.onnx is not an ONNX model"),
    "a future opset": (with_opset(999), 3, "m.onnx uses opset 999; onnx "),
    "a future IR": (changed(conv_bn(), ir_version=999), 3, "m.onnx has IR version 999; onnx "),
    "NaN": (with_nan(), 3, "mean of BatchNormalization -> 'Y' holds NaN or infinity (1 of 4 values)"),
    "training mode": (conv_bn(training_mode=1), 3, "BatchNormalization -> 'Y' is in training mode"),
    "five outputs": (five_outputs(), 3, "BatchNormalization -> 'Y' is in training mode"),
    "an undefined input": (conv_bn("Y = Conv(Q, W)"), 3, "m.onnx is not valid ONNX: "),
}


FOLD_ONLY = ("an undefined input",)  # explain has an answer to it


@pytest.mark.parametrize(
    ("name", "command"), [(n, c) for n in BAD_FILES for c in ("fold", "explain") if c == "fold" or n not in FOLD_ONLY]
)
def test_a_bad_file_is_one_error_and_one_hint(here, capfd, name, command):
    content, code, message = BAD_FILES[name]
    Path("m.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    before = listing(here)
    assert run([command, "m.onnx"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    error, hint = err.strip().splitlines()
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")
    assert listing(here) == before


def test_a_missing_file_a_directory_and_no_permission(here, capfd):
    Path("folder").mkdir()
    before = listing(here)
    for name, message in (
        ("missing.onnx", "no model at missing.onnx"),
        ("folder", "folder is a folder, not a model"),
    ):
        assert run(["fold", name]) == 3
        assert capfd.readouterr().err.startswith(f"error: {message}\nhint: ")
    assert listing(here) == before


def test_an_output_that_exists_or_is_the_input(here, capfd):
    written(Path("m.onnx"), conv_bn())
    Path("out.onnx").write_text("precious")
    Path("link.onnx").symlink_to("m.onnx")
    before = listing(here)
    for out, message in (
        ("out.onnx", "out.onnx exists"),
        ("m.onnx", "m.onnx is the input itself"),
        ("link.onnx", "link.onnx is the input itself"),
        (".", ". is a folder"),
    ):
        assert run(["fold", "m.onnx", out]) == 2, out
        assert capfd.readouterr().err.startswith(f"error: {message}\nhint: ")
    assert run(["fold", "m.onnx", "m.onnx", "--force"]) == 2
    assert listing(here) == before


def test_an_output_that_cannot_be_written(here, capfd):
    written(Path("m.onnx"), conv_bn())
    before = listing(here)
    assert run(["fold", "m.onnx", "missing/folder/out.onnx"]) == 4
    assert "missing/folder/out.onnx cannot be written: " in capfd.readouterr().err
    assert listing(here) == before


def test_usage_errors_look_like_all_others(here, capfd):
    for arguments in (
        ["fold"],
        ["fold", "--no-such-option"],
        ["no-such-command"],
        ["fold", "m.onnx", "--verify", "maybe"],
    ):
        assert run(arguments) == 2, arguments
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert "\nhint: " in err


def test_fold_verifies_and_writes(here, capfd):
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx"]) == 0
    out, err = capfd.readouterr()
    assert [line.split() for line in out.splitlines() if "BatchNormalization" in line] == [
        ["BatchNormalization", "1", "0"]
    ]
    assert err.startswith("verified: PASS, proved for all inputs: ")
    assert err.endswith("wrote m.folded.onnx\n")
    assert operators(onnx.load("m.folded.onnx")) == ["Conv"]
    assert sorted(os.listdir()) == ["m.folded.onnx", "m.onnx"]


def test_json_goes_to_stdout_alone(here, capfd):
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx", "--json", "-", "--verify", "off"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema"] == "bnfold.fold/1"
    assert (report["before"]["batch_normalizations"], report["after"]["batch_normalizations"]) == (1, 0)
    assert report["folded"][0]["into"] == ["Conv -> 'c'"]
    assert run(["explain", "m.onnx", "--json", "e.json"]) == 0
    assert json.loads(Path("e.json").read_text())["schema"] == "bnfold.explain/1"


def test_dry_run_writes_nothing(here, capfd):
    written(Path("m.onnx"), conv_bn())
    before = listing(here)
    assert run(["fold", "m.onnx", "--dry-run", "--verify", "off"]) == 0
    assert capfd.readouterr().err == "NOT VERIFIED (--verify off)\ndry run: m.folded.onnx was not written\n"
    assert listing(here) == before


def test_what_cannot_be_folded_is_copied_and_strict_says_no(here, capfd):
    model = single(build(f"c = Sigmoid(X) Y = {BN('c', 'p')}", "X[N,3,6,6]", "Y[N,3,6,6]", bn("p", 3)))
    source = written(Path("m.onnx"), model)
    assert run(["fold", "m.onnx"]) == 0
    out, err = capfd.readouterr()
    assert "Sigmoid -> 'c' is not linear" in " ".join(out.split())
    assert err == "nothing can be folded\ncopied unchanged to m.folded.onnx\n"
    assert Path("m.folded.onnx").read_bytes() == source.read_bytes()
    assert run(["fold", "m.onnx", "--force", "--strict"]) == 1


ALREADY = "already folded: no BatchNormalization\n"


@pytest.mark.parametrize("options", [[], ["--strict"], ["--pass-through"], ["--verify", "off"], ["--report", "m.html"]])
def test_a_model_without_bn_is_good_news_and_is_copied(here, capfd, options):
    source = written(Path("m.onnx"), without_bn())
    assert run(["fold", "m.onnx", *options]) == 0
    out, err = capfd.readouterr()
    assert ("BatchNormalization", "0", "0") in [tuple(line.split()) for line in out.splitlines()]
    assert ALREADY in err
    assert "copied unchanged to m.folded.onnx" in err
    assert Path("m.folded.onnx").read_bytes() == source.read_bytes()


def test_a_fold_of_a_fold_is_the_same_file(here, capfd):
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx", "once.onnx"]) == 0
    assert run(["fold", "once.onnx", "twice.onnx"]) == 0
    assert ALREADY in capfd.readouterr().err
    assert Path("once.onnx").read_bytes() == Path("twice.onnx").read_bytes()


def test_a_dry_run_with_nothing_to_do_says_both(here, capfd):
    written(Path("m.onnx"), without_bn())
    assert run(["fold", "m.onnx", "--dry-run", "--json", "-", "--junit", "r.xml"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith(ALREADY)
    assert err.endswith("dry run: m.folded.onnx was not written\n")
    assert [json.loads(out)[key] for key in ("unchanged", "written", "verification")] == [True, False, None]
    assert 'failures="0" errors="0"' in Path("r.xml").read_text()
    assert not Path("m.folded.onnx").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_model_without_bn_brings_its_data_along(here, keep):
    model = without_bn()
    onnx.save(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert run(["fold", "m.onnx", "out.onnx", *["--external", "keep"] * keep]) == 0
    assert Path("out.onnx.data").exists() != keep
    assert (Path("out.onnx").read_bytes() == Path("m.onnx").read_bytes()) == keep
    old, new = (numpy_helper.to_array(onnx.load(name).graph.initializer[0]) for name in ("m.onnx", "out.onnx"))
    assert np.array_equal(old, new)


def test_other_affine_nodes_are_folded_where_there_is_no_bn(here, capfd):
    model = single(
        build("c = Conv(X, W) Y = Mul(c, S)", "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3), "S": (4, 1, 1)})
    )
    written(Path("m.onnx"), model)
    assert run(["fold", "m.onnx"]) == 0
    assert "already folded" not in capfd.readouterr().err
    assert [node.op_type for node in onnx.load("m.folded.onnx").graph.node] == ["Conv"]


@pytest.mark.parametrize("keep", [True, False])
def test_bytes_are_counted_with_data_files_before_and_after(here, capfd, keep):
    body = f"a = Conv(X, W) b = {BN('a', 'p')} Y = Sub(b, V)"
    model = single(build(body, "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3), "V": (4, 4, 4), **bn("p", 4)}))
    onnx.save(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert run(["fold", "m.onnx", "out.onnx", "--verify", "off", "--json", "-", *["--external", "keep"] * keep]) == 0
    output = json.loads(capfd.readouterr().out)
    lengths = {path.name: path.stat().st_size for path in here.iterdir()}
    assert output["before"]["bytes"] == lengths["m.onnx"] + lengths["w.bin"]
    entries = [e for t in onnx.load("out.onnx", load_external_data=False).graph.initializer for e in t.external_data]
    data = {entry.value for entry in entries if entry.key == "location"}
    assert data == {"w.bin" if keep else "out.onnx.data"}
    assert output["after"]["bytes"] == lengths["out.onnx"] + sum(lengths[name] for name in data)


def test_a_fold_that_fails_its_check_writes_nothing(here, capfd, monkeypatch):
    """A fold with a planted fault: every second coefficient of the shift is forgotten."""
    import bnfold.folding.driver as folding

    honest = folding.fold_in_place

    def faulty(record, *rest, **options):
        result = honest(record, *rest, **options)
        bias = next(t for t in result.model.graph.initializer if t.name == "W.bias")
        values = numpy_helper.to_array(bias).copy()
        values[::2] = 0
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        return result

    monkeypatch.setattr(folding, "fold_in_place", faulty)
    written(Path("m.onnx"), conv_bn())
    before = listing(here)
    assert run(["fold", "m.onnx"]) == 1
    assert capfd.readouterr().err.startswith("error: the folded model does not compute what m.onnx does: ")
    assert listing(here) == before


def test_what_cannot_be_verified_is_not_written(here, capfd):
    model = conv_bn("a = Conv(X, W) c = my.Same(a) Y = {}")
    model.graph.node[1].domain = "my"
    model.opset_import.add(domain="my", version=1)
    model.graph.node[1].op_type = "Same"
    model.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 4, 4]))
    tail = helper.make_node("Conv", ["Y", "V"], ["Z"])
    model.graph.node.append(tail)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float32), "V"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("Z", onnx.TensorProto.FLOAT, ["N", 2, 4, 4]))
    written(Path("m.onnx"), model)
    assert run(["fold", "m.onnx"]) == 5
    assert "could not be verified" in capfd.readouterr().err
    assert sorted(os.listdir()) == ["m.onnx"]
    assert run(["fold", "m.onnx", "--verify", "off"]) == 0


def test_interruption_is_exit_code_130(here, capfd, monkeypatch):
    import bnfold.folding.pipeline as pipeline

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "verified", interrupted)
    written(Path("m.onnx"), conv_bn())
    before = listing(here)
    assert run(["fold", "m.onnx"]) == 130
    assert capfd.readouterr().err.startswith("error: interrupted\nhint: ")
    assert listing(here) == before


def test_a_defect_of_bnfold_is_said_to_be_one(here, capfd, monkeypatch):
    import bnfold.folding.pipeline as pipeline

    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(pipeline, "verified", broken)
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx"]) == 70
    assert capfd.readouterr().err.startswith("error: internal error: ZeroDivisionError: by zero\nhint: ")


def test_without_a_command_there_is_help(capfd):
    assert run([]) == 0
    output = capfd.readouterr()
    assert "Commands" in output.out
    assert output.err == ""
    assert run(["-q"]) == 2
    assert capfd.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_whole_in_80_columns(monkeypatch, capfd, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([command, "--help"]) == 0
    assert "…" not in capfd.readouterr().out


def test_help_and_version_import_nothing_heavy():
    for arguments in (["--help"], ["--version"], ["fold", "--help"], ["train", "--help"], ["bench", "--help"]):
        code = f"import sys; from bnfold_cli.main import run; run({arguments!r}); print([m for m in {HEAVY} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", arguments


def test_a_fold_without_verification_imports_no_runtime(here):
    written(Path("m.onnx"), conv_bn())
    code = (
        "import sys; from bnfold_cli.main import run; run(['fold','m.onnx','--verify','off']); "
        "print([m for m in ('torch','onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("threads", [0, 1])
def test_the_process_ends_in_order(here, threads):
    """What others have registered is done, and the exit code is that of the command."""
    code = (
        "import atexit, sys, threading, time; atexit.register(print, 'registered'); "
        f"[threading.Thread(target=lambda: time.sleep(0.2) or print('waited for')).start() for _ in range({threads})]; "
        "sys.argv[1:] = ['fold', 'none.onnx']; from bnfold_cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "waited for\n" * threads + "registered\n")


def test_no_colour_in_a_pipe(here):
    written(Path("m.onnx"), conv_bn())
    done = subprocess.run(
        [sys.executable, "-m", "bnfold_cli", "fold", "m.onnx"], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout + done.stderr


def test_a_reader_who_leaves_early_breaks_nothing(here):
    written(Path("m.onnx"), conv_bn())
    fold = f"{sys.executable} -m bnfold_cli fold m.onnx --verify off --json - | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", fold], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "NOT VERIFIED (--verify off)\nwrote m.folded.onnx\n")


def test_a_pipe_gets_a_line_for_each_row_and_a_terminal_a_drawing(capfd, monkeypatch):
    from bnfold_cli.console import complain, table

    rows = [("[b]:x:", 1, ("one", "two")), ("a", 22, "")]
    table("title", ("name", "n", "words"), rows)
    assert capfd.readouterr().out == "title\nname    n   words\n[b]:x:  1   one\n            two\na       22\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    table("title", ("name", "n", "words"), rows)
    complain("[b]:x:", "h")
    out, err = capfd.readouterr()
    assert out == (
        "\x1b[1mtitle\x1b[0m\n\x1b[1mname     n  words\x1b[0m\n\x1b[2m─────────────────\x1b[0m\n"
        "[b]:x:   1  one\n            two\na       22\n\n"
    )
    assert err == "\x1b[1;31merror:\x1b[0m [b]:x:\n\x1b[1;36mhint:\x1b[0m h\n"
