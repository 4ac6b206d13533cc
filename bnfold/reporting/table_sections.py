"""The sections of the page that are tables: latency, verification, environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from . import figures
from .figures import interval_text
from .html import Content, name_tag, prose, shown, table, tag
from .sections import section

Plain = Mapping[str, Any]


def latency_section(data: Plain) -> Element:
    """Speed-ups with their intervals, and frames for the charts."""
    bench = data["bench"]
    if not bench:
        return section("latency", "Latency", figures.no_data(data, "latency"))
    columns: list[Content] = ["Setting", "A ms", "B ms", "Speed-up [95 %]", "A against A [95 %]", "Verdict", "BN left"]
    scatter: list[Content] = ["Setting", "Model", "Runs", "p50 ms", "p90 ms", "p99 ms", "IQR ms"]
    charts = tag("div", tag("figure", id="speedups"), tag("figure", id="runs"), class_="charts")
    return section(
        "latency",
        "Latency",
        tag("p", prose(bench["summary"] + ".")),
        charts,
        table(columns, [[*_cell(cell)] for cell in bench["cells"]], "Speed-up per setting", class_="numbers"),
        table(scatter, [row for cell in bench["cells"] for row in _times(cell)], "Single runs", class_="numbers"),
        _notes(bench["notes"]),
        None
        if data["runs"]
        else tag("p", "The distribution of single runs is not in this page. ", *_raw(), class_="note"),
    )


def _raw() -> list[Content]:
    command = "bnfold bench A B --json bench.json --raw runs.jsonl"
    return [tag("code", command), ", then ", tag("code", "--bench bench.json --raw runs.jsonl"), ", would show it."]


def setting_words(cell: Plain) -> str:
    """`default, cuda, float16, device, N=8, CUDA graph, heuristic cuDNN search`"""
    first = [cell["level"], cell["provider"], cell.get("precision"), cell["mode"]]
    sizes = ["=".join(map(str, each)) for each in cell["dims"]]
    search = f"{cell['cudnn_search']} cuDNN search" if cell.get("cudnn_search") else ""
    graph = ["CUDA graph"] * cell["cuda_graph"]
    return shown(", ".join(filter(None, [*first, *sizes, *graph, search])))


def _cell(cell: Plain) -> Iterator[str]:
    yield setting_words(cell)
    yield from (f"{ms:.3f}" for ms in cell["ms"])
    yield f"{cell['speedup']['estimate']:.3f}× {interval_text(cell['speedup'])}"
    yield interval_text(cell["control"])
    yield " ".join([cell["verdict"], *cell["flags"]])
    yield ", ".join(map(str, cell["left"]))


def _times(cell: Plain) -> Iterator[list[Content]]:
    for which, facts in zip("AB", cell["times"], strict=False):
        tails = ("–" if facts[key] is None else f"{facts[key]:.3f}" for key in ("p50", "p90", "p99", "iqr"))
        yield [setting_words(cell), which, f"{facts['count']:,}", *tails]


def proof_section(data: Plain) -> Element:
    """What was compared for the verdict: each level, its worst tensors, reasons and notes."""
    verification, heading = data["verification"], "How it was verified"
    if not verification:
        return section("proof", heading, figures.no_data(data, "errors"))
    columns: list[Content] = ["Runs", "Inputs", "Tensors", "Worst ratio", "At", "Error A / size", "Error B / size"]
    rows = [[*_level(level)] for level in verification["levels"] if not figures.confirms(level)]
    columns_apart: list[Content] = ["Runs", "Inputs", "Outputs", "Distance / size", "At", "In one place at most"]
    apart = [[*_distance(level)] for level in verification["levels"] if figures.confirms(level)]
    return section(
        "proof",
        heading,
        tag("ul", *(tag("li", prose(reason)) for reason in verification["reasons"]), class_="reasons"),
        table(columns, rows, "Comparisons on onnxruntime", class_="numbers") if rows else None,
        table(columns_apart, apart, "Outputs of the result against the original's", class_="numbers")
        if apart
        else None,
        _changes((verification.get("structure") or {}).get("changes", [])),
        _notes(verification["notes"]),
        _notes((data["fold"] or {"notes": []})["notes"]),
        folded=True,
    )


def _changes(changes: list[Plain]) -> Element | None:
    """What is other in the file, apart from what the model computes."""
    if not changes:
        return None
    columns: list[Content] = ["What else changed in the file", "Changes", "The first of them"]
    rows: list[list[Content]] = [
        [each["kind"], str(each["count"]), prose("; ".join(each["words"]))] for each in changes
    ]
    return table(columns, rows, "What else changed in the file")


def _run(level: Plain) -> Iterator[Content]:
    """How a level runs, its inputs, and what was compared."""
    gpu = "" if level["provider"] == "cpu" else f"{level['provider']}, {level['math']} math, "
    yield f"{gpu}optimization {level['level']}" + ("" if level["ran"] else f": not run, {shown(level['why'])}")
    yield str(len(level["cases"]))
    yield str(level["tensors_compared"])


def _distance(level: Plain) -> Iterator[Content]:
    yield from _run(level)
    furthest = max(level["tensors"], key=lambda tensor: tensor["rms_folded"], default=None)
    yield figures.short(furthest["rms_folded"]) if furthest else ""
    yield name_tag(furthest["name"]) if furthest else ""
    yield f"{furthest['max_abs_folded']:.2e}" if furthest else ""


def _level(level: Plain) -> Iterator[Content]:
    yield from _run(level)
    compared = [tensor for tensor in level["tensors"] if not tensor["moved"]]
    worst = max(compared, key=lambda tensor: tensor["ratio"], default=None)
    yield f"{worst['ratio']:.2f} of {worst['limit']:g}" if worst else ""
    yield name_tag(worst["name"]) if worst else ""
    outputs = [tensor for tensor in compared if tensor["output"]] or compared
    for which in ("rms_original", "rms_folded"):
        yield figures.short(max((tensor[which] for tensor in outputs), default=0.0))


def _notes(notes: list[str]) -> Element | None:
    return tag("ul", *(tag("li", prose(note)) for note in notes), class_="note") if notes else None


def environment_section(data: Plain) -> Element:
    """The versions, hardware and files that the numbers depend on, and the data of the page."""
    rows: list[tuple[str, Content]] = []
    for which, words_ in (("original", "Original"), ("folded", "Result")):
        facts = data["models"][which]
        rows += [(words_, name_tag(facts["path"])), ("SHA-256", tag("code", facts.get("sha256", "not written")))]
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
