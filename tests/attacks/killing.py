"""Kill folds at any instant, and see what is left: `python -m tests.attacks.killing 200`

A model with its data in a file of its own is folded; OUT is not there yet, or is another model with data of its own.
Whenever the fold ends: inputs are as they were; OUT is absent, old or new, to the last byte, and its data file with
it; and the same command, given again, succeeds and leaves nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import numpy_helper

from bnfold_cli.main import run

IN, OUT = "m.onnx", "out.onnx"
PAIR = OUT, f"{OUT}.data"
START = [sys.executable, "-c", "from bnfold_cli.main import main; main()"]
NURSERY = """
import json, os, signal, sys
import bnfold.folding.pipeline, bnfold_cli.fold, rich.table
from bnfold_cli.main import main

def hook(folder, number, count):
    seen = 0
    held = f"/proc/{os.getpid()}/fd/"  # by which folders are named once they are open

    def heard(event, arguments):
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and (folder in path or held in path):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), number)
    return heard

for line in sys.stdin:
    arguments, folder, number, count = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1); os.dup2(1, 2)
        sys.argv[1:] = arguments
        [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)]; signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.addaudithook(hook(folder, number, count))
        try:
            main()
        except SystemExit as end:
            os._exit(end.code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def written(folder: Path, name: str, seed: int, *, megabytes: float = 0.1, outside: bool = True) -> Path:
    """Conv, BatchNormalization, and a MatMul that is not touched but copied; the numbers depend on the seed."""
    rng, width = np.random.default_rng(seed), int((megabytes * 250_000) ** 0.5)
    stored = {"w": rng.standard_normal((64, 3, 3, 3)), **{k: rng.random(64) + 0.5 for k in "gbmv"}}
    stored["big"] = rng.standard_normal((width, width))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] x, float[1,W] z) => (float[1,64,6,6] y, float[1,W] u)'
        "{ c = Conv (x, w) y = BatchNormalization (c, g, b, m, v) u = MatMul (z, big) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items())
    if outside:
        onnx.save(model, folder / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=1000)
    else:
        onnx.save(model, folder / name)
    return folder / name


def bytes_in(folder: Path, *but: str) -> dict[str, bytes | None]:
    """What lies in a folder: the bytes of every file, None for what is none."""
    return {p.name: p.read_bytes() if p.is_file() else None for p in folder.iterdir() if p.name not in but}


def quietly(arguments: list[str]) -> int:
    """Run a command in this process; its exit code."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run(arguments)


def outcome(path: Path, bins: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes, after onnx's checker has passed."""
    import onnxruntime as ort

    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, bins))


@dataclass(frozen=True)
class Scene:
    """A folder before a fold, the command, and what OUT and its data file were and are to become."""

    folder: Path
    inputs: dict[str, bytes | None]
    old: dict[str, bytes | None]
    new: dict[str, bytes | None]
    options: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        return ["fold", str(self.folder / IN), str(self.folder / OUT), "--verify", "off", *self.options]

    def reset(self) -> None:
        """The folder as it was."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name, content in {**self.inputs, **self.old}.items():
            (self.folder / name).write_bytes(content or b"")

    def state(self) -> str:
        """Where the fold was when it ended: before it wrote, within, or after OUT was there. Raises if all is not well."""
        found = bytes_in(self.folder)
        assert {name: found.get(name) for name in self.inputs} == self.inputs, "an input was changed"
        pair = {name: found[name] for name in PAIR if name in found}
        rest = set(found) - set(self.inputs) - set(PAIR)
        if OUT in pair:
            assert pair in (self.old, self.new), "OUT is neither the old nor the new one"
        if pair == self.new:
            return "after"
        return "within" if rest or pair != self.old else "before"

    def rerun(self) -> None:
        """The same command again: it succeeds, unless OUT was done and is not to be replaced; nothing else is left."""
        done = self.state() == "after" and "--force" not in self.options
        assert quietly(self.arguments) == (2 if done else 0)
        assert bytes_in(self.folder) == {**self.inputs, **self.new}, sorted(bytes_in(self.folder))


def scene(folder: Path, *, exists: bool, megabytes: float = 0.1, outside: bool = True, keep: bool = False) -> Scene:
    """A model to fold, and an OUT that `exists` already, or not; what it must become is found by folding it once."""
    options = ("--external", "keep") if keep else ()
    old: dict[str, bytes | None] = {}
    if exists:
        with TemporaryDirectory(dir=folder.parent) as other:
            source = written(Path(other), "other.onnx", 1, megabytes=megabytes, outside=outside and not keep)
            assert quietly(["fold", str(source), str(Path(other, OUT)), "--verify", "off"]) == 0
            old = {name: found for name, found in bytes_in(Path(other)).items() if name in PAIR}
    source = written(folder, IN, 2, megabytes=megabytes, outside=outside)
    inputs = bytes_in(folder)
    assert quietly(["fold", str(source), str(folder / OUT), "--verify", "off", *options]) == 0
    new = bytes_in(folder, *inputs)
    made = Scene(folder, inputs, old, new, (*options, "--force") if exists else options)
    require_sound(made)
    made.reset()
    return made


def require_sound(made: Scene) -> None:
    """What OUT must become is what the model computes."""
    width = int(onnx.load(made.folder / IN).graph.initializer[-1].dims[0])
    rng = np.random.default_rng(3)
    given = {"x": rng.random((1, 3, 8, 8), np.float32), "z": rng.random((1, width), np.float32)}
    for got, wanted in zip(outcome(made.folder / OUT, given), outcome(made.folder / IN, given), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def nursery() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported all, and forks others which are struck at a given file operation."""
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.communicate()


def struck(born: subprocess.Popen[str], made: Scene, number: int, count: int) -> int:
    """The exit code of a fold that gets a signal just before its `count`th file operation in the folder."""
    assert born.stdin is not None
    assert born.stdout is not None
    born.stdin.write(json.dumps([made.arguments, str(made.folder), number, count]) + "\n")
    born.stdin.flush()
    return int(born.stdout.readline())


def killed(made: Scene, seconds: float) -> None:
    """A fold in a process of its own that is killed after some seconds."""
    process = subprocess.Popen([*START, *made.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    process.wait()


def duration(made: Scene) -> float:
    """Seconds that a fold takes in a process of its own."""
    started = time.perf_counter()
    subprocess.run([*START, *made.arguments], check=True, capture_output=True)
    made.reset()
    return time.perf_counter() - started


def survey(folder: Path, times: int, seed: int = 0, megabytes: float = 0.1) -> Counter[str]:
    """Kill folds at random, half of them where OUT exists; when that was, in words. Raises if all is not well."""
    order, counts = random.Random(seed), Counter[str]()
    for exists in (False, True):
        place = folder / f"exists-{exists}"
        place.mkdir()
        made = scene(place, exists=exists, megabytes=megabytes)
        longest = max(duration(made) for _ in range(3))
        for _ in range(times // 2):
            killed(made, order.uniform(0, longest))
            counts[made.state()] += 1
            made.rerun()
            made.reset()
    return counts


if __name__ == "__main__":
    with TemporaryDirectory(prefix="bnfold-killing-") as temporary:
        print(dict(survey(Path(temporary), int(sys.argv[1]), megabytes=float(sys.argv[2]))))
