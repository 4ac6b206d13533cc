"""A child process that may crash or hang, and a team of them that works on one graph at a time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import onnx

from tests.benchmarks.peers import Tool

from .judging import DRAWS
from .work import Answer, source, target

ROOT = Path(__file__).resolve().parents[2]
START = 240.0  # seconds that a child may take for its first answer, imports included
SECONDS = 60.0  # and for any other


class Child:
    """A worker that is started again where it stopped."""

    def __init__(
        self,
        what: str,
        folder: Path,
        seed: int,
        seconds: float = SECONDS,
        python: str = sys.executable,
        graphs: str = "any",
    ) -> None:
        self.command = [python, "-m", "tests.differential.work", what, str(folder), str(seed), graphs]
        self.seconds, self.process = seconds, None
        self.fresh = True

    def ask(self, line: str) -> Answer:
        """Its answer; `crashed` or `hung` where it has none. The next question goes to a new process then."""
        if self.process is None:
            self.process = self._started()
            self.fresh = True
        try:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._dead()
        told = self._line(max(START, self.seconds) if self.fresh else self.seconds)
        self.fresh = False
        return json.loads(told) if told else self._dead() if told is not None else self._hung()

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "BNFOLD_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        return subprocess.Popen(
            self.command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def _line(self, seconds: float) -> bytes | None:
        """The next line, b"" at the end of the stream, None if it takes too long."""
        deadline, told = time.monotonic() + seconds, b""
        while not told.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            block = os.read(self.process.stdout.fileno(), 1 << 16)
            if not block:
                return b""
            told += block
        return told

    def _dead(self) -> Answer:
        status = self.process.wait()
        self.close()
        name = signal.Signals(-status).name if status < 0 else f"exit {status}"
        return {"crashed": name}

    def _hung(self) -> Answer:
        self.process.kill()
        self.close()
        return {"hung": f"no answer in {self.seconds:g} s"}

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def declined(tool: str, answer: Answer, runs: bool) -> Answer:
    """onnxruntime has to run what it optimizes: where it cannot run the original, that it raises is no fault."""
    excused = tool.startswith("onnxruntime") and not runs and "raised" in answer
    return {"declined": answer["raised"]} if excused else answer


class Team:
    """A worker per tool, and a judge."""

    def __init__(self, tools: Sequence[Tool], folder: Path, seed: int, graphs: str = "any") -> None:
        self.folder, self.seed, self.draw = folder, seed, DRAWS[graphs]
        self.workers = {
            tool.label: Child(tool.label, folder, seed, python=tool.python, graphs=graphs) for tool in tools
        }
        self.judge = Child("judge", folder, seed, graphs=graphs)

    def row(self, index: int, known: Answer | None = None) -> Answer:
        """Everything that is found about one graph, but by tools that are `known`; its files are gone afterwards."""
        onnx.save(self.draw(self.seed, index).stored, source(self.folder, index))
        before = known["tools"] if known else {}
        made = {tool: self.made(tool, index) for tool in self.workers if tool not in before}
        found = {"index": index, "original": self.judge.ask(f"{index} original"), "tools": {**before}}
        runs = found["original"].get("own") is not None
        for tool, (answer, tired) in made.items():
            told = self.seen(index, tool) if not answer else declined(tool, answer, runs)
            found["tools"][tool] = told | ({"tired": tired["raised"]} if tired else {})
        for path in (source(self.folder, index), *(target(self.folder, index, tool) for tool in made)):
            path.unlink(missing_ok=True)
        return found

    def made(self, tool: str, index: int) -> tuple[Answer, Answer | None]:
        """What a tool answers; if it raises in a process that did other graphs before, what it answers in a fresh one.

        Second: what it raised, where a fresh process did not.
        """
        worker = self.workers[tool]
        used, answer = worker.process is not None, worker.ask(str(index))
        if not used or "raised" not in answer:
            return answer, None
        worker.close()
        again = worker.ask(str(index))
        return again, answer if "raised" not in again else None

    def seen(self, index: int, tool: str) -> Answer:
        """The judge's answer; where the judge died of it, that it crashes whoever opens it."""
        answer = self.judge.ask(f"{index} {tool}")
        return {f"opening it {k}": v for k, v in answer.items()} if {"crashed", "hung"} & set(answer) else answer

    def close(self) -> None:
        for child in (*self.workers.values(), self.judge):
            child.close()
