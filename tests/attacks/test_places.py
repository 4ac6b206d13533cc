"""Where OUT cannot be written, or another writes it, too: words, an exit code, and everything as it was."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest

from bnfold.errors import EnvironmentProblem
from bnfold.system import journal, staging, temporary
from bnfold_cli.main import run
from tests.attacks.killing import IN, OUT, PAIR, START, Scene, bytes_in, scene, written

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="devices and locks as Linux has them")
ROOT = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may be somebody else")
NOBODY = 65534


@pytest.fixture(params=[False, True], ids=["no OUT", "an old OUT"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A model with external data to fold, and after the test the folder is as it was."""
    folder = tmp_path / "models"
    folder.mkdir()
    found = scene(folder, exists=request.param)
    yield found
    assert bytes_in(folder) == {**found.inputs, **found.old}


def refused(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command with this exit code, which has a hint and says nothing else."""
    capsys.readouterr()
    assert run(arguments) == code
    out, stderr = capsys.readouterr()
    assert [line.partition(": ")[0] for line in stderr.splitlines()] == ["error", "hint"]
    assert out == ""
    return stderr


def test_a_disk_that_is_full(made: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for it: the write that exceeds it fails in the system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        stderr = refused(made.arguments, 4, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "out.onnx cannot be written: File too large" in stderr


@pytest.mark.parametrize(
    ("call", "code"),
    [("fsync", errno.EDQUOT), ("replace", errno.EIO), ("mkdir", errno.EDQUOT), ("open", errno.ENOSPC)],
)
def test_each_call_that_fails(made: Scene, capsys, monkeypatch, call: str, code: int) -> None:
    """Whichever call on the folder fails first: the disk is full, the quota is used up, the disk is broken."""
    honest, count, failed = getattr(os, call), 0, True
    descriptors = f"/proc/{os.getpid()}/fd/"  # by which folders are named once they are open

    def failing(*arguments, **more):
        nonlocal count, failed
        ours = call == "fsync" or any(word in str(arguments[0]) for word in (str(made.folder), descriptors))
        count += ours
        if ours and count == nth and not (call == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)):
            failed = True
            raise OSError(code, os.strerror(code))
        return honest(*arguments, **more)

    nth = 0
    while failed:
        nth, count, failed = nth + 1, 0, False
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            found = run(made.arguments)
        stderr = capsys.readouterr().err
        if failed and found:
            read = "cannot be read" in stderr  # a data file of the model, or the folder that it is in
            assert found == (3 if read else 4), stderr
            what = (IN, "'w'") if read else (f"cannot be written: {os.strerror(code)}",)
            assert any(word in stderr for word in what), stderr
            assert bytes_in(made.folder) == {**made.inputs, **made.old}, nth
        else:
            assert made.state() == "after"
            made.rerun()
            made.reset()
        failed = failed or (call in ("fsync", "open") and nth < 4)
    assert nth > 1


@ROOT
def test_a_folder_that_may_not_be_written(made: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """As somebody else: to root, permissions are no obstacle."""
    for path in (made.folder, *made.folder.parents):
        if path.stat().st_uid == 0 and path.stat().st_mode & 0o055 != 0o055:
            path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        stderr = refused(made.arguments, 4, capsys)
    finally:
        os.seteuid(0)
    assert "out.onnx cannot be written: Permission denied" in stderr


def test_another_file_system(made: Scene) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == made.folder.stat().st_dev:
        pytest.skip("there is no other file system")
    with TemporaryDirectory(dir=shared) as other:
        assert run([*made.arguments[:2], str(Path(other, OUT)), *made.arguments[3:]]) == 0
        assert bytes_in(Path(other)) == made.new


def test_two_folds_one_after_the_other_in_the_middle_of_the_first(made: Scene, capsys, monkeypatch) -> None:
    """The second begins and ends between the first one's start and its end: one of them is what OUT is."""
    place, second = staging._place, []

    def interleaved(*arguments):
        monkeypatch.setattr(staging, "_place", place)
        second.append(run(made.arguments))
        place(*arguments)

    monkeypatch.setattr(staging, "_place", interleaved)
    first = run(made.arguments)
    assert second == [0]
    assert first == (0 if "--force" in made.arguments else 2)
    assert bytes_in(made.folder) == {**made.inputs, **made.new}
    assert first == 0 or "out.onnx exists" in capsys.readouterr().err
    made.reset()


@pytest.mark.parametrize("force", [True, False])
def test_two_processes_race_for_one_output(tmp_path: Path, force: bool) -> None:
    made = scene(tmp_path, exists=False)
    other = written(tmp_path, "other.onnx", 5)
    more = ["--force"] if force else []
    commands = [[*START, *made.arguments, *more], [*START, "fold", str(other), *made.arguments[2:], *more]]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in commands]
    said = [each.communicate()[1] for each in running]
    codes = [each.returncode for each in running]
    assert sorted(codes) == ([0, 0] if force else [0, 2]), said
    pair = {name: found for name, found in bytes_in(tmp_path).items() if name in PAIR}
    assert run([*commands[1][len(START) : -1 if force else None], "--force"]) == 0
    theirs = {name: found for name, found in bytes_in(tmp_path).items() if name in PAIR}
    assert theirs != made.new
    assert pair in ((made.new, theirs) if force else [(made.new, theirs)[codes.index(0)]])
    assert {*bytes_in(tmp_path)} == {IN, f"{IN}.bin", "other.onnx", "other.onnx.bin", *PAIR}


