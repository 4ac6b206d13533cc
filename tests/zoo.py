"""The zoo: what is left of BatchNormalization in real architectures, and why: `python -m tests.zoo [NAMES...]`"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver
from bnfold.folding.driver import FoldResult
from bnfold.verification.results import Derived
from tests import zoo_error, zoo_peers
from tests.zoo_models import LEFT, NAMES, batch_norms, exported
from tests.zoo_pattern import around

CACHE = Path("/tmp/bnfold-zoo")
LIMITS = {  # of the error of the folded model; those of `bnfold verify` are for anybody's models
    "own": 2.0,  # at the outputs, over the original's own error
    "output": 2.0,  # at the outputs, over what rounding explains
    "site": 8.0,  # at any fold site and channel, likewise
}
FINAL = {  # why a BatchNormalization has to stay, hoist/sink; any other pair asks for a rule
    "SHARED/NONLINEAR": "others read the tensor before it, a nonlinearity the one after it",
    "NONLINEAR/NONLINEAR": "a nonlinearity before it and one after it",
    "NONLINEAR/PADDING": "a nonlinearity before it; after it zeros are padded, which the shift would have to cross",
    "SHARED/PADDING": "others read the tensor before it; after it zeros are padded",
    "NONLINEAR/MIXES": "a nonlinearity before it; after it a residual sum, whose other part the scale is not for",
    "NEGATIVE_SCALE/NONLINEAR": "MaxPool before it takes no negative scale; a nonlinearity after it",
    "VARIES/NONLINEAR": "before it a product of activations, of which none varies over heads and values alike",
}
OPEN = "NOT FINAL"
COLUMNS = (
    "model",
    "BN before",
    "BN after",
    "best peer",
    "nodes before",
    "nodes after",
    "error / original's",
    "error at outputs",
    "error at sites",
    "weights derived",
    "other affines folded/kept",
    "kept because (hoist/sink)",
    "seconds",
)


@dataclass
class Row:
    """What was found out about one model; `problem` says why that is nothing, or what is wrong."""

    name: str
    problem: str = ""
    batch_norms: tuple[int, int] = (0, 0)
    nodes: tuple[int, int] = (0, 0)
    others: tuple[int, int] = (0, 0)  # affine nodes that are no BatchNormalization: folded, kept
    peers: dict[str, int | str] = field(default_factory=dict)
    verdict: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    sites: tuple[int, int, int] = (0, 0, 0)  # fold sites, those with every weight derived, those with any
    weights_off: float = 0.0  # the worst of all weights that were derived, in unit roundoffs
    kept: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def best_peer(self) -> int | None:
        return min((n for n in self.peers.values() if isinstance(n, int)), default=None)

    @property
    def reasons(self) -> Counter[str]:
        return Counter(f"{k['not_hoisted']}/{k['not_sunk']}" for k in self.kept)

    def cells(self) -> tuple[str, ...]:
        if self.problem and not self.nodes[0]:
            return (self.name, *[""] * 10, self.problem, "")
        reasons = ", ".join(f"{n} {pair}" for pair, n in self.reasons.most_common())
        return (
            self.name,
            *map(str, self.batch_norms),
            "" if self.best_peer is None else str(self.best_peer),
            *map(str, self.nodes),
            *(f"{self.errors[kind]:.2f}" if kind in self.errors else "" for kind in LIMITS),
            f"{self.sites[1]}/{self.sites[0]}" if self.sites[0] else "",
            "/".join(map(str, self.others)),
            "; ".join(filter(None, (reasons, self.problem))),
            f"{sum(self.seconds.values()):.0f}",
        )


def measured(name: str, cache: Path, *, peers: bool, verify: bool) -> Row:
    """The row of one model. Whatever goes wrong is part of the row: no model is dropped."""
    row = Row(name)
    try:
        path = timed(row, "export", lambda: exported(name, cache))
        before = onnx.load(path)
        result = timed(row, "fold", lambda: driver.fold(before))
        count(row, before, result)
        if peers:
            row.peers = timed(row, "peers", lambda: zoo_peers.left(path))
        if verify and result.folded:
            timed(row, "verify", lambda: judge(row, path, result.model))
    except Exception as why:  # of timm, the exporter or bnfold alike: it is listed, and the others go on
        said = f"{type(why).__name__}: {next(iter(str(why).strip().splitlines()), '')}"[:300]
        row.problem = "; ".join(filter(None, (row.problem, said)))
    return row


def timed(row: Row, stage: str, work: Any) -> Any:
    started = time.perf_counter()
    try:
        return work()
    finally:
        row.seconds[stage] = round(time.perf_counter() - started, 2)


def count(row: Row, before: onnx.ModelProto, result: FoldResult) -> None:
    row.batch_norms = (len(list(batch_norms(before))), len(list(batch_norms(result.model))))
    row.nodes = (len(before.graph.node), len(result.model.graph.node))
    row.others = tuple(
        sum(one.operator != "BatchNormalization" for one in which) for which in (result.folded, result.kept)
    )
    row.kept = [
        {
            "node": kept.node,
            "not_hoisted": kept.not_hoisted.code,
            "not_sunk": kept.not_sunk.code,
            "words": f"{kept.not_hoisted.words}; {kept.not_sunk.words}",
            "around": around(result.model.graph, kept.output),
        }
        for kept in result.batch_norms_kept
    ]


def judge(row: Row, path: Path, folded: onnx.ModelProto) -> None:
    """The verdict, the largest errors, and whether they are within the limits of the issue."""
    verification = bnfold.verify(path, folded, effort="full")  # errors of all fold sites against float64
    row.verdict = verification.verdict
    if verification.verdict != "PASS":
        row.problem = f"{verification.verdict}: {'; '.join(verification.reasons)}"[:300]
    row.sites = tuple(sum(map(bool, of)) for of in zip(*map(derived, verification.derived), strict=True)) or (0, 0, 0)
    row.weights_off = max((site.ratio / site.roundings for site in verification.derived), default=0.0)
    note(row, zoo_error.worst(verification))
    note(row, [("own", *zoo_error.own(path, folded))])
    over = [kind for kind, limit in LIMITS.items() if row.errors.get(kind, 0) > limit]
    if not all(site.exact for site in verification.derived if site.responses):
        over.append("weights")
    if over and not row.problem:
        row.problem = f"error over the limit: {', '.join(over)}"


def derived(site: Derived) -> tuple[bool, bool, bool]:
    return True, site.exact and site.share == 1, site.responses > 0


def note(row: Row, found: Iterable[tuple[str, float, str]]) -> None:
    for kind, ratio, place in found:
        row.errors[kind], row.places[kind] = ratio, place


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield line(head)
    yield line(["---"] * len(head))
    yield from map(line, rows)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Totals, the reasons of all kept nodes, and what stands around them."""
    yield from totals("models of LEFT", [r for r in rows if r.name in LEFT])
    yield from totals("all models", rows)
    yield ""
    kept = [(f"{k['not_hoisted']}/{k['not_sunk']}", r.name, k["around"]) for r in rows for k in r.kept]
    pairs = Counter(pair for pair, _, _ in kept)
    found = [(str(n), pair, FINAL.get(pair, OPEN)) for pair, n in pairs.most_common()]
    yield from table(("BN kept", "hoist/sink", "because"), found)
    yield ""
    patterns = sorted(Counter(kept).items(), key=lambda item: (item[0][0], -item[1]))
    yield from table(("BN kept", "hoist/sink", "model", "around it"), [(str(n), *which) for which, n in patterns])


