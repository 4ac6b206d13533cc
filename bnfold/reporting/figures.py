"""The figures at the top of the page, and the sentences around them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from ..display.display import counted
from ..system import sizes
from .html import tag

Plain = Mapping[str, Any]
NOT_VERIFIED, UNCHANGED = "NOT VERIFIED", "UNCHANGED"


class Figure(NamedTuple):
    """The name of a figure, its value or its values before and after, and a note."""

    what: str
    value: tuple[str, ...]
    note: str


def stem(path: str) -> str:
    """The name of a file without its folders, on any system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def verdict_of(data: Plain) -> str:
    if data["verification"]:
        return str(data["verification"]["verdict"])
    return UNCHANGED if _same(data) else NOT_VERIFIED


def graded(data: Plain) -> str:
    """The verdict; a PASS with its grade."""
    grade = (data["verification"] or {}).get("grade", "")
    return ", ".join(filter(None, (verdict_of(data), grade)))


def _same(data: Plain) -> bool:
    """The result is a copy of the original."""
    digests = [model.get("sha256") for model in data["models"].values()]
    return None not in digests and len(set(digests)) == 1


def sentence(data: Plain) -> str:
    """What was done, and whether it is right."""
    return f"{_done(data)}{_right(data)}"


def _done(data: Plain) -> str:
    before, after = (data[when]["batch_normalizations"] for when in ("before", "after"))
    what = "folded" if data["source"] == "fold" else "gone"
    if not before:
        return "The original has no BatchNormalization"
    if not after:
        return (
            f"All {before} BatchNormalization nodes are {what}" if before > 1 else f"The BatchNormalization is {what}"
        )
    if before == after:
        return f"All {before} BatchNormalization nodes are kept" if before > 1 else "The BatchNormalization is kept"
    kept = f"{after} {'is' if after == 1 else 'are'} kept"
    return f"{before - after} of {before} BatchNormalization nodes are {what}, {kept}"


def _right(data: Plain) -> str:
    verdict = verdict_of(data)
    ending = {
        "PASS": f", and the result computes what the original computes, up to rounding{_grade(data)}.",
        "FAIL": ", but the result does not compute what the original computes.",
        UNCHANGED: ", and the result is a copy of the original.",
        NOT_VERIFIED: ". That the result still computes the same has not been verified.",
    }
    unsure = ". Whether the result still computes the same could not be decided."
    fold = data["fold"]
    unwritten = " It was not written." if fold and not fold["written"] else ""
    return ending.get(verdict, unsure) + unwritten


def _grade(data: Plain) -> str:
    """How a PASS is known."""
    verification = data["verification"] or {}
    tried = {case for level in verification.get("levels", ()) if level["ran"] for case in level["cases"]}
    measured = f": measured on {counted(len(tried), 'input')}"
    return {"proved": ": proved for all inputs", "measured": measured}.get(verification.get("grade", ""), "")


def figures(data: Plain) -> Iterator[Figure]:
    """The figures for which there are data."""
    before, after = data["before"], data["after"]
    yield Figure("BatchNormalization", _pair("batch_normalizations", data), "nodes, before and after")
    change = after["nodes"] - before["nodes"]
    yield Figure("Nodes", _pair("nodes", data), f"{change:+d}".replace("-", "−") if change else "as many")
    share = f"{100 * (after['bytes'] / before['bytes'] - 1):+.2f} %".replace("-", "−") if before["bytes"] else ""
    yield Figure("File", _sizes(before["bytes"], after["bytes"]), share)
    yield from _errors(data)
    yield from _speed(data)


def _pair(key: str, data: Plain) -> tuple[str, str]:
    return f"{data['before'][key]:,}", f"{data['after'][key]:,}"


def _sizes(before: int, after: int) -> tuple[str, str]:
    """The unit once, where it is the same."""
    first, second = sizes.words(before), sizes.words(after)
    number, unit = first.split(" ")
    return (number if second.endswith(f" {unit}") else first), second


