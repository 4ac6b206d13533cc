"""Native code without a fork for each call, which would take most of the time: another process tries each model first.

Where onnx's checker and shape inference survive a model there, they are called in this process; where they do not, they
are called in forks, as bnfold always does.
"""

from __future__ import annotations

import resource
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import onnx
from onnx import ModelProto

from bnfold.process import native

SECONDS, MEMORY = 5.0, 4 << 30
_START = "from tests.fuzz.survival import serve; serve()"


class Trier:
    """A process that tries models; when one has killed it, or taken too long, there is a new one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def survives(self, data: bytes) -> bool:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-W", "ignore", "-c", _START]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            self._answer(60.0)
        stream = self.process.stdin
        assert stream is not None
        with suppress(BrokenPipeError):
            stream.write(struct.pack("<I", len(data)) + data)
        return self._answer(SECONDS)

    def _answer(self, seconds: float) -> bool:
        assert self.process is not None
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], seconds)[0] and self.process.stdout.read(1):
            return True
        self.stop()
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None


TRIER = Trier()


@contextmanager
def tried(data: bytes) -> Iterator[None]:
    """A block about a model in which native code is called in this process, if that is safe."""
    if not TRIER.survives(data):
        yield
        return
    with mock.patch.object(native, "os", None):  # a system that cannot fork
        yield


def serve() -> None:
    """The other process: try one model after another."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    ours, theirs = sys.stdin.buffer, sys.stdout.buffer
    theirs.write(b"!")
    theirs.flush()
    while head := ours.read(4):
        data = ours.read(*struct.unpack("<I", head))
        for call in CALLS:
            with suppress(Exception):
                call(data)
        theirs.write(b".")
        theirs.flush()


CALLS: tuple[Callable[[bytes], Any], ...] = (
    lambda data: onnx.checker.check_model(ModelProto.FromString(data), full_check=True),
    lambda data: onnx.shape_inference.infer_shapes(ModelProto.FromString(data), data_prop=True),
)
