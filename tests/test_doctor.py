"""`bnfold doctor`: what is missing is named, what works has run, and nothing that crashes takes the command along."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.process import launcher
from bnfold.runtime import doctor as doctoring
from bnfold.runtime import libraries, probe, sessions
from bnfold.runtime.doctor import diagnose, doctor, examine, missing, require_providers
from bnfold.runtime.nvml import driver
from bnfold.runtime.providers import PROVIDERS
from bnfold.runtime.sessions import CPU
from bnfold.system.installed import install_command, pip, runtimes
from bnfold_cli.main import run
from tests.crash import crash

ABSENT = "{}: cannot open shared object file: No such file or directory"


def test_the_cpu_provider_works_and_that_is_seen_not_believed() -> None:
    found = examine("cpu")
    assert found.works
    assert found.ran_on == ("CPUExecutionProvider",)
    assert found.versions["onnxruntime"] in found.wheels.values()
    assert (found.why, found.fix) == ("", "")
    require_providers(["cpu"])


def test_every_provider_works_or_says_why_not_and_what_to_do() -> None:
    found = doctor()
    assert [health.provider for health in found.providers] == list(PROVIDERS)
    for health in found.providers:
        assert health.works == (PROVIDERS[health.provider] in health.ran_on)
        assert health.works or (health.why and health.fix)
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert answer["schema"] == "bnfold.doctor/1"
    assert answer["providers"][0]["ran_on"] == ["CPUExecutionProvider"]


def found_by_probe(**changes: object) -> dict[str, Any]:
    plain = {"offered": True, "libraries": {}, "ran_on": [], "said": "", "versions": {"onnxruntime": "1.31.1"}}
    return {**plain, "driver": {}, **changes}


CURAND, CUDA, INFER = "libcurand.so.10", "libcuda.so.1", "libnvinfer.so.10"
GPU = {"version": "580.1", "cuda": "13.0", "gpus": [{"name": "Tesla", "uuid": "GPU-1"}]}
DIAGNOSES = {
    "a wheel": (
        {"libraries": {CURAND: ABSENT.format(CURAND), "libc.so.6": ""}, "driver": GPU},
        "libcurand.so.10 (wheel nvidia-curand) is missing",
        f"{install_command('cuda')}.",
    ),
    "a wheel and the driver": (
        {"libraries": {CURAND: ABSENT.format(CURAND), CUDA: ABSENT.format(CUDA)}},
        "libcurand.so.10 (wheel nvidia-curand) and libcuda.so.1 (the NVIDIA driver) are missing",
        f"Install the NVIDIA driver, on a machine with an NVIDIA GPU; {install_command('cuda')}.",
    ),
    "the driver": (
        {"libraries": {CUDA: ABSENT.format(CUDA)}},
        "libcuda.so.1 (the NVIDIA driver) is missing",
        "Install the NVIDIA driver, on a machine with an NVIDIA GPU.",
    ),
    "a library of another version": (
        {"libraries": {CURAND: "version `LIBC_9' not found"}, "driver": GPU},
        "libcurand.so.10 does not load: version `LIBC_9' not found",
        f"{install_command('cuda')}.",
    ),
    "an onnxruntime for the CPU": (
        {"offered": False},
        "onnxruntime 1.31.1 is installed without it",
        f"{pip('uninstall', '-y', *runtimes())}, then {install_command('cuda')}.",
    ),
    "no onnxruntime": (
        {"offered": False, "versions": {}, "said": "onnxruntime cannot be imported: no libc", "fix": "Mend it."},
        "onnxruntime cannot be imported: no libc",
        "Mend it.",
    ),
    "a library of the system": (
        {"libraries": {"libz.so.1": ABSENT.format("libz.so.1"), "libodd.so.1": "odd"}, "driver": GPU},
        "libz.so.1 (the system) is missing; libodd.so.1 does not load: odd",
        "Install libz.so.1, libodd.so.1 (on Debian: `apt-get install zlib1g`).",
    ),
    "a driver that is too old": (
        {
            "said": "CUDA failure 35: the driver",
            "driver": {**GPU, "cuda": "12.4"},
            "versions": {"CUDA runtime": "13.0"},
        },
        "CUDA failure 35: the driver",
        "Update the NVIDIA driver: it serves CUDA 12.4, and CUDA 13.0 is installed.",
    ),
    "onnxruntime says why": (
        {"said": "CUDA failure 100: no CUDA-capable device is detected", "ran_on": ["CPUExecutionProvider"]},
        "CUDA failure 100: no CUDA-capable device is detected",
        "These are onnxruntime's words. nvidia-smi should list a GPU, and a CUDA version no older than the runtime.",
    ),
    "a silent fall back to the CPU": (
        {"ran_on": ["CPUExecutionProvider"]},
        "a one-node session ran on CPUExecutionProvider, and onnxruntime does not say why",
        install_command("cuda"),
    ),
}


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a driver that runs."""
    monkeypatch.setattr(doctoring, "LOADED", "/no/such/place")
    monkeypatch.setattr(doctoring, "installed", lambda starts: {})


