"""Many models at once: one table, one report, one exit code; what goes wrong with one stays with it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.folding import engines, fleet
from bnfold.folding.pipeline import Options
from bnfold.folding.selection import selected
from bnfold.folding.worker import fold_apart
from bnfold.system.installed import install_command
from bnfold.system.processors import threads
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.test_cli import conv_bn, here, listing, single, without_bn, written  # noqa: F401

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bnfold_cli.main import main; main()"
)


def stuck_bn() -> onnx.ModelProto:
    return single(build(f"c = Sigmoid(X) Y = {BN('c', 'p')}", "X[N,3,6,6]", "Y[N,3,6,6]", bn("p", 3)))


def slow_bn() -> onnx.ModelProto:
    """Its full verification takes long."""
    size = (32, 32, 3, 3)
    layers = "".join(f"c{i} = Conv({f'c{i - 1}' if i else 'X'}, W{i}) " for i in range(6))
    weights = {**{f"W{i}": size for i in range(6)}, **bn("p", 32)}
    return single(build(layers + f"Y = {BN('c5', 'p')}", "X[N,32,64,64]", "Y[N,32,52,52]", weights))


@pytest.fixture
def models(here: Path) -> Path:  # noqa: F811
    """Two good models, one that is none, one whose BatchNormalization must stay."""
    for name, model in {"a": conv_bn(), "b": conv_bn(), "stuck": stuck_bn()}.items():
        written(here / f"{name}.onnx", model)
    (here / "bad.onnx").write_text("hello")
    return here


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_times(found: Any) -> Any:
    """A report without what differs from run to run: times, and the temporary places of drafts."""
    if isinstance(found, dict):
        return {k: without_times(v) for k, v in found.items() if k not in ("seconds", "engine", "jobs", "path")}
    return [without_times(each) for each in found] if isinstance(found, list) else found


def test_one_table_one_json_one_junit_and_the_worst_exit_code(models, capfd):
    given = ["a.onnx", "bad.onnx", "b.onnx", "stuck.onnx"]
    reports = ["--json", "r.json", "--junit", "r.xml"]
    assert run(["fold", *given, "--out-dir", "out/deep", "--jobs", "2", *reports]) == 3
    out, err = capfd.readouterr()
    head = next(line for line in out.splitlines() if line.startswith("model "))
    begins = [head.index(name) for name in fleet.Fleet.COLUMNS]
    spans = [slice(*span) for span in zip(begins, [*begins[1:], None], strict=True)]
    rows = [[line[span].strip() for span in spans] for line in out.splitlines() if ".onnx" in line]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("a.onnx", "1", "0"), ("bad.onnx", "", ""), ("b.onnx", "1", "0"), ("stuck.onnx", "1", "1")
    ]  # fmt: skip
    assert [row[5] for row in rows][::2] == ["PASS, proved", "PASS, proved"]
    assert rows[3][5] == "unchanged"
    assert "error: bad.onnx is not an ONNX model, or is cut off\nhint: Give" in err
    assert err.splitlines()[-1].startswith("3 of 4 models without an error, ")
    assert names(models / "out/deep") == ["a.folded.onnx", "b.folded.onnx", "stuck.folded.onnx"]
    found = json.loads(Path("r.json").read_text())
    assert found["schema"] == "bnfold.fleet/1"
    assert [(each["source"], each["exit_code"]) for each in found["models"]] == list(
        zip(given, (0, 3, 0, 0), strict=True)
    )
    assert found["exit_code"] == 3
    suites = ElementTree.parse("r.xml").getroot().findall("testsuite")
    cases = {case.attrib["name"]: [child.tag for child in case] for case in suites[0]}
    assert len(suites) == 1
    assert cases["bad.onnx: fold"] == ["error"]
    assert cases["a.onnx: verdict"] == ["system-out"]


def test_each_model_becomes_what_fold_alone_makes_of_it(models, capfd):
    assert run(["fold", "a.onnx", "--json", "alone.json"]) == 0
    capfd.readouterr()
    assert run(["fold", "a.onnx", "b.onnx", "--out-dir", "out", "--json", "-"]) == 0
    found = json.loads(capfd.readouterr().out)
    alone = json.loads(Path("alone.json").read_text())
    assert without_times(found["models"][0]["report"]) == without_times({**alone, "target": "out/a.folded.onnx"})
    assert Path("out/a.folded.onnx").read_bytes() == Path("a.folded.onnx").read_bytes()


def test_options_are_those_of_every_model(models, capfd):
    written(models / "plain.onnx", without_bn())
    rest = ["--out-dir", "out", "--verify", "off"]
    assert run(["fold", "a.onnx", "plain.onnx", *rest, "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "NOT VERIFIED, not written" in out
    assert "already folded, not written" in out
    assert not Path("out").exists()
    assert run(["fold", "a.onnx", "plain.onnx", *rest, "--strict"]) == 0
    assert names(models / "out") == ["a.folded.onnx", "plain.folded.onnx"]
    assert Path("out/plain.folded.onnx").read_bytes() == Path("plain.onnx").read_bytes()
    Path("out/plain.folded.onnx").unlink()
    assert run(["fold", "a.onnx", "b.onnx", *rest]) == 2
    assert "out/a.folded.onnx exists" in capfd.readouterr().err
    assert names(models / "out") == ["a.folded.onnx", "b.folded.onnx"]
    assert run(["fold", "a.onnx", "b.onnx", *rest, "--force"]) == 0
    assert run(["fold", "bad.onnx", "stuck.onnx", *rest, "--strict"]) == 1
    assert (
        "stuck.onnx: 1 BatchNormalization kept\nhint: `bnfold explain stuck.onnx` says why." in capfd.readouterr().err
    )


def test_a_folder_and_a_pattern_are_the_models_in_them(models, capfd):
    rest = ["--verify", "off", "--out-dir"]
    assert run(["fold", "[ab].onnx", "a.onnx", "./b.onnx", *rest, "."]) == 0
    assert names(models) == ["a.folded.onnx", "a.onnx", "b.folded.onnx", "b.onnx", "bad.onnx", "stuck.onnx"]
    assert run(["fold", ".", *rest, "out"]) == 3
    assert names(models / "out") == ["a.folded.onnx", "b.folded.onnx", "stuck.folded.onnx"]
    assert run(["fold", "out", "**/b.onnx", *rest, "more"]) == 2
    assert capfd.readouterr().err.endswith(
        "error: no model in out (skipped: 3 results of fold)\nhint: Name .onnx files, folders that hold some, or a pattern.\n"
    )


def test_what_is_wrong_with_the_request_is_said_before_anything_starts(models, capfd):
    Path("other").mkdir()
    shutil.copy("a.onnx", "other/a.onnx")
    shutil.copy("a.onnx", "other/b.folded.onnx")
    before = listing(models)
    for arguments, words in {
        ("a.onnx", "a", "--out-dir", "out"): "a.onnx and a would both become out/a.folded.onnx",
        ("b.onnx", "other/b.folded.onnx", "--out-dir", "other"): "other/b.folded.onnx is an input itself",
        ("a.onnx", "--out-dir", "out", "--external", "keep"): "out/a.folded.onnx cannot refer to data files in .",
        ("no*.onnx", "--out-dir", "out"): "no model matches no*.onnx",
        ("a.onnx", "--out-dir", "out", "--engine", "steam"): "invalid value for '--engine': 'steam' is not one of 'local', 'ray'",
        ("a.onnx", "b.onnx", "stuck.onnx"): "3 paths are too many for IN and OUT",
        ("a.onnx", "--jobs", "2"): "--jobs and --engine are for many models",
        ("a.onnx", "--engine", "ray"): "--jobs and --engine are for many models",
    }.items():  # fmt: skip
        assert run(["fold", *arguments]) == 2, arguments
        out, err = capfd.readouterr()
        assert (out, err.startswith(f"error: {words}"), err.count("\nhint: ")) == ("", True, 1), err
    assert listing(models) == before


def test_an_out_dir_that_cannot_be_made(models, capfd):
    before = listing(models)
    assert run(["fold", "a.onnx", "--out-dir", "bad.onnx/out"]) == 4
    assert capfd.readouterr().err.startswith("error: bad.onnx/out cannot be made: ")
    assert listing(models) == before


def test_external_data_may_stay_next_to_the_model(models):
    model = conv_bn()
    onnx.save(model, "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    assert run(["fold", "ext.onnx", "--out-dir", ".", "--external", "keep"]) == 0
    assert "ext.folded.onnx" in names(models)
    assert "ext.folded.onnx.data" not in names(models)


def test_the_worst_exit_code():
    def of(*codes: int) -> int:
        return fleet.Fleet(
            tuple(fleet.Outcome(Path(), Path(), c, "", "", None, [], 0.0) for c in codes), "", 1, 0.0
        ).exit_code

    assert [of(0, 0), of(0, 2), of(2, 3), of(3, 4), of(4, 5), of(5, 1), of(1, 70)] == [0, 2, 3, 4, 5, 1, 70]


@pytest.mark.parametrize(("jobs", "processors", "count", "at_once", "threads"), [
    (None, 8, 9, 4, 2), (None, 1, 9, 1, 1), (None, 8, 1, 1, 8), (3, 8, 9, 3, 2), (16, 8, 20, 16, 1),
])  # fmt: skip
def test_jobs_share_the_processors(tmp_path, monkeypatch, jobs, processors, count, at_once, threads):
    most, asked = [0], []

    class Noted:
        def start(self, request):
            asked.append(request["threads"])
            return len(asked) - 1

        def ended(self, handles):
            most[0] = max(most[0], len(handles))
            return handles[-1:]

        def answer(self, handle):
            return {"exit_code": 0, "error": "", "hint": str(handle), "report": None, "checks": [], "seconds": 0.0}

        def stop(self, handles):
            assert handles == []

    monkeypatch.setattr(fleet, "threads", lambda: processors)
    monkeypatch.setattr(engines, "open_engine", lambda name: contextlib.nullcontext(Noted()))
    planned = [fleet.Task(Path(f"{i}.onnx"), tmp_path / f"{i}.onnx") for i in range(count)]
    done = fleet.fold_all(planned, jobs=jobs)
    assert (most[0], set(asked), done.jobs) == (at_once, {threads}, at_once)
    assert [(each.source, each.hint) for each in done.outcomes] == [(Path(f"{i}.onnx"), str(i)) for i in range(count)]


def test_a_job_gives_its_share_to_onnxruntime(monkeypatch):
    usable = threads()
    for asked, given in {"1": 1, "100000": usable}.items():
        monkeypatch.setenv("BNFOLD_THREADS", asked)
        assert threads() == given
    monkeypatch.setenv("BNFOLD_THREADS", "0")
    with pytest.raises(UsageProblem, match="BNFOLD_THREADS=0 is not a number of threads"):
        threads()


def test_the_worker_is_plain_data_in_and_out(models):
    """What any engine needs; also the share of the processors reaches the process."""
    request = fleet.Task(Path("a.onnx"), Path("a.folded.onnx"), threads=1).request()
    assert json.loads(json.dumps(request)) == request
    os.chdir("/")
    answer = fold_apart(request)
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["exit_code"], answer["report"]["verification"]["verdict"]) == (0, "PASS")
    assert (models / "a.folded.onnx").exists()
    answer = fold_apart({**request, "threads": 0})
    assert (answer["exit_code"], answer["error"]) == (2, "a.folded.onnx exists")
    answer = fold_apart({**request, "threads": 0, "target": "b.folded.onnx"})
    assert answer["error"] == "BNFOLD_THREADS=0 is not a number of threads"
    answer = fold_apart({**request, "folder": str(models / "nowhere")})
    assert (answer["exit_code"], answer["report"]) == (4, None)


def processes() -> dict[int, int]:
    """Every process of this machine, and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(path.parent.name)] = int(fields[1])
    return found


