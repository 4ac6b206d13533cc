"""Plug-in providers: options, devices, sessions, what is said where one is missing, too old for it, or without a device.

What the packages themselves say is read where they are installed; `pip install --no-deps onnxruntime-ggml` brings a
plug-in that runs on every CPU, with which the whole way is run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.benchmarking import measurement, runner
from bnfold.benchmarking.settings import Setting
from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.process import launcher
from bnfold.runtime import doctor as doctoring
from bnfold.runtime import libraries, placement, plugins, probe, providers, sessions
from bnfold.runtime.doctor import diagnose
from bnfold.runtime.plugins import PLUGINS, Plugin
from bnfold.runtime.providers import Way, chain
from bnfold.system.installed import install_command, pip, runtimes
from bnfold.verification import verifying
from bnfold_cli.main import run
from tests.test_doctor import GPU, found_by_probe
from tests.verify_nets import GEMM, run_here, swapped, written

RTX = PLUGINS["tensorrt-rtx"]
FAKE = Plugin(
    "FakeExecutionProvider",
    "bnfold_fake_plugin",
    ("bnfold-fake-plugin",),
    (1, 24),
    {"a": ("1.0", "3.0"), "b": ("2.10", "")},
)


def device(name: str, memory: Any = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(ep_name=name, memory_info=lambda kind: memory)


class Runtime(types.SimpleNamespace):
    """As much of onnxruntime as registers a plug-in."""

    OrtDeviceMemoryType = types.SimpleNamespace(DEFAULT="default")

    def __init__(self, *offers: types.SimpleNamespace, version: str = "1.31.1") -> None:
        super().__init__(__version__=version, offers=offers, there=[device("CPUExecutionProvider")], registered=[])

    def get_ep_devices(self) -> list[types.SimpleNamespace]:
        return list(self.there)

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))
        self.there += self.offers


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts FAKE and a runtime that offers devices in place of the real ones."""
    module = types.ModuleType(FAKE.package)
    module.get_library_path = lambda: "/there/libfake.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, FAKE.package, module)
    monkeypatch.setattr(plugins, "_devices", {})
    monkeypatch.setitem(plugins.PLUGINS, "fake", FAKE)

    def put(*offers: types.SimpleNamespace, version: str = "1.31.1") -> Runtime:
        made = Runtime(*offers, version=version)
        monkeypatch.setattr(plugins, "runtime", lambda: made)
        return made

    return put


def test_a_plugin_is_registered_once_and_gives_the_devices_that_appear(fake: Any) -> None:
    one, two = device(FAKE.name), device("whatever it calls itself")
    ort = fake(one, two)
    assert plugins.devices(FAKE) == plugins.devices(FAKE) == [one, two]
    assert ort.registered == [(FAKE.name, "/there/libfake.so")]


def test_a_session_gets_the_first_device_and_the_options(fake: Any) -> None:
    one, two = device(FAKE.name), device(FAKE.name)
    fake(one, two)
    given: list[Any] = []
    options = types.SimpleNamespace(add_provider_for_devices=lambda *what: given.append(what))
    plugins.use_device(options, FAKE, {"a": "1"})
    assert given == [([one], {"a": "1"})]


def test_no_device_and_an_old_onnxruntime_are_different_sentences(fake: Any) -> None:
    fake()
    with pytest.raises(plugins.NoDevice, match="FakeExecutionProvider is registered and offers no device"):
        plugins.devices(FAKE)
    plugins._devices.clear()
    old = fake(device(FAKE.name), version="1.23.2")
    with pytest.raises(EnvironmentProblem, match="needs onnxruntime 1.24 or later, and this is 1.23.2") as caught:
        plugins.devices(FAKE)
    assert caught.value.hint == f"{pip('install', *(f'{name}>=1.24' for name in runtimes()))}."
    assert old.registered == []


