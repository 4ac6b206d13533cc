"""Export networks with parallel branches in the usual way, and let bnfold make one convolution of each block."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networks
import onnx
import torch
from torch import nn

import bnfold

SIDE = 64  # of a picture


def export(network: nn.Module, path: Path, optimize: bool = True) -> None:
    """PyTorch's own call; by default it folds a BatchNormalization after a convolution, and keeps the branches."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    torch.onnx.export(network, (image,), path, optimize=optimize, external_data=False, verbose=False)


def counts(path: Path) -> str:
    """The numbers of nodes of the kinds in the table, as a row of it."""
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    return f"{kinds['BatchNormalization']:4}{kinds['Conv']:6}{kinds['Add']:5}{kinds.total():7}"


def speed(before: Path, after: Path) -> str:
    """How many times as fast the second is, with its 95 % interval, from three seconds of measuring."""
    speedup = bnfold.bench(before, after, levels=["default"], threads=1, launches=3, budget_s=3).headline.speedup
    return f"{speedup.estimate:.2f} [{speedup.low:.2f}, {speedup.high:.2f}] times as fast"


def show(name: str, make: Callable[[], nn.Module], optimize: bool, out: Path) -> None:
    """Export one network, fold it, prove it, time it, and print two rows."""
    original, folded = out / f"{name}.onnx", out / f"{name}.folded.onnx"
    export(networks.trained(make), original, optimize)
    bnfold.save(bnfold.fold(original).model, folded)
    proved = bnfold.verify(original, folded)
    print(f"{name:<14} exported{counts(original)}")
    print(f"{'':<14} folded  {counts(folded)}   {proved.verdict}, {speed(original, folded)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written")
    out = parser.parse_args().out
    print(f"{'':<23}{'BN':>4}{'Conv':>6}{'Add':>5}{'nodes':>7}")
    show("repvgg", networks.repvgg, True, out)
    show("mobileone", networks.mobileone, True, out)
    show("repvgg_keeping", networks.repvgg, False, out)


if __name__ == "__main__":
    main()