def offspring(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    parents, found, more = processes(), set(), {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= more
    return found


def until(condition: Callable[[], Any]) -> Any:
    """What a condition says as soon as it says yes."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def folding(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`bnfold fold` in a process of its own, which takes Ctrl-C even if these tests run in the background."""
    command = [sys.executable, "-c", START, "fold", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def slow(here: Path) -> Path:  # noqa: F811
    for name in ("s0", "s1", "s2"):
        written(here / f"{name}.onnx", slow_bn())
    written(here / "a.onnx", conv_bn())
    (here / "out").mkdir()
    return here


def drafts(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".*/*.onnx") if path.stat().st_size]


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_whole_files_and_no_process(slow, number):
    """The signal reaches one process alone, in the middle of two verifications; a.onnx was done before."""
    order = ["a.onnx", "s0.onnx", "s1.onnx", "s2.onnx"]
    with folding(*order, "--out-dir", "out", "--jobs", "2", "--verify", "full", "--json", "r.json") as process:
        until(lambda: Path("out/a.folded.onnx").exists() and len(drafts(slow / "out")) == 2)
        started = until(lambda: len(found := offspring(process.pid)) >= 4 and found)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err.splitlines()[-2:]) == (
        "",
        ["error: interrupted", "hint: Nothing was left half written; run the same command again."],
    )
    assert names(slow / "out") == ["a.folded.onnx"]
    assert not Path("r.json").exists()
    assert started.isdisjoint(processes())


@LINUX
def test_a_worker_that_is_killed_is_one_error(slow, capfd):
    with folding("s0.onnx", "a.onnx", "--out-dir", "out", "--jobs", "1", "--verify", "full") as process:
        until(lambda: drafts(slow / "out"))
        (worker,) = (pid for pid, parent in processes().items() if parent == process.pid)
        started = offspring(process.pid)
        os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error: the process that folds s0.onnx was killed\nhint: Most often memory was short" in err
    assert names(slow / "out") == ["a.folded.onnx"]
    assert started.isdisjoint(processes())


@LINUX
def test_a_fleet_that_is_killed_leaves_no_process(slow):
    with folding("s0.onnx", "s1.onnx", "--out-dir", "out", "--jobs", "2", "--verify", "full") as process:
        until(lambda: len(drafts(slow / "out")) == 2)
        started = until(lambda: len(found := offspring(process.pid)) >= 4 and found)
        process.kill()
        process.wait()
        until(lambda: started.isdisjoint(processes()))
    assert all(name.startswith(".") for name in names(slow / "out"))
    with folding("s0.onnx", "s1.onnx", "--out-dir", "out", "--verify", "off") as process:
        assert process.wait() == 0
    assert names(slow / "out") == ["s0.folded.onnx", "s1.folded.onnx"]


def test_on_another_thread_signals_are_left_alone(models):
    """They come to the main thread only; a fleet may run next to it."""
    planned = fleet.tasks(
        selected([Path("a.onnx"), Path("b.onnx")], Path("out")).models, Path("out"), Options(verify="off")
    )
    with ThreadPoolExecutor() as pool:
        found = pool.submit(fleet.fold_all, planned, jobs=2).result()
    assert found.exit_code == 0
    assert names(models / "out") == ["a.folded.onnx", "b.folded.onnx"]


def test_without_ray_the_hint_says_what_to_install(models, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    before = listing(models)
    assert run(["fold", "a.onnx", "--out-dir", "out", "--engine", "ray"]) == 4
    said, hint = capfd.readouterr().err.splitlines()
    assert said.startswith("error: --engine ray needs the package ray, which cannot be imported here (")
    assert hint == f"hint: {install_command('fleet')}"
    assert listing(models) == before


def test_ray_is_imported_only_for_its_engine(models):
    code = "import sys; from bnfold_cli.main import run; run(['fold','a.onnx','--out-dir','out']); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@RAY
def test_on_ray_the_results_are_the_same(models, tmp_path_factory):
    reports, done = {}, tmp_path_factory.mktemp("done")
    for engine in ("local", "ray"):
        arguments = [".", "--out-dir", "out", "--engine", engine, "--json", str(done / f"{engine}.json")]
        with folding(*arguments) as process:
            _, err = process.communicate(timeout=300)
        assert process.returncode == 3, err
        reports[engine] = without_times(json.loads((done / f"{engine}.json").read_text()))
        Path("out").rename(done / engine)
    assert reports["ray"] == reports["local"]
    assert listing(done / "ray") == listing(done / "local")
    assert len(listing(done / "ray")) == 3


@RAY
@LINUX
def test_on_ray_an_interruption_leaves_whole_files_and_no_process(slow):
    with folding("s0.onnx", "s1.onnx", "--out-dir", "out", "--verify", "full", "--engine", "ray") as process:
        until(lambda: drafts(slow / "out"))
        started = offspring(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert names(slow / "out") == []
    until(lambda: started.isdisjoint(processes()))


@RAY
@LINUX
def test_on_ray_a_worker_that_is_killed_is_one_error(slow):
    with folding(
        "s0.onnx", "a.onnx", "--out-dir", "out", "--jobs", "1", "--verify", "full", "--engine", "ray"
    ) as process:
        until(lambda: drafts(slow / "out"))
        started = offspring(process.pid)
        words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
        (worker,) = (pid for pid, text in words.items() if text.startswith(b"ray::fold_apart"))
        os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "error: s0.onnx: Ray could not run the worker: " in err
    assert names(slow / "out") == ["a.folded.onnx"]
    until(lambda: started.isdisjoint(processes()))


def test_what_a_signal_means_is_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with engines.noted_signals() as found:
        os.kill(os.getpid(), signal.SIGTERM)
        assert found == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def broken(outcome):
    raise EnvironmentProblem("the listener is broken", "")


def test_after_an_error_no_other_model_is_begun(models):
    planned = fleet.tasks(selected([Path("bad.onnx"), Path("a.onnx")], Path("out")).models, Path("out"))
    with pytest.raises(EnvironmentProblem, match="listener"):
        fleet.fold_all(planned, jobs=1, on_outcome=broken)
    assert not Path("out").exists()


def test_an_error_while_workers_run_leaves_whole_models_only(models):
    planned = fleet.tasks(selected([Path("bad.onnx"), Path("a.onnx")], Path("out")).models, Path("out"))
    with pytest.raises(EnvironmentProblem, match="listener"):
        fleet.fold_all(planned, jobs=2, on_outcome=broken)
    for left in Path("out").glob("*"):  # the second model, if it was done before it could be stopped
        assert left.name == "a.folded.onnx"
        onnx.checker.check_model(onnx.load(left))