def test_options_are_checked_against_the_version_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"bnfold-fake-plugin": "2.9.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise plugins.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(plugins, "version", version)
    FAKE.check({"a": "1"})
    with pytest.raises(UsageProblem, match="bnfold-fake-plugin 2.9.1 has no option 'b', which 2.10 has") as caught:
        FAKE.check({"b": "1"})
    assert caught.value.hint == f"{pip('install', 'bnfold-fake-plugin==2.10')}."
    installed["bnfold-fake-plugin"] = "3.0"
    FAKE.check({"b": "1"})
    with pytest.raises(UsageProblem, match="bnfold-fake-plugin 3.0 has no option 'a', which 1.0 has"):
        FAKE.check({"a": "1"})
    installed.clear()
    FAKE.check({"b": "1"})
    with pytest.raises(UsageProblem, match="has no option 'nv_profile_min_shape'"):
        sessions.checked_options(RTX.name, {"nv_profile_min_shape": "x:1"})
    installed["onnxruntime-ep-nv-tensorrt-rtx-cu13"] = "0.4.0"
    with pytest.raises(UsageProblem, match="0.4.0 has no option 'nv_persistent_context_memory', which 0.5.0 has"):
        sessions.checked_options(RTX.name, {"nv_persistent_context_memory": "1"})
    assert RTX.served() == ("8.0+",)
    installed["onnxruntime-ep-nv-tensorrt-rtx-cu13"] = "0.5.0"
    assert sessions.checked_options(RTX.name, {"nv_persistent_context_memory": "1"})
    assert RTX.served() == ("8.6", "8.9", "12.0+")
    assert [RTX.serving(each) for each in ("7.5", "8.6", "9.0", "10.0", "12.1")] == [
        "",
        "0.5.0",
        "0.4.0",
        "0.4.0",
        "0.5.0",
    ]


def test_bound_tensors_are_in_the_memory_that_a_plugin_offers(fake: Any) -> None:
    fake(device(FAKE.name, "its memory"))
    assert runner.memory(Way("fake")) == {"memory_info": "its memory"}
    plugins._devices.clear()
    fake(device(FAKE.name))
    assert runner.memory(Way("fake")) == {"device_type": "cpu"}
    assert runner.memory(Way("cuda")) == {"device_type": "cuda"}
    assert runner.memory(Way()) == {"device_type": "cpu"}


# What doctor says


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins are as where none is installed."""
    monkeypatch.setattr(Plugin, "folder", None)
    monkeypatch.setattr(Plugin, "installed", ("", ""))


def test_a_plugin_that_is_not_installed_brings_onnxruntime_only_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent(monkeypatch)
    why, fix = diagnose("tensorrt-rtx", found_by_probe(offered=False))
    assert why == "its package, onnxruntime-ep-nv-tensorrt-rtx, is not installed"
    assert fix == f"{install_command('tensorrt-rtx')}."
    monkeypatch.setattr(doctoring, "runtimes", dict)
    assert diagnose("tensorrt-rtx", found_by_probe(offered=False))[1] == f"{install_command('gpu', 'tensorrt-rtx')}."
    gone = found_by_probe(offered=False, versions={}, said="none", fix="Install it.")
    assert diagnose("tensorrt-rtx", gone) == ("none", install_command("gpu", "tensorrt-rtx"))


def test_a_device_that_a_plugin_does_not_serve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plugin, "installed", ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "0.5.0"))
    driver = {**GPU, "gpus": [{"name": "NVIDIA H100", "uuid": "GPU-1", "capability": "9.0"}]}
    why, fix = diagnose("tensorrt-rtx", found_by_probe(said="it offers no device", devices=[], driver=driver))
    assert why == (
        "it offers no device; the driver lists NVIDIA H100 (9.0); "
        "onnxruntime-ep-nv-tensorrt-rtx-cu13 0.5.0 serves compute capability 8.6, 8.9, 12.0 or later"
    )
    other = pip("install", "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.4.0")
    assert fix == f"{other}, which serves this GPU."
    driver["gpus"][0]["capability"] = "7.5"
    _, fix = diagnose("tensorrt-rtx", found_by_probe(said="it offers no device", devices=[], driver=driver))
    assert fix.startswith("Use another provider")


def test_a_plugin_for_another_onnxruntime_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "[NvTensorRTRTX EP] Host ORT is too old. Minimum supported API version is 33, host reports 31"
    why, fix = diagnose("tensorrt-rtx", found_by_probe(said=words, devices=None, driver=GPU))
    assert why == words
    assert fix.startswith(pip("install", "--upgrade", *runtimes()))


def test_other_words_of_a_plugin_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    why, fix = diagnose("tensorrt-rtx", found_by_probe(said="CUDA failure 35: old", devices=["it"], driver=GPU))
    assert (why, fix) == ("CUDA failure 35: old", doctoring._LISTED)
    monkeypatch.setattr(Plugin, "installed", ("a-wheel", "1.0"))
    why, fix = diagnose("tensorrt-rtx", found_by_probe(said="undefined symbol: it", devices=None, driver=GPU))
    assert (why, fix) == (
        "undefined symbol: it",
        f"{pip('install', '--force-reinstall', '--no-deps', 'a-wheel==1.0')}.",
    )


@pytest.mark.parametrize(
    ("installed", "target"),
    [
        (("", ""), "onnxruntime-ep-nv-tensorrt-rtx"),
        (("a-wheel", "1.0"), "--force-reinstall --no-deps a-wheel==1.0"),
        (("a-wheel", ""), "--force-reinstall --no-deps a-wheel"),
    ],
)
def test_a_damaged_package_is_installed_again_as_far_as_it_is_known(
    installed: tuple[str, str], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without metadata, metadata without files, metadata that are empty."""
    monkeypatch.setattr(Plugin, "installed", installed)
    command = f"{pip('install', *target.split())}."
    assert diagnose("tensorrt-rtx", found_by_probe(said="no such thing", devices=None, driver=GPU))[1] == command
    assert diagnose("tensorrt-rtx", found_by_probe(offered=False))[1] == command