@pytest.mark.usefixtures("no_wheels")
def test_a_container_that_sees_no_driver_is_started_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctoring, "LOADED", str(tmp_path))
    _, fix = diagnose("cuda", found_by_probe(libraries={CUDA: ABSENT.format(CUDA)}))
    assert fix.startswith("Start this container with `docker run --gpus all`")


@pytest.mark.usefixtures("no_wheels")
@pytest.mark.parametrize("case", DIAGNOSES)
def test_why_a_provider_does_not_work_and_what_to_do(case: str) -> None:
    changes, why, fix = DIAGNOSES[case]
    assert diagnose("cuda", found_by_probe(**changes)) == (why, fix)


def test_a_wheel_whose_files_are_damaged_is_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctoring, "installed", lambda starts: {"nvidia-curand": "10.4"} if starts else {})
    _, fix = diagnose("cuda", found_by_probe(libraries={CURAND: ABSENT.format(CURAND)}, driver=GPU))
    again = pip("install", "--force-reinstall", "--no-deps", "nvidia-curand==10.4")
    assert fix == f"{install_command('cuda')}, and if that changes nothing {again}."


@pytest.mark.usefixtures("no_wheels")
def test_tensorrt_is_repaired_with_all_that_it_needs() -> None:
    broken = {CURAND: ABSENT.format(CURAND), INFER: ABSENT.format(INFER), CUDA: ABSENT.format(CUDA)}
    why, fix = diagnose("tensorrt", found_by_probe(libraries=broken, driver=GPU))
    assert why.startswith("libcurand.so.10 (wheel nvidia-curand), libnvinfer.so.10 (wheel tensorrt-cu13) and libcuda")
    assert f"{install_command('cuda', 'tensorrt')}" in fix


def test_missing_and_broken_are_distinguished() -> None:
    assert missing({CURAND: ABSENT.format(CURAND), CUDA: "odd"}) == (
        "libcurand.so.10 (wheel nvidia-curand) is missing; libcuda.so.1 does not load: odd"
    )


def test_a_probe_that_crashes_is_a_provider_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    real = launcher.run

    def crashing(job: object, request: Mapping[str, Any], **limits: float) -> dict[str, Any]:
        return real(crash, {"signal": int(signal.SIGSEGV)}, seconds=30)

    monkeypatch.setattr(doctoring.launcher, "run", crashing)
    found = examine("cuda")
    assert not found.works
    assert found.why == "a crash on purpose crashed (SIGSEGV)"
    with pytest.raises(EnvironmentProblem, match="CUDAExecutionProvider cannot run here: a crash on purpose crashed"):
        require_providers(["cuda"])