def totals(title: str, rows: Sequence[Row]) -> Iterator[str]:
    good = [row for row in rows if row.nodes[0]]
    before, after = (sum(row.batch_norms[i] for row in good) for i in (0, 1))
    peer = sum(row.best_peer or 0 for row in good)
    best_peer = f", best peer {peer}" if any(row.peers for row in good) else ""
    yield f"{title}: {len(good)} of {len(rows)} measured, {before} BatchNormalization, {after} kept{best_peer}"
    for row in rows:
        if row.problem:
            yield f"- {row.name}: {row.problem}"
    for kind in LIMITS:
        worst = max((r for r in good if kind in r.errors), key=lambda r: r.errors[kind], default=None)
        if worst is not None:
            yield f"- worst error, {kind}: {worst.errors[kind]:.2f} in {worst.name} {worst.places.get(kind, '')}"
    sites, whole, some = (sum(row.sites[i] for row in good) for i in range(3))
    if sites:
        off = max(row.weights_off for row in good)
        yield f"- weights derived: all of {whole}, some of {some} of {sites} fold sites; worst {off:.4f} unit roundoffs"


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """Plain data, with what it was measured with."""
    packages = ("bnfold", "torch", "timm", "onnxscript", "onnxslim", "numpy")
    return {
        "schema": "bnfold.zoo/1",
        "environment": {**environment(), **{name: version(name) for name in packages}},
        "rows": [{**asdict(row), "best_peer": row.best_peer} for row in rows],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="models (default: all)")
    parser.add_argument("--peers", action="store_true", help="run onnxslim and onnxruntime, too")
    parser.add_argument("--verify", action="store_true", help="compare with the float64 oracle")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the exported files")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n", flush=True)
    for name in options.names or NAMES:
        rows.append(measured(name, options.cache, peers=options.peers, verify=options.verify))
        print(line(rows[-1].cells()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(record(rows), indent=1))
    print("", *summary(rows), sep="\n")
    return int(any(row.problem for row in rows))


if __name__ == "__main__":
    sys.exit(main())
