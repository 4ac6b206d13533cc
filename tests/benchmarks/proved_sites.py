"""How many fold sites are proved, and why the others stay open: `python -m tests.benchmarks.proved_sites [MODELS...]`

MODELS are files, or names in the folders of the zoo (tests/zoo.py) and of the real files; without any, all of them.
Each is folded in memory and verified with effort `fast`. The seconds are processor time of the verification.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.verification.results import Derived
from tests.benchmarks.false_alarms import folded
from tests.data import DATA
from tests.zoo import CACHE


@dataclass(frozen=True)
class Row:
    """The fold sites of one model, and what verification said of it."""

    model: str
    verdict: str
    grade: str
    sites: tuple[Derived, ...]
    seconds: float

    @property
    def open(self) -> list[Derived]:
        return [site for site in self.sites if not site.covered]

    def plain(self) -> dict[str, Any]:
        still_open = [{"site": site.name, "operator": site.operator, "why": reason(site)} for site in self.open]
        verdict = {"verdict": self.verdict, "grade": self.grade, "seconds": round(self.seconds, 2)}
        return {"model": self.model, **verdict, "sites": len(self.sites), "open": still_open}


def reason(site: Derived) -> str:
    """Why a site is open."""
    return site.why or (f"{site.share:.1%} of it was compared" if site.ok else f"{site.ratio:.3g} unit roundoffs off")


def row(path: Path) -> Row | None:
    """The fold sites of a file; None where there is no fold."""
    result = folded(path)
    if result is None:
        return None
    before = spent()
    found = bnfold.verify(path, result.model, untouched=result.sites)
    return Row(path.stem, found.verdict, found.grade, found.derived, spent() - before)


def spent() -> float:
    """Processor time of the children that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(one: Row) -> None:
    proved = len(one.sites) - len(one.open)
    print(f"{one.model}: {proved} of {len(one.sites)}, {one.verdict} {one.grade}, {one.seconds:.1f} s", flush=True)
    for site in one.open:
        print(f"    {site.operator} {site.name}: {reason(site)}", flush=True)


def summary(rows: list[Row]) -> None:
    total, still_open = sum(len(one.sites) for one in rows), sum(len(one.open) for one in rows)
    print(
        f"{total - still_open} of {total} fold sites of {len(rows)} models proved: {1 - still_open / max(1, total):.2%}"
    )
    for why, count in Counter(reason(site) for one in rows for site in one.open).most_common():
        print(f"{count:5d}  {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the zoo")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args()
    stored = {path.stem: path for folder in (options.cache, DATA / "onnx") for path in sorted(folder.glob("*.onnx"))}
    rows: list[Row] = []
    for name in options.models or stored:
        if one := row(stored.get(name, Path(name))):
            rows.append(one)
            report(one)
    summary(rows)
    if options.json:
        record = {
            "schema": "bnfold.proved_sites/1",
            "environment": environment(),
            "rows": [one.plain() for one in rows],
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
