"""From rows to a table, and to findings by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .work import Answer

FAULTS = ["raised", "crashed", "hung", "invalid", "does not run", "wrong", "override lost"]
TIRED = "tired"  # it raised, but not in a fresh process
OPENED = ["opening it crashed", "opening it hung"]
NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|[tc]\d+\w*|/\S+|0x[0-9a-f]+|-?\d+(\.\d+)?(e[-+]?\d+)?")


def summary(rows: Sequence[Answer], tools: Iterable[str]) -> dict[str, Any]:
    """Totals of the graphs, and of each tool."""
    original = [row["original"] for row in rows]
    sound = [each for each in original if "bn" in each]
    opinions = [each["opinion"] for each in sound if each["opinion"] is not None]
    return {
        "graphs": len(rows),
        "batch_normalizations": sum(each["bn"] for each in sound),
        "unjudged": len(original) - len(sound),
        "kinds": dict(Counter(each["kind"] for each in sound)),
        "run_by_onnxruntime": sum(each["own"] is not None for each in sound),
        "second_opinions": len(opinions),
        "worst_second_opinion": max(opinions, default=None),
        "tools": {tool: of_tool(rows, tool) for tool in tools},
    }


def of_tool(rows: Sequence[Answer], tool: str) -> dict[str, Any]:
    own = [(row["original"], row["tools"][tool]) for row in rows if "bn" in row["original"]]
    found: dict[str, Any] = {"folded": sum(o["bn"] - t["bn"] for o, t in own if "bn" in t and sound(t))}
    found |= {fault: sum(fault in t for _, t in own) for fault in ("declined", TIRED, *FAULTS)}
    found["opening crashes"] = sum(any(key in t for key in OPENED) for _, t in own)
    found["graphs with a fault"] = sum(not sound(t) for _, t in own)
    ratios = [t["error"] / o["own"] for o, t in own if sound(t) and o["own"] and "error" in t and t["bn"] < o["bn"]]
    found["median error over the original's"] = round(sorted(ratios)[len(ratios) // 2], 3) if ratios else None
    agree = Counter(str(t["agree"]) for _, t in own if "agree" in t)
    rights = Counter(t["right"] for _, t in own if "right" in t)
    return found | {"agree": agree["True"], "disagree": agree["False"], "bnfold right": rights["bnfold"]}


def sound(answer: Answer) -> bool:
    return not {*FAULTS, *OPENED} & set(answer)


def table(told: dict[str, Any]) -> str:
    """The totals as a Markdown table."""
    columns = [
        "folded",
        "declined",
        TIRED,
        *FAULTS,
        "opening crashes",
        "disagree",
        "bnfold right",
        "median error over the original's",
    ]
    lines = [f"| {' | '.join(['tool', *columns])} |", f"|{'---|' * (len(columns) + 1)}"]
    for tool, found in told["tools"].items():
        lines.append(f"| {' | '.join([tool, *(str(found[c]) for c in columns)])} |")
    head = {key: value for key, value in told.items() if key != "tools"}
    return "\n".join([str(head), *lines])


def findings(rows: Sequence[Answer], tools: Sequence[str]) -> list[dict[str, Any]]:
    """Faults by tool and kind, each with how often it was seen and the smallest graph that shows it."""
    kinds: dict[tuple[str, str, str], list[Answer]] = {}
    for row in rows:
        for tool, answer in ((tool, row["tools"][tool]) for tool in tools):
            for fault in (f for f in (*FAULTS, *OPENED, TIRED) if f in answer):
                kinds.setdefault((tool, fault, NAMES.sub("_", str(answer[fault]))), []).append(row)
    return [finding(*key, seen) for key, seen in sorted(kinds.items(), key=lambda item: (item[0][:2], -len(item[1])))]


def finding(tool: str, fault: str, kind: str, seen: list[Answer]) -> dict[str, Any]:
    least = min(seen, key=lambda row: row["original"].get("nodes", 99))
    told = {key: least["original"].get(key) for key in ("kind", "opset", "layers")}
    example = {"index": least["index"], **told, "words": least["tools"][tool][fault]}
    return {"tool": tool, "fault": fault, "kind": kind, "graphs": len(seen), "smallest": example}
