"""The runtime is the user's: whichever is there is used, none is put over it, and what is missing is named."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from packaging.requirements import Requirement

from bnfold.errors import EnvironmentProblem
from bnfold.system import installed
from bnfold.system.installed import OWN_PACKAGE, PACKAGES, install_command, need, pip
from bnfold_cli.main import run
from tests.shape_of_the_code import ROOT
from tests.test_cli import conv_bn, here, written  # noqa: F401

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: list(map(Requirement, texts)) for name, texts in PROJECT["optional-dependencies"].items()}
MACHINES = {
    ("linux", "x86_64"): "onnxruntime-gpu",
    ("linux", "aarch64"): "onnxruntime-gpu",
    ("linux", "riscv64"): "onnxruntime",
    ("win32", "AMD64"): "onnxruntime-gpu",
    ("win32", "ARM64"): "onnxruntime",
    ("darwin", "arm64"): "onnxruntime",
    ("darwin", "x86_64"): "onnxruntime",
    ("freebsd14", "amd64"): "onnxruntime",
}


def bare(text: str) -> str:
    """A requirement without its lower bound, which who installs anew has no need of."""
    each = Requirement(text)
    extras = f"[{','.join(sorted(each.extras))}]" if each.extras else ""
    return each.name + extras + (str(each.specifier) if "<" in str(each.specifier) else "")


def test_no_runtime_is_a_requirement():
    assert [text for text in PROJECT["dependencies"] if "runtime" in text] == []
    assert [text for text in PROJECT["dependencies"] if "<" in text] == []


@pytest.mark.parametrize("machine", MACHINES, ids="-".join)
def test_there_is_one_runtime_for_each_machine(machine: tuple[str, str]):
    around = dict(zip(("sys_platform", "platform_machine"), machine, strict=True))
    assert [each.name for each in EXTRAS["gpu"] if not each.marker or each.marker.evaluate(around)] == [
        MACHINES[machine]
    ]
    assert (machine in installed.GPU_WHEELS) == (MACHINES[machine] == "onnxruntime-gpu")


def test_hints_name_what_the_extras_bring():
    machine = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
    for extra, packages in PACKAGES.items():
        stated = [each for each in EXTRAS[extra] if not each.marker or each.marker.evaluate(machine)]
        assert sorted(map(bare, packages)) == sorted(bare(str(each).partition(";")[0]) for each in stated), extra


@pytest.mark.parametrize(("module", "package"), OWN_PACKAGE.items())
def test_data_need_no_pytorch(monkeypatch: pytest.MonkeyPatch, module: str, package: str):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentProblem) as raised:
        need(module, what="this")
    assert raised.value.hint == pip("install", package)


def test_a_command_is_for_the_environment_that_bnfold_is_in(monkeypatch: pytest.MonkeyPatch):
    own = Path(sys.executable).parent
    monkeypatch.setattr(installed.shutil, "which", lambda name: str(own / name))
    assert install_command("cuda", "tensorrt") == '`pip install "onnxruntime-gpu[cuda,cudnn]" "tensorrt-cu13>=10,<11"`'
    monkeypatch.setattr(installed.shutil, "which", lambda name: f"/elsewhere/{name}")
    assert install_command("plot") == f"`{sys.executable} -m pip install matplotlib`"
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    assert (
        install_command("plot", "train", "plot")
        == "`uv pip install matplotlib torch torchvision onnxscript scikit-learn`"
    )
    monkeypatch.setattr(sys, "executable", "C:\\Program Files\\python.exe")
    monkeypatch.setattr(installed, "find_spec", lambda name: name)
    assert pip("install", "x") == '`"C:\\Program Files\\python.exe" -m pip install x`'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder of installed packages, the only one in which an onnxruntime is looked for."""
    place = tmp_path / "site"

    def make(*distributions: str, module: str | None = "InferenceSession = None\n") -> Path:
        for each in distributions:
            name, version, record = [*each.split(), ""][:3]
            info = place / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            owned = "onnxruntime" if "extensions" not in name else "onnxruntime_extensions"
            if record:
                (info / "RECORD").write_text(f"{owned}/__init__.py,,\n")
            else:
                (info / "top_level.txt").write_text(f"{owned}\n")
        (place / "onnxruntime").mkdir(parents=True)
        if module is not None:
            (place / "onnxruntime/__init__.py").write_text(module)
        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.setattr(sys, "path", [str(place)])
        return place

    return make


ONE = ("onnxruntime 1.32.0",)
BOTH = ("onnxruntime-gpu 1.31.1", "onnxruntime 1.32.0", "onnxruntime-extensions 1.0")


@pytest.mark.parametrize(
    "names",
    [ONE, ("onnxruntime-openvino 1.24.1",), ("ort-nightly 1.33.0.dev1",), ("onnxruntime-directml 1.24.1 record",)],
    ids=lambda names: names[0],
)
def test_any_runtime_will_do(names: tuple[str, ...], site: Callable[..., Path]):
    site(*names, "onnxruntime-extensions 1.0")
    assert [" ".join(found) for found in installed.runtimes().items()] == [names[0].removesuffix(" record")]
    assert installed.mixture() is None
    assert installed.require_runtime("a test") is None


def test_two_runtimes_in_one_folder_are_noticed(site: Callable[..., Path]):
    site(*BOTH)
    why, mend = installed.mixture() or ("", "")
    assert why == (
        "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed, in one folder: "
        "each has overwritten files of the other"
    )
    first, then = re.findall("`.+?`", mend)
    assert first == pip("uninstall", "-y", "onnxruntime", "onnxruntime-gpu")
    assert then == pip("install", *PACKAGES["gpu"])


