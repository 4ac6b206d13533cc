"""What each of several processes does: `python -m tests.two_ranks FOLDER`, started by test_train_ranks.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnfold.errors import BnfoldError, UsageProblem
from bnfold.train import TrainOptions, train
from bnfold.train.population import population_statistics
from bnfold.train.ranks import Ranks, process_group
from bnfold.train.sequential import CHUNK, sequential
from tests.test_train_sequential import digits, network

ARCHS = ("mlp", "convnet")
METHODS = ("sequential", "alg2", "pooled")


def statistics(ranks: Ranks) -> dict[str, tuple[Tensor, Tensor]]:
    """By every method, each process with its share of the batches; and with memory for a few images."""
    statistics = {}
    batches = digits()[:448].split(CHUNK)  # seven mini-batches of one size, which two processes cannot share equally
    for arch in ARCHS:
        net = network(arch, digits())
        share = batches[ranks.share(len(batches))]
        for method in METHODS:
            for name, s in population_statistics(net, share, method, ranks).items():
                statistics[f"{arch} {method} {name}"] = (s.mean, s.var)
        for name, m in sequential(net, share, ranks, memory=10**6).items():
            statistics[f"{arch} sparing {name}"] = (torch.from_numpy(m.mean), torch.from_numpy(m.variance))
    return statistics


def of_one_image(ranks: Ranks) -> dict[str, tuple[Tensor, Tensor]]:
    """One process has all there is, the other nothing."""
    net, x = network("convnet", digits()), digits()[:1]
    share = [x] if ranks.rank == ranks.size - 1 else []
    return {name: (s.mean, s.var) for name, s in population_statistics(net, share, ranks=ranks).items()}


def message(work: Callable[[], Any]) -> str:
    try:
        work()
    except BnfoldError as error:
        return f"{type(error).__name__} {error} {error.hint}"
    return "none"


def errors(ranks: Ranks) -> list[str]:
    """What every process hears of an error of one."""

    def fail(rank: int) -> None:
        if ranks.rank == rank:
            raise UsageProblem(f"of {rank}", "hint")

    calls = (
        lambda: ranks.on_all(lambda: fail(1)),
        lambda: ranks.on_first(lambda: fail(0)),
        lambda: ranks.on_first(lambda: fail(1)),
        lambda: ranks.first_then_all(lambda: fail(1)),
        lambda: population_statistics(network("mlp", digits()), [digits()[: 1 + ranks.rank]], "alg2", ranks),
        lambda: population_statistics(network("mlp", digits()), [], "alg2", ranks),
    )
    return [message(call) for call in calls]


def main(folder: Path) -> None:
    with process_group() as ranks:
        result = {
            "statistics": statistics(ranks),
            "one image": of_one_image(ranks),
            "errors": errors(ranks),
            "order": ranks.gather(ranks.rank),
        }
    result["errors"].append(message(lambda: train(TrainOptions(batch_size=61, out=folder / "uneven"))))
    torch.save(result, folder / f"{ranks.rank}.pt")
    train(TrainOptions(arch="mlp", steps=2000, out=folder / "whole"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