def test_metadata_without_a_version_are_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "version", lambda wheel: None)
    assert FAKE.installed == ("bnfold-fake-plugin", "")
    FAKE.check({"a": "1"})


@pytest.mark.parametrize("size", [6, 63, 100, 3000])
def test_a_library_that_is_cut_off_names_none_that_it_needs(size: int, tmp_path: Path) -> None:
    """And is not read as if it were whole: what follows in place of the rest is noise."""
    whole = Path(np._core._multiarray_umath.__file__).read_bytes()
    noise = np.random.default_rng(size).bytes(3000)
    for data in (whole[:size], whole[:size] + noise, b"\x7fELF\x02\x01" + noise):
        (tmp_path / "lib.so").write_bytes(data)
        assert all(name.isprintable() for name in libraries.needed(tmp_path / "lib.so"))
    (tmp_path / "folder.so").mkdir()
    assert libraries.needed(tmp_path / "folder.so") == libraries.needed(tmp_path / "absent.so") == []


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return written(GEMM, tmp_path)


def test_without_the_package_commands_are_exit_4_and_the_command_that_installs_it(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    run_here(monkeypatch)
    for command in (["doctor"], ["verify", *files], ["bench", *files]):
        assert run([*command, "--ep", "tensorrt-rtx"]) == 4
        err = capsys.readouterr().err
        assert f"error: {RTX.name} cannot run here: its package, onnxruntime-ep-nv-tensorrt-rtx, is not" in err
        assert f"hint: {install_command('tensorrt-rtx')}." in err


# With the package of TensorRT RTX

needs_rtx = pytest.mark.skipif(RTX.folder is None, reason="needs onnxruntime-ep-nv-tensorrt-rtx")


@needs_rtx
def test_the_options_are_those_of_the_header_in_the_wheel() -> None:
    assert RTX.folder
    header = next(RTX.folder.glob("*provider_options.h")).read_text(encoding="utf-8")
    options = header.split("namespace provider_option_names")[1].split("namespace ", 1)[0]
    _, version = RTX.installed
    known = {name for name in RTX.options if RTX.has(name, version)}
    assert set(re.findall(r'constexpr const char\* \w+ =\s+"(\w+)"', options)) == known


@needs_rtx
@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's libraries")
def test_what_the_plugin_needs_is_known_without_importing_it() -> None:
    names = libraries.required("tensorrt-rtx")
    assert {name.partition(".")[0] for name in names} >= {"libcuda", "libnvidia-ml", "libcudart", "libtensorrt_rtx"}
    known = {libraries.SYSTEM, libraries.DRIVER, *(f"wheel {wheel}" for wheel in libraries.WHEELS.values())}
    assert {libraries.source(name) for name in names} <= known
    assert RTX.package not in sys.modules


@needs_rtx
@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's libraries")
def test_with_the_package_commands_are_exit_4_and_each_missing_library(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    health = doctoring.examine("tensorrt-rtx")
    absent = {name for name, why in health.libraries.items() if why}
    if not absent:
        pytest.skip("a driver is installed")
    assert absent == {"libcuda.so.1", "libnvidia-ml.so.1"}
    for command in (["doctor"], ["verify", *files], ["bench", *files]):
        assert run([*command, "--ep", "tensorrt-rtx"]) == 4
        err = " ".join(capsys.readouterr().err.split())
        assert "libcuda.so.1 (the NVIDIA driver) and libnvidia-ml.so.1 (the NVIDIA driver) are missing" in err
        assert f"hint: {doctoring._driver()}." in err


@needs_rtx
@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("nm") is None, reason="needs a C compiler")
def test_a_driver_without_a_gpu_is_a_plugin_without_a_device(tmp_path: Path) -> None:
    """Stand-ins for the driver's libraries, which answer every call with an error."""
    assert RTX.library
    if not any(libraries.load_library(name) for name in ("libcuda.so.1", "libnvidia-ml.so.1")):
        pytest.skip("a driver is installed")
    named = set(subprocess.run(["nm", "-D", RTX.library], capture_output=True, text=True, check=True).stdout.split())
    for library, start in (("libcuda.so.1", r"cu[A-Z]\w+"), ("libnvidia-ml.so.1", r"nvml\w+")):
        functions = (f"int {name}(void) {{ return 100; }}" for name in named if re.fullmatch(start, name))
        (tmp_path / "stand_in.c").write_text("\n".join(functions))
        command = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", tmp_path / library]
        subprocess.run([*command, tmp_path / "stand_in.c"], check=True)
    found = launcher.run(
        probe.probe, {"provider": "tensorrt-rtx"}, seconds=60, environment={"LD_LIBRARY_PATH": str(tmp_path)}
    )
    assert not any(found["libraries"].values())
    assert found["versions"]["CUDA runtime"] == "13.4"  # that of the wheel, whatever the system has
    assert found["devices"] == []
    why, _ = diagnose("tensorrt-rtx", found)
    assert why.startswith("the plug-in NvTensorRTRTXExecutionProvider is registered and offers no device")
    assert " serves compute capability 8." in why


# With a plug-in that runs on every CPU

GGML = Plugin("ggml", "bnfold_ggml", ("onnxruntime-ggml",), (1, 29), {"weights": ("0.2", "")})
needs_ggml = pytest.mark.skipif(find_spec("onnxruntime_ggml") is None, reason="needs onnxruntime-ggml")


@pytest.fixture
def ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(GGML.package)
    module.__spec__ = ModuleSpec(GGML.package, None)
    module.get_library_path = lambda: __import__("onnxruntime_ggml").library_path()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, GGML.package, module)
    monkeypatch.setitem(plugins.PLUGINS, "ggml", GGML)
    monkeypatch.setitem(sessions.PROVIDER_OPTIONS, GGML.name, frozenset(GGML.options))
    monkeypatch.setitem(providers.PROVIDERS, "ggml", GGML.name)
    monkeypatch.setitem(providers.LEAVES_TO, "ggml", "cpu")
    for name, value in (("WEIGHTS", "f32"), ("LOG", "error")):
        monkeypatch.setenv(f"ORT_GGML_{name}", value)


