"""Tensors at a cut of the graph, kept until the next segment reads them: in memory up to a limit, then in a file."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from ..errors import EnvironmentProblem
from .segments import Env


@dataclass
class Budget:
    """Bytes that may be in memory, and how many are."""

    limit: int
    used: int = 0


@dataclass
class Store:
    """First in, first out, and each only once."""

    budget: Budget
    kept: deque[Env | None] = field(default_factory=deque)  # None: the next one in the file
    file: IO[bytes] | None = None

    def put(self, env: Env) -> None:
        size = _bytes(env)
        if self.budget.used + size <= self.budget.limit:
            self.budget.used += size
            self.kept.append(env)
            return
        self.kept.append(None)
        with _room():
            self.file = self.file or tempfile.TemporaryFile(prefix="bnfold.")  # noqa: SIM115
            _write(env, self.file)

    def drained(self) -> Iterator[Env]:
        """Everything, in the order it came; the file goes with the last."""
        with _room():
            if self.file:
                self.file.seek(0)
        while self.kept:
            env = self.kept.popleft()
            if env is None:
                assert self.file is not None
                yield _read(self.file)
            else:
                self.budget.used -= _bytes(env)
                yield env
        self.close()

    def close(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


class _room:
    """Says in words that the temporary folder is full."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, why: BaseException | None, trace: Any) -> None:
        if isinstance(why, OSError):
            raise EnvironmentProblem(
                f"{tempfile.gettempdir()} cannot hold what lies between two layers: {why.strerror or why}",
                "Set TMPDIR to a larger disk, raise --memory-limit, or give fewer samples.",
            ) from why


def _bytes(env: Env) -> int:
    return sum(value.nbytes for value in env.values())


def _write(env: Env, file: IO[bytes]) -> None:
    """A line of names and types, then the arrays in NumPy's own format, text as NumPy has it."""
    file.write((json.dumps([(name, value.dtype.name) for name, value in env.items()]) + "\n").encode())
    for value in env.values():
        plain = value.astype(str) if value.dtype == object else value
        np.lib.format.write_array(file, plain, allow_pickle=False)


def _read(file: IO[bytes]) -> Env:
    """Read what `_write` wrote. NumPy's format does not know bfloat16 by name: the line of types does."""
    kinds = json.loads(file.readline())
    read = ((name, kind, np.lib.format.read_array(file, allow_pickle=False)) for name, kind in kinds)
    return {
        name: value.astype(object) if kind == "object" else value.view(np.dtype(kind)) for name, kind, value in read
    }
