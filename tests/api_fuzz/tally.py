"""From rows to totals: by feature, by direction, by what was refused or dropped, and every fault."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .team import Row

NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|/\S+|0x[0-9a-f]+|-?\d+(\.\d+)?(e[-+]?\d+)?|-> \S+")
OPERATOR = re.compile(r"[A-Z][A-Za-z0-9]*|opset \d+")


def kind_of(words: str) -> str:
    """A sentence without names and numbers."""
    return NAMES.sub("_", words)[:110]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    judged = [row for row in rows if "dropped" not in row]
    dropped = Counter(row["dropped"].split(":")[0] for row in rows if "dropped" in row)
    refused = Counter(kind_of(row["refused"]) for row in judged if "refused" in row)
    features = Counter(name for row in judged for name, times in row["features"].items() if times)
    return {
        "drawn": len(rows),
        "judged": len(judged),
        "dropped": dict(dropped.most_common()),
        "folded": sum(row["folded"] for row in judged),
        "kept": sum(row["kept"] for row in judged),
        "outputs that overflow on the way in one model, and agree in float64": sum(
            row.get("overflows", 0) for row in judged
        ),
        "graphs with a fold": sum(bool(row["folded"]) for row in judged),
        "directions": dict(Counter(d for row in judged for d in row.get("directions", []))),
        "refused": dict(refused.most_common()),
        "graphs by operator": parts(
            features, lambda name: OPERATOR.fullmatch(name) is not None and "opset" not in name
        ),
        "graphs by opset": parts(features, lambda name: name.startswith("opset ")),
        "graphs by feature": parts(features, lambda name: OPERATOR.fullmatch(name) is None),
        "fault kinds": dict(Counter(kind for row in judged for kind, _ in row["faults"])),
        "faults": [
            {"index": row["index"], "kind": kind, "words": words} for row in judged for kind, words in row["faults"]
        ],
    }


def parts(features: Counter[str], wanted: Any) -> dict[str, int]:
    return {name: count for name, count in features.most_common() if wanted(name)}


def table(found: dict[str, Any]) -> str:
    """The totals as Markdown."""
    lines = ["| what | count |", "|---|---|"]
    for key in [k for k, v in found.items() if isinstance(v, int)]:
        lines.append(f"| {key} | {found[key]} |")
    for key in ("dropped", "directions", "refused", "graphs by feature", "fault kinds"):
        lines += [f"| {key}: {name} | {count} |" for name, count in found[key].items()]
    lines.append(f"| faults | {len(found['faults'])} |")
    return "\n".join([*lines, *(f"graph {f['index']}: {f['kind']}: {f['words']!a}" for f in found["faults"])])