def _errors(data: Plain) -> Iterator[Figure]:
    verification = data["verification"]
    tensors = (
        [t for level in verification["levels"] for t in level["tensors"] if not t["moved"]] if verification else []
    )
    if not tensors:
        return
    if only_confirms(data):
        furthest = max(tensors, key=lambda t: t["rms_folded"])
        note = f"of their size; at most {short(furthest['max_abs_folded'])} in one place"
        yield Figure("Outputs differ by", (short(furthest["rms_folded"]),), note)
        return
    worst, outputs = verification["worst_error"], [t for t in tensors if t["output"]] or tensors
    relative = (max(t[f"rms_{which}"] for t in outputs) for which in ("original", "folded"))
    note = f"of the size of an output, original and result; at most {short(worst['folded'])} in one place"
    yield Figure("Error", tuple(map(short, relative)), note)
    ratio, limit, site = max((t["ratio"], t["limit"], t["site"]) for t in tensors)
    where = "at a fold site" if site else "at an output"
    yield Figure(
        "Over what rounding explains",
        (f"{ratio:.2f}×" if ratio < 100 else f"{short(ratio)}×",),
        f"{where}; limit {limit:g}",
    )


def _speed(data: Plain) -> Iterator[Figure]:
    cells = [cell for cell in (data["bench"] or {"cells": []})["cells"] if cell["level"] == "default"]
    for cell in cells[:1]:
        yield Figure(
            "Times as fast",
            (f"{cell['speedup']['estimate']:.3f}×",),
            f"{interval_text(cell['speedup'])} {cell['verdict']}",
        )


def interval_text(interval: Plain) -> str:
    """`[0.996, 1.008]`"""
    low, high = interval["low"], interval["high"]
    return f"[{low:.3f}, {high:.3f}]" if low is not None and high is not None else "one launch, no interval"


def short(value: float) -> str:
    """Two digits, with an exponent where there would be many zeros."""
    if 100 <= value < 1e6:
        return f"{value:,.0f}"
    text = f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.2g}"
    return text.replace("e-0", "e-").replace("e+0", "e+")


def at_sites(data: Plain) -> Iterator[tuple[Plain, float | None]]:
    """Each affine node, and the worst ratio at the fold sites that took it in, where it is known."""
    verification = data["verification"] or {"levels": []}
    levels = [level for level in verification["levels"] if level["level"] != "default"]
    ratios = {t["name"]: t["ratio"] for level in levels for t in level["tensors"] if t["site"] and not t["moved"]}
    nodes = data["graphs"]["after"]["nodes"]
    for entry in data["nodes"]:
        homes = [name for place in entry["homes"] for name in nodes[place].get("outputs", ())]
        known = [ratios[name] for name in (entry["output"], *homes) if name in ratios]
        yield entry, max(known) if known and entry["result"] not in ("kept", "left") else None


COMMANDS = {
    "errors": ("Not verified.", "bnfold report {a} {b} --verify fast --force"),
    "sites": ("Not measured: the fold sites are proved.", "bnfold report {a} {b} --verify full --force"),
    "latency": (
        "Not measured.",
        "bnfold bench {a} {b} --json bench.json && bnfold report {a} {b} --bench bench.json --force",
    ),
}


def only_confirms(data: Plain) -> bool:
    """Whether the errors are those of runs that confirm a proof: of the outputs, against the original's own."""
    levels = (data["verification"] or {"levels": []})["levels"]
    return bool(levels) and all(map(confirms, levels))


def confirms(level: Plain) -> bool:
    """Whether a level knows only how far the outputs of the two models are from each other."""
    return bool(level.get("reference") == "original")


def no_data(data: Plain, key: str) -> Element:
    """A sentence that says which command gives the data that are missing."""
    if key != "latency" and verdict_of(data) == UNCHANGED:
        return tag("p", "The result is a copy of the original: there is nothing to compare.", class_="empty")
    said, command = COMMANDS[key]
    paths = (shlex.quote(data["models"][which]["path"]) for which in ("original", "folded"))
    return tag("p", f"{said} This would: ", tag("code", command.format(a=next(paths), b=next(paths))), class_="empty")