def test_the_libraries_a_file_needs_are_read_from_it(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    assert libraries.needed(text) == []
    assert libraries.needed(tmp_path / "missing.so") == []
    if sys.platform == "linux":
        import onnxruntime

        inside = Path(onnxruntime.__file__).parent / "capi"
        shared = next(inside.glob("onnxruntime_pybind11_state*.so"))
        assert "libc.so.6" in libraries.needed(shared)
        for name in libraries.needed(shared):
            assert libraries.load_library(name) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's libraries")
def test_what_a_gpu_provider_needs_is_known_without_loading_it() -> None:
    cuda, both = libraries.required("cuda"), libraries.required("tensorrt")
    if not cuda:
        pytest.skip("this onnxruntime is built without the CUDA provider")
    assert {name.partition(".")[0] for name in cuda} >= {"libcudart", "libcublas", "libcuda"}
    assert {name.partition(".")[0] for name in both} >= {"libcudart", "libnvinfer", "libcudnn"}
    known = {libraries.source(name) for name in both}
    assert known <= {"the system", libraries.DRIVER, *(f"wheel {wheel}" for wheel in libraries.WHEELS.values())}


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's libraries")
def test_a_library_that_is_not_there_is_named_by_the_loader() -> None:
    assert libraries.ABSENT in libraries.load_library("libbnfold-missing.so.1")


PRINTED = (
    b"\x1b[1;31m2026-11-21 03:41:28.014535982 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
    b"/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
    b"onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library a.so with error: "
    b"b.so.13: cannot open shared object file: No such file or directory\n\x1b[m\n\x1b[0;93mmore\x1b[m"
)


def test_what_onnxruntime_prints_is_made_one_readable_line() -> None:
    assert probe.cleaned(PRINTED) == (
        "Failed to load library a.so with error: b.so.13: cannot open shared object file: No such file or directory"
    )
    assert probe.cleaned(b"") == ""
    assert sessions.one_line("[with T = int] CUDA failure 35: the driver is old ; GPU=-1 ; hostname=a") == (
        "CUDA failure 35: the driver is old"
    )


def test_what_native_code_prints_is_collected_and_stderr_is_back_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    with probe.overheard() as words:
        subprocess.run([sys.executable, "-c", "import sys; print('inside', file=sys.stderr)"], check=True)
        assert words() == b"inside\n"
    print("outside", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "outside\n"


def test_an_onnxruntime_that_cannot_be_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is gone: each is a sentence, and what it says to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = probe.probe({"provider": "cpu"})
    why, fix = diagnose("cpu", found)
    assert (why, fix) == (found["said"], found["fix"])
    assert "needs onnxruntime, and " in why
    assert "pip install" in fix
    monkeypatch.setattr(doctoring, "runtimes", dict)
    assert diagnose("cuda", found) == (why, install_command("cuda"))


FAKE = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13020; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { strncpy(text, "580.159.04", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(long)(i + 1); return 0; }
int nvmlDeviceGetName(void *h, char *text, unsigned n) { strncpy(text, (long)h == 1 ? "one" : "two", n); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetUUID(void *h, char *text, unsigned n) { strncpy(text, "GPU-x", n); return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_driver_and_its_gpus_are_read_through_nvml(tmp_path: Path) -> None:
    source, library = tmp_path / "nvml.c", tmp_path / "nvml.so"
    source.write_text(FAKE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    found = driver(str(library))
    assert (found["version"], found["cuda"]) == ("580.159.04", "13.2")
    assert found["gpus"] == [{"name": name, "uuid": "GPU-x", "capability": "9.0"} for name in ("one", "two")]
    source.write_text(FAKE.replace("nvmlInit_v2(void) { return 0; }", "nvmlInit_v2(void) { return 9; }"))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "off.so", source], check=True)
    assert driver(str(tmp_path / "off.so")) == {}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_provider_whose_libraries_load_and_that_fails_all_the_same_is_quoted(tmp_path: Path) -> None:
    """Stand-ins for the driver: a hollow one does not fit, one that fits finds no GPU."""
    health = examine("cuda")
    absent = [name for name, why in health.libraries.items() if why]
    if "libcuda.so.1" not in absent or not set(absent) <= {"libcuda.so.1", "libcurand.so.10"}:
        pytest.skip("needs CUDA's wheels, and no driver")
    for code, words in (
        ("", "undefined symbol: cu"),
        ("int cuTensorMapEncodeTiled(void) { return 100; }", "CUDA failure 35"),
    ):
        for name in absent:
            (tmp_path / "stand_in.c").write_text(code)
            subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name, tmp_path / "stand_in.c"], check=True)
        search = {"LD_LIBRARY_PATH": str(tmp_path)}
        found = launcher.run(probe.probe, {"provider": "cuda"}, seconds=60, environment=search)
        assert CPU not in found["ran_on"]
        assert words in diagnose("cuda", found)[0]


def test_no_driver_is_no_error() -> None:
    assert driver("libbnfold-missing.so.1") == {}


def test_an_unknown_provider_is_a_usage_problem() -> None:
    with pytest.raises(UsageProblem, match="unknown execution provider 'gpu'"):
        doctoring.Diagnosis((), "", "", {}).require(["gpu"])


def health(provider: str, works: bool) -> doctoring.Health:
    words = ("", "") if works else ("it is broken", install_command("cuda"))
    ran = (PROVIDERS[provider],) if works else ()
    return doctoring.Health(provider, PROVIDERS[provider], works, *words, ran, {}, {}, {"onnxruntime": "1"}, GPU)


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    healths = tuple(health(provider, provider == "cpu") for provider in PROVIDERS)
    monkeypatch.setattr(doctoring, "doctor", lambda: doctoring.Diagnosis(healths, "Linux", "3.11", {}))


@pytest.mark.usefixtures("only_cpu")
def test_the_command_says_what_works_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"cuda: it is broken\nhint: {install_command('cuda')}\n" in out
    assert "driver 580.1" in " ".join(out.split())


@pytest.mark.usefixtures("only_cpu")
def test_a_provider_that_must_work_and_does_not_is_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--ep", "cpu,cuda", "--json", "-"]) == 4
    out, err = capsys.readouterr()
    assert [each["works"] for each in json.loads(out)["providers"]] == [name == "cpu" for name in PROVIDERS]
    assert err.splitlines() == [
        "error: CUDAExecutionProvider cannot run here: it is broken",
        f"hint: {install_command('cuda')}",
    ]


@pytest.mark.usefixtures("only_cpu")
def test_the_answer_is_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", str(tmp_path / "health.json")]) == 0
    assert json.loads((tmp_path / "health.json").read_text())["python"] == "3.11"
    assert "Execution providers" in capsys.readouterr().out


def test_the_command_knows_only_its_providers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--ep", "rocm"]) == 2
    assert "error: unknown execution provider 'rocm'" in capsys.readouterr().err