@needs_ggml
@pytest.mark.usefixtures("ggml")
def test_the_nodes_of_a_session_on_a_plugin_are_proved_to_be_there(tmp_path: Path) -> None:
    weights = GEMM.weights(0)
    model = GEMM.folded(GEMM.fold(weights)).SerializeToString()
    options = sessions.options(
        "off", entries={"session.record_ep_graph_assignment_info": "1"}, profile=f"{tmp_path}/ran"
    )
    session = sessions.session(model, options, [(GGML.name, {"weights": "f32"}), (sessions.CPU, {})])
    given = placement.assigned(session)
    assert {node.provider for node in given} == {"ggml"}
    (first,) = session.get_inputs()
    values = {first.name: np.ones([size if isinstance(size, int) else 2 for size in first.shape], np.float32)}
    setting = Setting("off", "cpu", "device")
    names = [output.name for output in session.get_outputs()]
    (direct,) = sessions.outputs(session, names, values)
    submit, finish, outputs = runner.calls(session, setting, values, {names[0]: (direct.shape, "float32")})
    submit()
    finish()
    np.testing.assert_array_equal(outputs()[names[0]], direct)
    assert runner.memory(Way("ggml")) == {"device_type": "cpu"}
    assert {node.provider for node in placement.ran(sessions.finish(session))} == {"ggml"}