def test_threads_write_one_output(tmp_path: Path) -> None:
    """Each thread's file is whole, and nothing else is left."""
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=staging.write_file, args=(tmp_path / "r", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r").read_bytes() in contents


@LINUX
def test_a_draft_of_the_living_stays_and_one_of_the_dead_goes_though_a_fork_lives(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from bnfold.system.staging import staged\n"
        "with staged(Path(sys.argv[1])) as draft:\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True); signal.pause()\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "o.onnx")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        staging.sweep(tmp_path / "o.onnx")
        assert len([*tmp_path.iterdir()]) == 1
        process.kill()
        process.wait()
        staging.sweep(tmp_path / "o.onnx")
        assert [*tmp_path.iterdir()] == []
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_what_looks_like_a_draft_but_is_none_stays(tmp_path: Path) -> None:
    name = f".o.onnx.{'0' * 16}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_text("mine")
    (tmp_path / "away").mkdir()
    (tmp_path / f".o.onnx.{'1' * 16}").symlink_to(tmp_path / "away")
    staging.write_file(tmp_path / "o.onnx", b"new")
    assert (tmp_path / name / "precious").read_text() == "mine"
    assert (tmp_path / f".o.onnx.{'1' * 16}").is_symlink()


@pytest.mark.parametrize("name", ["m.onnx.bin", "a link", "its name is OUT.data"])
def test_a_data_file_of_the_input_is_never_replaced(made: Scene, capsys, name: str) -> None:
    source, out = made.folder / IN, made.folder / "m.onnx.bin"
    if name == "a link":
        out = made.folder / "l.onnx"
        out.symlink_to(made.folder / "m.onnx.bin")
    if name == "its name is OUT.data":
        model = onnx.load(source, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "l.onnx.data" if entry.key == "location" else entry.value
        source, out = made.folder / "n.onnx", made.folder / "l.onnx"
        source.write_bytes(model.SerializeToString())
        (made.folder / "m.onnx.bin").rename(made.folder / "l.onnx.data")
    before = bytes_in(made.folder)
    stderr = refused(["fold", str(source), str(out), "--verify", "off", "--force"], 2, capsys)
    assert "is a data file of the input" in stderr
    assert bytes_in(made.folder) == before
    for extra in ("l.onnx", "n.onnx", "l.onnx.data"):
        (made.folder / extra).unlink(missing_ok=True)
    made.reset()


@ROOT
@LINUX
def test_devices_are_written_to_but_never_replaced(made: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Devices of our own: a test that fails must not take /dev/null from the machine."""
    null, full, out = (made.folder.parent / name for name in ("null", "full", "stdout"))
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    out.symlink_to("/proc/self/fd/1")
    stderr = refused([*made.arguments[:2], str(null), "--verify", "off", "--force"], 2, capsys)
    assert "null is not a regular file" in stderr
    assert run([*made.arguments, "--json", str(full)]) == 4
    assert "full cannot be written: No space left on device" in capsys.readouterr().err
    made.reset()
    done = subprocess.run([*START, *made.arguments, "--json", str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert stat.S_ISCHR(full.stat().st_mode)
    assert out.is_symlink()
    made.reset()


def test_a_pipe_is_no_output(made: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(made.folder.parent / "pipe")
    stderr = refused([*made.arguments[:2], str(made.folder.parent / "pipe"), "--verify", "off", "--force"], 2, capsys)
    assert "pipe is not a regular file" in stderr


@pytest.mark.parametrize("leads_to", ["real", "nowhere"])
def test_an_output_takes_the_place_of_a_link_and_nothing_is_written_through_it(tmp_path: Path, leads_to: str) -> None:
    """Whoever made the folder has put a link where a report goes by itself, or where an option names it."""
    (tmp_path / "models").mkdir()
    made = scene(tmp_path / "models", exists=False)
    (tmp_path / "real").write_text("old")
    link, page = made.folder / "link.json", made.folder / "out.html"
    for path in (link, page):
        path.symlink_to(tmp_path / leads_to)
    assert run([*made.arguments, "--json", str(link)]) == 0
    assert not link.is_symlink()
    assert json.loads(link.read_text())["schema"] == "bnfold.fold/1"
    models = [str(made.folder / name) for name in (IN, OUT)]
    assert run(["report", *models, "--verify", "off"]) == 2
    assert page.is_symlink()
    assert run(["report", *models, "--verify", "off", "--force"]) == 0
    assert not page.is_symlink()
    assert (tmp_path / "real").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"models", "real"}


PLANTED = {  # in a folder that looks like a draft of today's or of an older version
    "a model": lambda folder: (folder / "aside").write_bytes(b"evil"),
    "a link": lambda folder: (folder / "aside").symlink_to("/etc/hostname"),
    "the folder's own data": lambda folder: (folder / "data.bin").write_bytes(b"precious"),
    "pipes": lambda folder: [os.mkfifo(folder / name) for name in ("moved", "aside")],
}


@pytest.mark.parametrize("name", [".out.onnx.0123456789abcdef", ".bnfold-0123456789abcdef"])
@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("options", [["--dry-run"], ["--limit", "nodes=1"], []], ids=["dry", "refused", "folded"])
def test_what_somebody_put_there_is_no_draft_of_ours(made: Scene, name: str, planted: str, options: list[str]) -> None:
    """Once a stranger's folder made its own file OUT, unproved, by the name of a folder in it."""
    folder = made.folder / name
    folder.mkdir(0o700)
    (folder / "lock").touch()
    PLANTED[planted](folder)
    before = {path.name: path.lstat() for path in folder.iterdir()}
    code = run([*made.arguments, *options])
    assert code == (3 if "nodes=1" in options else 0)
    assert {path.name: path.lstat() for path in folder.iterdir()} == before
    pair = {name: found for name, found in bytes_in(made.folder).items() if name in PAIR}
    assert pair == (made.old if options else made.new)
    made.reset()


@LINUX
def test_an_entry_of_another_draft_undoes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft of a killed process is gone, and a folder of its name is there: by its inode it is another one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    target = tmp_path / "o.onnx"
    dead_draft(target)
    (draft,) = tmp_path.glob(".bnfold-*")
    (draft / "o.onnx").unlink()
    moved = draft.rename(tmp_path / "away")
    draft.mkdir(0o700)
    (draft / "precious").write_text("mine")
    staging.sweep(target)
    assert (draft / "precious").read_text() == "mine"
    assert moved.is_dir()


@LINUX
@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize("planted", ["link", "file"])
def test_a_draft_whose_place_somebody_takes_is_not_installed(tmp_path: Path, in_folder: bool, planted: str) -> None:
    """Whoever may write to the folder swaps the draft, or its folder, before it becomes OUT: with what lies elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.onnx").write_text("evil")
    target = tmp_path / "o.onnx"

    def written() -> None:
        with staging.staged(target, in_folder=in_folder) as draft:
            draft.write_text("proved")
            (swapped,) = tmp_path.glob(".bnfold-*.onnx" if in_folder else ".bnfold-*")
            swapped.rename(tmp_path / "aside")
            if planted == "link":
                swapped.symlink_to(other / "o.onnx" if in_folder else other)
            else:
                (shutil.copy if in_folder else shutil.copytree)(other / "o.onnx" if in_folder else other, swapped)

    if in_folder:
        with pytest.raises(EnvironmentProblem, match="somebody has put another file in the place of a draft"):
            written()
        assert not os.path.lexists(target)
    else:
        written()
        assert target.read_text() == "proved"
    assert (other / "o.onnx").read_text() == "evil"


def dead_draft(target: Path) -> None:
    """A process is killed while it writes."""
    script = (
        "import os, signal, sys; from pathlib import Path; from bnfold.system.staging import staged\n"
        "with staged(Path(sys.argv[1])) as draft: draft.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(target)]).returncode == -signal.SIGKILL


@LINUX
@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_journal_is_read_only_where_nobody_else_can_write(tmp_path: Path, monkeypatch, mode: int) -> None:
    """In a folder that anybody may write to, an entry proves nothing: what the dead left stays."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    dead_draft(tmp_path / "o.onnx")
    (tmp_path / "state" / "bnfold").chmod(mode)
    staging.sweep(tmp_path / "o.onnx")
    assert bool([*tmp_path.glob(".bnfold-*")]) == (mode == 0o777)


ODD = ['{"path":5,"folder":3}', '{"name":5}', '{"name":null,"path":null}', '{"name":"../x"}', "[]", "5", "{"]


@LINUX
@pytest.mark.parametrize("line", ODD)
def test_an_entry_that_no_bnfold_writes_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line) -> None:
    """A file that a crash of the system has damaged, or of another version: it stops nothing, and goes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "bnfold").mkdir(0o700)
    (tmp_path / "to").mkdir()
    for key in (temporary.KEY, journal.key(tmp_path / "to" / "o")):
        (tmp_path / "bnfold" / f"{key}.bnfold-0").write_text(f"{line}\n")
    staging.write_file(tmp_path / "to" / "o", b"new")
    with temporary.folder() as made:
        assert os.path.isdir(made)
    assert (bytes_in(tmp_path / "to"), [*tmp_path.glob("bnfold/*")]) == ({"o": b"new"}, [])


@LINUX
def test_without_a_journal_files_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    staging.write_file(tmp_path / "r", b"new")
    assert bytes_in(tmp_path) == {"r": b"new"}


@LINUX
def test_a_folder_that_somebody_has_locked_is_not_waited_for_without_end(made: Scene, capsys) -> None:
    """Whoever may read a folder may lock it. A word is said, and the limit of time ends it."""
    import fcntl

    file = os.open(made.folder, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        assert run([*made.arguments, "--limit", "seconds=2"]) == 4
    finally:
        os.close(file)
    stderr = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in stderr] == ["note", "error", "hint"]
    assert "waiting for another process, which has locked the folder of" in stderr[0]
    assert "another process has had its folder locked for 2 s" in stderr[1]


@LINUX
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_is_added_to_what_a_link_leads_to(tmp_path: Path, kind: str) -> None:
    """The metrics of a run that somebody else has made, and that is resumed."""
    (tmp_path / "precious").write_text("mine")
    if kind == "link":
        (tmp_path / "metrics.jsonl").symlink_to("precious")
    else:
        os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(EnvironmentProblem, match=r"metrics.jsonl cannot be written: "):
        staging.append_text(tmp_path / "metrics.jsonl", "{}\n")
    assert (tmp_path / "precious").read_text() == "mine"


@LINUX
@pytest.mark.parametrize("option", ["--json", "--junit", "--report"])
def test_a_pipe_without_a_reader_is_not_waited_for(made: Scene, capsys, option: str) -> None:
    pipe = made.folder.parent / "pipe"
    os.mkfifo(pipe)
    assert run([*made.arguments, "--dry-run", option, str(pipe)]) == 4
    assert "pipe cannot be written: nobody reads from this pipe" in capsys.readouterr().err


def test_recalibrate_never_replaces_a_data_file_of_its_input(made: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(made.folder.parent / "d.npz", np.zeros(1))
    data = ["--data", str(made.folder.parent / "d.npz"), "--force"]
    stderr = refused(["recalibrate", str(made.folder / IN), str(made.folder / "m.onnx.bin"), *data], 2, capsys)
    assert "is a data file of the input" in stderr
