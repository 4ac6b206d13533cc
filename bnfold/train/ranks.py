"""The processes of one training run: what `torchrun --nproc-per-node N -m bnfold_cli train` starts.

Every process runs the same code. What only one may do, such as writing a file, is done `on_first`; an error of one
is raised in all, so that none waits for a process that has stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from ..errors import BnfoldError, EnvironmentProblem

T = TypeVar("T")
TIMEOUT = timedelta(hours=1)  # for what only one process does: a download, an evaluation
BACKENDS = "cpu:gloo,cuda:nccl"


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `size`. Every method but `share` must be called by all of them alike."""

    rank: int = 0
    size: int = 1

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def on_all(self, work: Callable[[], T]) -> T:
        """The result of `work` in this process. If it raises a BnfoldError in any, all raise that of the lowest rank.

        `work` must not call methods of these ranks: a process that failed would not take part.
        """
        result, problem = _attempt(work)
        raised = [parts for parts in self.gather(_parts(problem)) if parts]
        if raised:
            kind, message, hint = raised[0]
            raise kind(message, hint) from problem
        return result  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T]) -> T:
        """The result of `work` on rank 0, in all processes; it is called on rank 0 only."""
        result = self.on_all(lambda: work() if self.rank == 0 else None)
        return self.gather(result)[0]  # type: ignore[return-value]

    def first_then_all(self, work: Callable[[], T]) -> T:
        """The result of `work` in this process; the others start when rank 0 is done, and use what it downloaded."""
        result = self.on_all(lambda: work() if self.rank == 0 else None)
        return self.on_all(lambda: work() if self.rank else result)  # type: ignore[return-value]

    def share(self, count: int) -> slice:
        """The part of `count` items that is for this process: each item is for exactly one, in order of rank."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        values = values.clone()
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, or a wrapper of it that averages gradients over all processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)


ONE_PROCESS = Ranks()


def _attempt(work: Callable[[], T]) -> tuple[T | None, BnfoldError | None]:
    try:
        return work(), None
    except BnfoldError as problem:
        return None, problem


def _parts(problem: BnfoldError | None) -> tuple[type[BnfoldError], str, str] | None:
    """An error as it is sent to other processes: exceptions of two arguments cannot be pickled."""
    return (type(problem), str(problem), problem.hint) if problem else None


def local_rank() -> int:
    """The number of this process on this machine, which is also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started with this one, or those of a group that exists, or this one alone.

    Raises EnvironmentProblem if another of them ends while this one needs it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ONE_PROCESS
        return
    with _readable_errors(), nullcontext() if distributed.is_initialized() else _own_group():
        yield Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def _own_group() -> Iterator[None]:
    """A process group for one run. All runs of a process share one store, each under a prefix of its own.

    A second store at the same address could connect to the first, which is still closing.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    store, rank, size = _store()
    backend = BACKENDS if torch.cuda.is_available() else "gloo"
    own = distributed.PrefixStore(f"bnfold{next(_RUNS)}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


_RUNS = count()


@cache
def _store() -> tuple[Any, int, int]:
    """The store at the address in torchrun's environment, the rank of this process and the number of processes."""
    return next(rendezvous("env://", timeout=TIMEOUT))  # type: ignore[no-any-return]


@contextmanager
def _readable_errors() -> Iterator[None]:
    """EnvironmentProblem where a connection to another process broke."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise EnvironmentProblem(
            "another process of this run has stopped", "Its own message says why; --resume goes on with the run."
        ) from error