def test_a_runtime_of_another_folder_is_no_mixture(site: Callable[..., Path], tmp_path: Path):
    """As in an environment that sees the packages of the system: the first one is found."""
    first = site(*ONE)
    first.rename(tmp_path / "user")
    site("onnxruntime-gpu 1.31.1")
    sys.path.insert(0, str(tmp_path / "user"))
    assert installed.runtimes() == {"onnxruntime": "1.32.0"}


def test_what_is_left_of_two_when_one_was_removed_is_no_runtime(site: Callable[..., Path]):
    """The folder is still there, and can be imported, as Python has it: there is nothing in it."""
    site(*ONE, module=None)
    for needs in (lambda: installed.require_runtime("a test"), installed.runtime):
        with pytest.raises(EnvironmentProblem, match="the files of onnxruntime 1.32.0 are not all there") as caught:
            needs()
        assert caught.value.hint == pip("install", "--force-reinstall", "--no-deps", "onnxruntime==1.32.0")


def test_a_runtime_that_does_not_load_is_a_sentence(site: Callable[..., Path]):
    site(*ONE, module="raise ImportError('libc is too old')\n")
    with pytest.raises(EnvironmentProblem, match="onnxruntime cannot be imported: libc is too old") as caught:
        installed.runtime()
    assert caught.value.hint.endswith("--no-deps onnxruntime==1.32.0`")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No onnxruntime at all."""
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "onnxruntime" else name)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **given: ())


COMMANDS = {
    "fold": ["m.onnx"],
    "fold many": ["m.onnx", "n.onnx", "--out-dir", "out"],
    "verify": ["m.onnx", "n.onnx"],
    "bench": ["m.onnx", "n.onnx"],
    "report": ["m.onnx", "n.onnx"],
    "recalibrate": ["m.onnx", "--data", "d.npz"],
    "evaluate": ["m.onnx", "--data", "digits"],
    "demo": ["--dir", "demo"],
}


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_runtime_the_hint_says_what_to_install_and_nothing_is_begun(
    command: str,
    here: Path,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
):
    for name in ("m.onnx", "n.onnx"):
        written(here / name, conv_bn())
    (here / "d.npz").write_bytes(b"")
    before = sorted(here.rglob("*"))
    assert run([command.split()[0], *COMMANDS[command]]) == 4
    out, err = capfd.readouterr()
    said, hint = err.splitlines()
    assert out == ""
    assert said.endswith(" needs onnxruntime, and none is installed")
    assert all(f"{install_command(extra)}" in hint for extra in ("gpu", "cpu"))
    assert ("--verify off" in hint) == command.startswith("fold")
    assert sorted(here.rglob("*")) == before


@pytest.mark.usefixtures("without")
def test_without_a_runtime_a_fold_can_be_had_unproved(here: Path, capfd: pytest.CaptureFixture[str]):  # noqa: F811
    for name in ("m.onnx", "n.onnx"):
        written(here / name, conv_bn())
    assert run(["fold", "m.onnx", "--verify", "off"]) == 0
    assert run(["fold", "m.onnx", "n.onnx", "--verify", "off", "--out-dir", "out"]) == 0
    assert run(["explain", "m.onnx"]) == 0
    assert run(["report", "m.onnx", "m.folded.onnx", "--verify", "off"]) == 0
    assert {node.op_type for node in onnx.load("m.folded.onnx").graph.node} == {"Conv"}
    capfd.readouterr()


@pytest.mark.usefixtures("without")
def test_training_needs_no_runtime_and_an_export_says_so(here: Path, capfd: pytest.CaptureFixture[str]):  # noqa: F811
    """The extra `train` brings none."""
    pytest.importorskip("torch")
    assert not any("runtime" in each.name for each in EXTRAS["train"])
    assert run(["train", "--arch", "mlp", "--steps", "2", "--no-plot", "--out", "run"]) == 0
    capfd.readouterr()
    assert run(["export", "m.onnx", "--checkpoint", "run"]) == 4
    said = "error: the comparison of the exported file with PyTorch needs onnxruntime, and none is installed\n"
    assert capfd.readouterr().err.startswith(said)
    assert not (here / "m.onnx").exists()


def test_every_command_notices_two_runtimes(
    here: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    written(here / "m.onnx", conv_bn())
    monkeypatch.setattr(installed, "may_be_several", lambda: True)
    monkeypatch.setattr(installed, "runtimes", lambda: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    for command in (["fold", "m.onnx"], ["explain", "m.onnx"], ["doctor"]):
        assert run(command) == 0
        note, hint = capfd.readouterr().err.splitlines()[:2]
        assert note.startswith("note: onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed, in one folder")
        assert hint.startswith(f"hint: {pip('uninstall', '-y', 'onnxruntime', 'onnxruntime-gpu')}, then `")


def test_a_broken_runtime_is_exit_4_also_where_a_child_meets_it(
    here: Path,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    written(here / "m.onnx", conv_bn())
    (here / "bad/onnxruntime").mkdir(parents=True)
    (here / "bad/onnxruntime/__init__.py").write_text("raise ImportError('no libc')")
    monkeypatch.setenv("PYTHONPATH", str(here / "bad"))
    done = subprocess.run([sys.executable, "-m", "bnfold_cli", "fold", "m.onnx"], capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: onnxruntime cannot be imported: no libc\nhint: ")
    assert not (here / "m.folded.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("extras", [*((name,) for name in PACKAGES), ("cuda", "tensorrt")], ids="-".join)
def test_what_hints_install_can_be_had(extras: tuple[str, ...], tmp_path: Path):
    words = shlex.split(install_command(*extras).strip("`"))
    words = words[words.index("install") :]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            *words,
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
            "--target",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stdout
