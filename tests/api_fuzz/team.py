"""Workers that are started again where they died."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0  # that one graph may take
Row = dict[str, Any]


class Worker:
    """One process at a time; what it died of is an answer."""

    def __init__(self, seed: int) -> None:
        self.seed, self.process, self.left = seed, None, b""

    def ask(self, index: int) -> Row:
        """The answer; of a process that died where the original had run, what a second one says."""
        row = self._asked(index)
        return self._asked(index) if "died" in row else row

    def _asked(self, index: int) -> Row:
        if self.process is None:
            self.process, self.left = self._started(), b""
        self.process.stdin.write(f"{index}\n".encode())
        self.process.stdin.flush()
        stage = "original"
        while (line := self._line()) is not None:
            if line.startswith("{"):
                return json.loads(line)
            stage = line
        return self._gone(index, stage)

    def _started(self) -> subprocess.Popen[bytes]:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BNFOLD_THREADS", "ORT_DISABLE_TELEMETRY"), "1")
        command = [sys.executable, "-m", "tests.api_fuzz.worker", str(self.seed)]
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def _line(self) -> str | None:
        """The next line; None where the process ended or takes too long."""
        while b"\n" not in self.left:
            if not select.select([self.process.stdout], [], [], SECONDS)[0]:
                self.process.kill()
                return None
            block = os.read(self.process.stdout.fileno(), 1 << 16)
            if not block:
                return None
            self.left += block
        line, _, self.left = self.left.partition(b"\n")
        return line.decode()

    def _gone(self, index: int, stage: str) -> Row:
        """A crash of the original is onnxruntime's; one after it is a fault, and so is a process that hangs."""
        status = self.process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit {status}"
        self.close()
        if stage == "original":
            return {"index": index, "dropped": f"onnxruntime died of it: {name}", "features": {}}
        faults = [["crashed or hung", f"{name}, {stage}"]]
        return {"index": index, "faults": faults, "folded": 0, "kept": 0, "features": {}, "died": True}

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def rows(seed: int, indices: Sequence[int], jobs: int) -> Iterator[Row]:
    """A row for each graph, as soon as it is there."""
    done: queue.SimpleQueue[Row | None] = queue.SimpleQueue()

    def work(share: Sequence[int]) -> None:
        worker = Worker(seed)
        for index in share:
            done.put(worker.ask(index))
        worker.close()
        done.put(None)

    threads = [threading.Thread(target=work, args=(indices[i::jobs],), daemon=True) for i in range(jobs)]
    for thread in threads:
        thread.start()
    for _ in threads:
        yield from iter(done.get, None)
