"""The sections of the page that are tables: latency, verification, environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from . import figures
from .figures import span
from .html import Child, name, shown, table, tag, words
from .sections import section

Plain = Mapping[str, Any]


def latency(data: Plain) -> Element:
    """Speed-ups with their intervals, and frames for the charts."""
    found = data["bench"]
    if not found:
        return section("latency", "Latency", figures.missing(data, "latency"))
    columns: list[Child] = ["Setting", "A ms", "B ms", "Speed-up [95 %]", "A against A [95 %]", "Verdict", "BN left"]
    scatter: list[Child] = ["Setting", "Model", "Runs", "p50 ms", "p90 ms", "p99 ms", "IQR ms"]
    charts = tag("div", tag("figure", id="speedups"), tag("figure", id="runs"), class_="charts")
    return section(
        "latency",
        "Latency",
        tag("p", words(found["summary"] + ".")),
        charts,
        table(columns, [[*_cell(cell)] for cell in found["cells"]], "Speed-up per setting", class_="numbers"),
        table(scatter, [row for cell in found["cells"] for row in _times(cell)], "Single runs", class_="numbers"),
        _notes(found["notes"]),
        None
        if data["runs"]
        else tag("p", "The distribution of single runs is not in this page. ", *_raw(), class_="note"),
    )


def _raw() -> list[Child]:
    command = "bnfold bench A B --json bench.json --raw runs.jsonl"
    return [tag("code", command), ", then ", tag("code", "--bench bench.json --raw runs.jsonl"), ", would show it."]


def setting(cell: Plain) -> str:
    """`default, cuda, float16, device, N=8, CUDA graph, heuristic cuDNN search`"""
    first = [cell["level"], cell["provider"], cell.get("precision"), cell["mode"]]
    sizes = ["=".join(map(str, each)) for each in cell["dims"]]
    search = f"{cell['cudnn_search']} cuDNN search" if cell.get("cudnn_search") else ""
    graph = ["CUDA graph"] * cell["cuda_graph"]
    return shown(", ".join(filter(None, [*first, *sizes, *graph, search])))


def _cell(cell: Plain) -> Iterator[str]:
    yield setting(cell)
    yield from (f"{ms:.3f}" for ms in cell["ms"])
    yield f"{cell['speedup']['estimate']:.3f}× {span(cell['speedup'])}"
    yield span(cell["control"])
    yield " ".join([cell["verdict"], *cell["flags"]])
    yield ", ".join(map(str, cell["left"]))


def _times(cell: Plain) -> Iterator[list[Child]]:
    for which, facts in zip("AB", cell["times"], strict=False):
        tails = ("–" if facts[key] is None else f"{facts[key]:.3f}" for key in ("p50", "p90", "p99", "iqr"))
        yield [setting(cell), which, f"{facts['count']:,}", *tails]


def proof(data: Plain) -> Element:
    """How the verdict came about."""
    found, heading = data["verification"], "How it was verified"
    if not found:
        return section("proof", heading, figures.missing(data, "errors"))
    columns: list[Child] = ["Runs", "Inputs", "Tensors", "Worst ratio", "At", "Error A", "Error B"]
    rows = [[*_level(level)] for level in found["levels"]]
    return section(
        "proof",
        heading,
        tag("ul", *(tag("li", words(reason)) for reason in found["reasons"]), class_="reasons"),
        table(columns, rows, "Comparisons on onnxruntime", class_="numbers") if rows else None,
        _changes((found.get("structure") or {}).get("changes", [])),
        _notes(found["notes"]),
        _notes((data["fold"] or {"notes": []})["notes"]),
    )


def _changes(changes: list[Plain]) -> Element | None:
    """What is other in the file beside what the model computes."""
    if not changes:
        return None
    columns: list[Child] = ["What else changed in the file", "Changes", "The first of them"]
    rows: list[list[Child]] = [[each["kind"], str(each["count"]), words("; ".join(each["words"]))] for each in changes]
    return table(columns, rows, "What else changed in the file")


def _level(level: Plain) -> Iterator[Child]:
    gpu = "" if level["provider"] == "cpu" else f"{level['provider']}, {level['math']} math, "
    yield f"{gpu}optimization {level['level']}" + ("" if level["ran"] else f": not run, {shown(level['why'])}")
    yield str(len(level["cases"]))
    yield str(level["tensors_compared"])
    held = [tensor for tensor in level["tensors"] if not tensor["moved"]]
    worst = max(held, key=lambda tensor: tensor["ratio"], default=None)
    yield f"{worst['ratio']:.2f} of {worst['limit']:g}" if worst else ""
    yield name(worst["name"]) if worst else ""
    outputs = [tensor for tensor in held if tensor["output"]] or held
    for which in ("max_abs_original", "max_abs_folded"):
        yield f"{max((tensor[which] for tensor in outputs), default=0.0):.2e}"


def _notes(notes: list[str]) -> Element | None:
    return tag("ul", *(tag("li", words(note)) for note in notes), class_="note") if notes else None


def environment(data: Plain) -> Element:
    """What all of it depends on, and the data of the page."""
    rows: list[tuple[str, Child]] = []
    for which, words_ in (("original", "Original"), ("folded", "Result")):
        facts = data["models"][which]
        rows += [(words_, name(facts["path"])), ("SHA-256", tag("code", facts.get("sha256", "not written")))]
    rows += [(f"This page: {key.replace('_', ' ')}", _plain(value)) for key, value in data["environment"].items()]
    measured = (data["bench"] or {"environment": {}})["environment"]
    rows += [(f"Timings: {key.replace('_', ' ')}", _plain(value)) for key, value in measured.items()]
    facts = [part for key, value in rows for part in (tag("dt", shown(key)), tag("dd", value))]
    button = tag("button", "Download the data of this page (JSON)", type="button", id="download")
    return section("environment", "Environment", tag("dl", *facts, class_="facts"), tag("p", button))


def _plain(value: Any) -> str:
    if value in ([], {}):
        return "none"
    if isinstance(value, list):
        value = ", ".join(f"{each:.2f}" if isinstance(each, float) else str(each) for each in value)
    return shown("unknown" if value in (None, "") else str(value))
