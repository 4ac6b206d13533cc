"""The processes of one training run: what `torchrun --nproc-per-node N -m bnfold_cli train` starts.

Every process runs the same code. What only one may do, such as writing a file, is done `first`; an error of one
becomes the error of all, so that nobody waits for a process that has stopped.
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
PATIENCE = timedelta(hours=1)  # for what only one process does: a download, an evaluation
BACKENDS = "cpu:gloo,cuda:nccl"


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `size`. Every method but `share` must be called by all of them alike."""

    rank: int = 0
    size: int = 1

    def gathered(self, value: T) -> list[T]:
        """What every process gave, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` gives here. If it raises a BnfoldError anywhere, the lowest such rank's is raised everywhere.

        `work` calls no method of these ranks: a process that failed would not join in.
        """
        result, problem = _tried(work)
        raised = [told for told in self.gathered(_told(problem)) if told]
        if raised:
            kind, message, hint = raised[0]
            raise kind(message, hint) from problem
        return result  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, where alone it is called."""
        result = self.agreed(lambda: work() if self.rank == 0 else None)
        return self.gathered(result)[0]  # type: ignore[return-value]

    def led(self, work: Callable[[], T]) -> T:
        """What `work` gives here; the others begin when rank 0 is done, and find what it downloaded."""
        result = self.agreed(lambda: work() if self.rank == 0 else None)
        return self.agreed(lambda: work() if self.rank else result)  # type: ignore[return-value]

    def share(self, count: int) -> slice:
        """Which of `count` things in a row are for this process: every one is for exactly one, in order of rank."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of what every process holds."""
        values = values.clone()
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, which on its way back averages gradients over all processes; the parameters are the same ones."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)


ALONE = Ranks()


def _tried(work: Callable[[], T]) -> tuple[T | None, BnfoldError | None]:
    try:
        return work(), None
    except BnfoldError as problem:
        return None, problem


def _told(problem: BnfoldError | None) -> tuple[type[BnfoldError], str, str] | None:
    """An error as it travels: exceptions of two arguments are not pickled."""
    return (type(problem), str(problem), problem.hint) if problem else None


def local_rank() -> int:
    """The number of this process on this machine, which is also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started with this one, or this one alone; those of a group that exists already.

    Raises EnvironmentProblem if another of them ends while this one needs it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    with _company(), nullcontext() if distributed.is_initialized() else _connected():
        yield Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def _connected() -> Iterator[None]:
    """A group of its own for each run; all of a process meet at one store, under names of their own.

    A second store at the same address could find the first one's door still open.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    store, rank, size = _meeting()
    backend = BACKENDS if torch.cuda.is_available() else "gloo"
    own = distributed.PrefixStore(f"bnfold{next(_RUNS)}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


_RUNS = count()


@cache
def _meeting() -> tuple[Any, int, int]:
    """Where the processes find each other, as torchrun's environment says, and which of how many this one is."""
    return next(rendezvous("env://", timeout=PATIENCE))  # type: ignore[no-any-return]


@contextmanager
def _company() -> Iterator[None]:
    """Says in words that a connection to another process broke."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise EnvironmentProblem(
            "another process of this run has stopped", "Its own message says why; --resume goes on with the run."
        ) from error
