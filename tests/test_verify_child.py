"""The child process: crashes, limits and errors come back as sentences; and whole verifications in real children."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.process import launcher
from bnfold.process.endings import Failed
from bnfold.process.jobs import Job
from bnfold.system.limits import Limits, within
from bnfold.verification import verify, verifying
from tests.crash import crash
from tests.verify_nets import CONV, GEMM, one_channel


def test_a_segmentation_fault_becomes_a_sentence() -> None:
    with pytest.raises(Failed, match=r"^a crash on purpose crashed \(SIGSEGV\)$"):
        launcher.run(crash, {"signal": int(signal.SIGSEGV)}, seconds=30)


def test_a_child_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(Failed, match="a crash on purpose took longer than 4 s and was stopped"):
        launcher.run(crash, {"seconds": 100}, seconds=4)  # of which a busy machine may take some to start it


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on private memory is Linux's")
def test_a_child_that_wants_too_much_memory_is_stopped() -> None:
    stopped = pytest.raises(Failed, match="a crash on purpose failed: out of memory")
    with within(Limits(memory=2**30)), stopped:
        launcher.run(crash, {"bytes": 2**31}, seconds=30)


def test_an_error_raised_on_purpose_comes_back_as_itself() -> None:
    with pytest.raises(ModelProblem, match="a problem on purpose") as caught:
        launcher.run(crash, {}, seconds=30)
    assert caught.value.hint == "Nothing to do."


def test_a_defect_in_the_child_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        launcher.run(verifying.compare_numbers, {}, seconds=60)


def test_a_child_runs_only_what_a_room_has_registered() -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        launcher.run(json.loads, {}, seconds=60)


def test_a_child_imports_neither_torch_nor_the_code_that_folds() -> None:
    names = (
        "bnfold.verification.comparison",
        "bnfold.verification.structure",
        "bnfold.benchmarking.launch",
        "bnfold.benchmarking",
    )
    script = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("bnfold")}
    rooms = {"errors", "system", "process", "display", "runtime", "verification", "benchmarking", "model"}
    # of a model, what its file says; protobuf confirms what wire finds
    known = {"", "messages", "models", "bounds", "datafiles", "order", "wire"}
    parts = [f"{name}..".split(".") for name in ours if name != "bnfold"]
    assert [part for part in parts if part[1] not in rooms or (part[1] == "model" and part[2] not in known)] == []
    assert not {"torch", "onnx_graphsurgeon", "onnxruntime"} & set(loaded)


def test_whole_verifications_in_real_children(tmp_path: Path) -> None:
    weights = CONV.weights(0)
    folded = CONV.fold(weights)
    onnx.save(
        CONV.original(weights), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0
    )
    onnx.save(CONV.folded(folded), tmp_path / "b.onnx")
    full = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", effort="full")
    assert full.passed, full.reasons
    assert [level.level for level in full.levels] == ["off", "default"]  # the input enters the only site: no cut
    assert full.levels[-1].same_graph
    fast = verify(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert fast.passed, fast.reasons
    assert [(level.level, level.reference) for level in fast.levels] == [("off", "original"), ("default", "original")]
    assert {row[0] for row in fast.distances()} == {"off", "default", "algebra"}
    assert fast.rows() == fast.worst() == []
    assert re.search(r"outputs differ from the original's by [\d.]+e-0\d of their size", fast.in_a_line())
    assert not any("rounding explains" in words for words in (fast.in_a_line(), *fast.reasons))
    assert fast.to_json()["worst_error"] == {"against": "the original", "original": 0.0, "folded": fast.errors[1]}
    assert full.to_json()["worst_error"]["against"] == "float64"
    assert full.distances() == []
    assert "times what rounding explains" in full.in_a_line()
    onnx.save(CONV.folded({**folded, "w": one_channel(folded["w"])}), tmp_path / "c.onnx")
    assert verify(tmp_path / "a.onnx", tmp_path / "c.onnx", effort="full").verdict == "FAIL"


def test_a_child_that_got_ready_is_used_once_and_for_its_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    real = launcher._waiting
    monkeypatch.setattr(
        launcher, "_waiting", lambda job, *rest, **more: started.append(job.__name__) or real(job, *rest, **more)
    )
    for first in (True, False):
        with launcher.prepared(crash):
            for _ in range(2):
                with pytest.raises(ModelProblem, match="a problem on purpose"):
                    launcher.run(crash, {}, seconds=30, environment=None if first else {"OTHER": "1"})
        assert started == ["crash"] * (2 if first else 3)
        started.clear()


def test_a_child_that_died_as_it_got_ready_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with launcher.prepared(crash):
        spare = launcher._spare.get()
        assert spare is not None
        spare.process.kill()
        spare.process.wait()
        with pytest.raises(Failed, match="the start of a child process was killed"):
            launcher.run(crash, {}, seconds=30)
    assert not Path(spare.folder).exists()


@pytest.mark.parametrize("job", ["compare_structure", "compare_numbers"])
def test_a_crash_of_native_code_is_inconclusive(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = launcher.run

    def run(asked: Job, request: dict[str, object], **limits: float) -> dict[str, object]:
        if asked.__name__ in (job, "compare_both"):
            return real(crash, {"signal": int(signal.SIGABRT)}, seconds=30)
        return real(asked, request, **limits)

    monkeypatch.setattr(verifying.launcher, "run", run)
    weights = GEMM.weights(0)
    found = verify(GEMM.original(weights), GEMM.folded(GEMM.fold(weights)))
    assert found.verdict == "INCONCLUSIVE"
    assert found.reasons == ("a crash on purpose crashed (SIGABRT)",)


def test_the_models_are_left_alone() -> None:
    weights = GEMM.weights(0)
    original, folded = GEMM.original(weights), GEMM.folded(GEMM.fold(weights))
    before = original.SerializeToString(), folded.SerializeToString()
    verify(original, folded)
    assert (original.SerializeToString(), folded.SerializeToString()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_leaves_no_temporary_folder(tmp_path: Path, number: int) -> None:
    """Nor does the one that nobody can handle, once the next child has been started."""
    script = (
        "from bnfold.system.interrupts import interruptible; interruptible()\n"
        "from bnfold.process import launcher; from tests.crash import crash\n"
        "print('up', flush=True); launcher.run(crash, {'seconds': 60}, seconds=60)"
    )
    around = {**os.environ, "TMPDIR": str(tmp_path / "t"), "XDG_STATE_HOME": str(tmp_path / "state")}
    (tmp_path / "t").mkdir()
    for wait in (0.0, 0.05, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=around
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(number)
        process.communicate()
        if number != signal.SIGKILL:
            assert [*(tmp_path / "t").iterdir()] == []
    crash = "from bnfold.process import launcher; from tests.crash import crash\ntry: launcher.run(crash, {}, seconds=60)\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", crash], env=around, check=True)
    assert [*(tmp_path / "t").iterdir()] == []
    assert [*(tmp_path / "state").iterdir()] == []
