"""The quantized wing of the zoo: what is left of BatchNormalization there, and why:

python -m tests.zoo_quantized [NAMES...] [--kinds KIND ...] [--peers PYTHON] [--json PATH] [--cache FOLDER]

Every network in four forms (KINDS in tests/quantizing.py), 30 % of the scales of its BatchNormalizations negative.
PYTHON is that of an environment with the other tools; each works in a process of its own, without which their
columns are empty. A row that bnfold folds is verified with the default effort.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver
from bnfold.folding.reasons import Reason
from bnfold.train.to_onnx import converted
from tests.benchmarks.children import command
from tests.benchmarks.peers import Missing, version
from tests.quantizing import KINDS, quantized
from tests.small_nets import dense
from tests.zoo import line
from tests.zoo_models import OPSET, batch_norms, data, populate, populated

NAMES = {"resnet18": "resnet18", "mobilenetv2": "mobilenetv2_100", "repvgg_a0": "repvgg_a0", "U-Net": "unet", "MLP": ""}
WIDTHS = (20, 64, 64, 32)  # of the MLP
PEERS = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime")
CACHE = Path("/tmp/bnfold-zoo-quantized")
NEGATIVE = 0.3
BATCH = 8
SECONDS = 300.0


@dataclass
class Row:
    """One network in one form."""

    name: str
    kind: str
    before: int = 0
    after: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # of what is kept, as in the table
    words: list[str] = field(default_factory=list)
    verdict: str = ""
    why: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    peers: dict[str, int | str] = field(default_factory=dict)

    def cells(self) -> list[str]:
        kept = "; ".join(f"{n} {reason}" for reason, n in self.reasons.items())
        theirs = [str(self.peers.get(peer, "")) for peer in PEERS]
        return [self.name, self.kind, str(self.before), str(self.after), kept, self.verdict, *theirs]


HEAD = ["network", "form", "BN before", "kept", "because (hoist/sink/merge)", "verify", *PEERS]


def source(name: str, kind: str, cache: Path) -> Path:
    """The file of a network in one form, made unless it is there."""
    target = cache / f"{name}.{kind.replace(' ', '_')}.onnx"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        model, shape = network(name)
        plain = cache / f"{name}.onnx"
        if not plain.exists():
            onnx.save(converted(model, shape, OPSET, {}), plain)
        batch = data(BATCH, shape, torch.Generator().manual_seed(2)).numpy()
        quantized(kind, plain, target, np.float32(batch))
    return target


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with numbers as after training, and the shape of one input."""
    if NAMES[name]:
        return populated(NAMES[name], negative=NEGATIVE)
    torch.manual_seed(0)
    model = nn.Sequential(dense(*WIDTHS), nn.Linear(WIDTHS[-1], 5))
    populate(model, WIDTHS[:1], torch.Generator().manual_seed(1), NEGATIVE)
    return model.eval(), WIDTHS[:1]


def measured(name: str, kind: str, cache: Path, python: str | None = None) -> Row:
    """What bnfold makes of a network in one form, and how many BatchNormalizations the other tools leave."""
    path, row = source(name, kind, cache), Row(name, kind)
    original, result = onnx.load(path), driver.fold(path)
    row.before, row.after = (sum(1 for _ in batch_norms(model)) for model in (original, result.model))
    kept = [(k.not_hoisted, k.not_sunk, k.not_merged) for k in result.batch_norms_kept]
    row.reasons = dict(Counter("/".join(r.code for r in each if r) for each in kept))
    row.words = sorted({plain(r.words) for each in kept for r in each if isinstance(r, Reason)})
    row.notes = list(result.notes)
    if result.folded:
        found = bnfold.verify(path, result.model, untouched=result.sites)
        row.verdict, row.why = f"{found.verdict} {found.grade}".strip(), list(found.reasons)
    if python:
        row.peers = {peer: left(peer, path, python) for peer in PEERS}
    return row


def plain(words: str) -> str:
    """A reason without names and numbers."""
    return re.sub(r" \(-[\d.]+\)", "", re.sub("'[^']*'", "'..'", words))


def left(peer: str, path: Path, python: str) -> int | str:
    """BatchNormalizations that another tool leaves, or why it gave no model."""
    target = path.with_suffix(f".{peer}.onnx")
    done = command([python, "-m", "tests.benchmarks.tools", peer, path, target], SECONDS)
    if done.code:
        return done.words[:200]
    count = sum(1 for _ in batch_norms(onnx.load(target)))
    target.unlink()
    return count


def record(rows: Sequence[Row], python: str | None) -> dict[str, Any]:
    """Plain data, with what it was measured with."""
    versions = {peer: version(peer, python) for peer in PEERS} if python else {}
    surroundings = {**environment(), "peers": versions}
    return {"schema": "bnfold.zoo_quantized/1", "environment": surroundings, "rows": [asdict(row) for row in rows]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--peers", metavar="PYTHON", help="of the environment of other tools")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help="of the quantized files")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    try:
        heads = [*HEAD[: -len(PEERS)], *(f"{p} {version(p, options.peers)}" if options.peers else p for p in PEERS)]
    except Missing as problem:
        parser.error(str(problem))
    print(line(heads), line(["---"] * len(heads)), sep="\n", flush=True)
    rows: list[Row] = []
    for name in options.names:
        for kind in options.kinds:
            rows.append(measured(name, kind, options.cache, options.peers))
            print(line(rows[-1].cells()), flush=True)
            if options.json:
                options.json.write_text(json.dumps(record(rows, options.peers), indent=1) + "\n")
    for words in sorted({words for row in rows for words in row.words}):
        print(f"- {words}")
    return int(any(row.verdict and not row.verdict.startswith("PASS") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