def scaled(lines: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from a float[4,16] x to a float[4,16] y."""
    start = '<ir_version: 8, opset_import: ["" : 17]> g (float[4,16] x) => (float[4,16] y)'
    model = onnx.parser.parse_model(f"{start} {{ {lines} }}")
    made = (numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items())
    model.graph.initializer.extend(made)
    return model


@needs_ggml
@pytest.mark.usefixtures("ggml")
def test_models_are_verified_and_timed_on_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr(verifying, "require_providers", list)
    r = np.random.default_rng(0)
    w, s = r.standard_normal((16, 16)), r.uniform(0.5, 2, 16)
    original = scaled("h = MatMul (x, w) y = Mul (h, s)", w=w, s=s)
    how: dict[str, Any] = {"providers": ["ggml"], "levels": ["off"], "placement": "strict"}
    found = bnfold.verify(original, scaled("y = MatMul (x, w)", w=w * s), **how)
    assert found.passed, found.reasons
    assert [each.title for each in found.levels] == ["ggml off, strict math", "ggml off, default math"]
    assert all(set(placed.ran) == {"ggml"} for each in found.levels for placed in each.placements)
    wrong = bnfold.verify(original, scaled("y = MatMul (x, w)", w=w * s * (np.arange(16) != 3)), **how)
    assert wrong.verdict == "FAIL"

    monkeypatch.setattr(launcher, "run", lambda job, request, **limits: job(request))
    monkeypatch.setattr(measurement, "require_providers", list)
    timed = bnfold.bench(
        original, scaled("y = MatMul (x, w)", w=w * s), providers=["ggml"], levels=["off"], budget_s=1, launches=2
    )
    (cell,) = timed.cells
    assert (cell.setting.mode, cell.placed) == ("device", ({"ggml": 2}, {"ggml": 1}))
    assert timed.environment["loaded"]["onnxruntime-ggml"]
    assert "ggml offers no memory of its own: inputs and outputs are bound in the CPU's" in timed.notes


def test_a_plugin_is_named_in_the_chain_by_what_onnxruntime_calls_it() -> None:
    assert [name for name, _ in chain(Way("tensorrt-rtx"))] == [RTX.name, sessions.CPU]
    assert plugins.plugin_of(RTX.name) is RTX
    assert plugins.plugin_of(sessions.CPU) is None
    assert replace(RTX, package="bnfold_no_such_package").folder is None


def test_the_probe_distinguishes_a_refusal_from_no_device(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(device(FAKE.name))
    assert probe._registered(FAKE) == {"devices": [FAKE.name]}
    plugins._devices.clear()
    fake()
    assert probe._registered(FAKE)["devices"] == []
    plugins._devices.clear()
    ort = fake()

    def refuse(name: str, path: str) -> Mapping[str, Any]:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Host is too old. Minimum supported API version is 33.")

    monkeypatch.setattr(ort, "register_execution_provider_library", refuse)
    assert probe._registered(FAKE) == {
        "devices": None,
        "said": "Host is too old. Minimum supported API version is 33.",
    }


# On a GPU: python -m pytest -m gpu


@pytest.fixture(scope="module")
def rtx() -> None:
    health = doctoring.examine("tensorrt-rtx")
    if not health.works:
        pytest.skip(f"no TensorRT RTX here: {health.why}")


@pytest.mark.gpu
@pytest.mark.usefixtures("rtx")
def test_a_faultless_fold_passes_on_tensorrt_rtx_and_a_fault_does_not() -> None:
    weights = GEMM.weights(0)
    original, folded = GEMM.original(weights), GEMM.fold(weights)
    found = bnfold.verify(original, GEMM.folded(folded), providers=["tensorrt-rtx"])
    assert found.passed, found.reasons
    assert {each.math for each in found.levels} == {"strict", "default"}
    assert all(set(placed.assigned) == {RTX.name} for each in found.levels for placed in each.placements)
    wrong = bnfold.verify(original, GEMM.folded({**folded, "b": swapped(folded["b"])}), providers=["tensorrt-rtx"])
    assert wrong.verdict == "FAIL"
    assert wrong.reasons[0].startswith("tensorrt-rtx, strict math")


@pytest.mark.gpu
@pytest.mark.usefixtures("rtx")
def test_tensorrt_rtx_is_timed_in_its_own_memory_and_in_a_cuda_graph() -> None:
    weights = GEMM.weights(0)
    how: dict[str, Any] = {"providers": ["tensorrt-rtx"], "levels": ["default"], "cuda_graph": "both", "launches": 2}
    timed = bnfold.bench(GEMM.original(weights), GEMM.folded(GEMM.fold(weights)), budget_s=2, **how)
    assert [each.setting.cuda_graph for each in timed.cells] == [False, True]
    assert all(set(placed) == {RTX.name} for each in timed.cells for placed in each.placed)
    assert not any("offers no memory" in note for note in timed.notes)
