"""The sections of the page that say what was done: verdict, network, nodes; and frames for the charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from ..folding.summary import FEW, grouped
from . import figures
from .html import Content, name_tag, prose, shown, table, tag
from .node_results import RESULTS

Plain = Mapping[str, Any]
VERDICT_CLASSES = {"PASS": "good", "FAIL": "bad"}
SHORT_WORDS = {"hoist": "hoisted", "sink": "sunk", "merge": "merged", "gone": "gone", "kept": "kept", "left": "left"}
RESULT_SIGNS = {"hoist": "▲", "sink": "▼", "merge": "◆", "gone": "○", "kept": "■", "left": "□"}
REASON_WORDS = {"hoist": "not into what is before it", "sink": "not into what is after it", "merge": "not merged"}


def title(data: Plain) -> str:
    return shown(f"{figures.stem(data['models']['original']['path'])}: {figures.graded(data)}")


def section(key: str, heading: str, *children: Content, folded: bool = False) -> Element:
    """A section of the page; what has no data says so in a sentence. One that is `folded` opens at a click."""
    if folded:
        children = (tag("details", tag("summary", "Show"), *children),)
    return tag("section", tag("h2", heading, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title")


def verdict_section(data: Plain) -> Element:
    """The verdict in one sentence, and the figures that it rests on."""
    word, models = figures.verdict_of(data), data["models"]
    paths = (name_tag(figures.stem(models[which]["path"]), "span") for which in ("original", "folded"))
    return tag(
        "header",
        tag("p", next(paths), tag("span", " → ", aria_label=" became "), next(paths), class_="models"),
        tag(
            "h1",
            tag("span", figures.graded(data), class_=f"chip {VERDICT_CLASSES.get(word, 'open')}"),
            " ",
            prose(figures.sentence(data)),
        ),
        None if word == "PASS" else _why(data),
        tag("dl", *map(_figure, figures.figures(data)), class_="figures"),
        tag("p", *_about_errors(data), class_="note"),
        id="verdict",
    )


def _why(data: Plain) -> Element | None:
    """The reasons why the verdict is not PASS."""
    verification = data["verification"]
    return (
        tag("ul", *(tag("li", prose(reason)) for reason in verification["reasons"]), class_="reason")
        if verification
        else None
    )


def _figure(figure: figures.Figure) -> Element:
    return tag("div", tag("dt", figure.what), tag("dd", tag("strong", *_arrow(figure.value)), tag("span", figure.note)))


def _arrow(value: tuple[str, ...]) -> list[Content]:
    arrow = tag("span", " → ", class_="arrow", aria_label=" to ")
    return [value[0], arrow, value[1]] if value[1:] else [value[0]]


def _about_errors(data: Plain) -> list[Content]:
    if data["verification"] is None:
        return []
    if figures.only_confirms(data):
        return ["Errors are how far the result's outputs are from those of the original, run once as it is written."]
    return [
        "Errors are against a float64 evaluation of the original that shares no code with onnxruntime or the fold. "
        "A ratio of 1 means that the second model is as close to the true values as the first, or as rounding "
        "its numbers once allows."
    ]


def network_section(data: Plain) -> Element:
    """The frame of the graph, its tools, and the strip of all affine nodes."""
    present = [result for result in RESULTS if any(entry["result"] == result for entry in data["nodes"])]
    legend = [tag("li", _badge(result), " ", RESULTS[result]) for result in present]
    legend.append(tag("li", tag("span", "", class_="swatch home"), " after the fold: holds constants of a folded node"))
    strip = [_cell(number, entry) for number, entry in enumerate(data["nodes"])]
    return section(
        "network",
        "The network",
        tag("ul", *legend, class_="legend"),
        tag("div", *strip, class_="strip", role="group", aria_label="Every affine node in the order of the graph"),
        _tools(),
        tag("div", _canvas(), tag("aside", id="details", aria_live="polite", aria_label="Details"), class_="stage"),
        tag("noscript", tag("p", "The graph and the charts need scripts; all tables are here without.")),
    )


def _tools() -> Element:
    toggle = [
        tag("button", words, type="button", data_graph=key, aria_pressed=str(key == "before").lower())
        for key, words in (("before", "Before"), ("after", "After"))
    ]
    tools = {"zoom-in": ("+", "Zoom in"), "zoom-out": ("−", "Zoom out"), "fit": ("Fit", "Show the whole network")}
    buttons = [
        tag("button", sign, type="button", id=key, aria_label=say, title=say) for key, (sign, say) in tools.items()
    ]
    find = tag(
        "input", type="search", id="find", placeholder="Find a node or tensor", aria_label="Find a node or tensor"
    )
    return tag(
        "div",
        tag("span", *toggle, role="group", aria_label="Which model", class_="segments"),
        tag("span", find, tag("output", id="matches", for_="find"), class_="find"),
        tag("span", *buttons, role="group", aria_label="View", class_="segments"),
        class_="tools",
    )


def _canvas() -> Element:
    say = (
        "The network. Arrow keys go along the edges, n and p to the next and previous affine node, "
        "plus and minus zoom, 0 shows everything."
    )
    graph = tag("div", id="graph", tabindex="0", role="application", aria_label=say)
    return tag("div", graph, tag("p", "Laying out …", id="wait", role="status"), class_="canvas")


def _cell(number: int, entry: Plain) -> Element:
    say = shown(f"{entry['operator']} {entry['node'] or entry['output']}: {RESULTS[entry['result']]}")
    kind = f"cell {entry['result']}"
    first = "0" if number == 0 else "-1"
    return tag("button", type="button", class_=kind, data_entry=number, title=say, aria_label=say, tabindex=first)


def _badge(result: str) -> Element:
    return tag(
        "span",
        tag("span", RESULT_SIGNS[result], aria_hidden="true"),
        f" {SHORT_WORDS[result]}",
        class_=f"badge {result}",
    )


def nodes_section(data: Plain) -> Element:
    """The table of all affine nodes."""
    source = {
        "fold": "As the fold recorded it.",
        "derived": "No record of the fold was given: which nodes are gone is seen in the two models; where they went, "
        "and why others stay, are what bnfold's rules say of the original.",
        "names": "No record of the fold was given, and bnfold does not fold the original: what is seen is which nodes "
        "are gone.",
    }
    heading = "What became of each affine node"
    merged = " Where branches merged, all nodes that went are listed." * any(
        e["result"] == "merge" for e in data["nodes"]
    )
    if not data["nodes"]:
        return section("nodes", heading, tag("p", "The original has no BatchNormalization and no other affine node."))
    search = tag("input", type="search", id="filter", placeholder="Filter", aria_label="Filter the table")
    present = [result for result in RESULTS if any(entry["result"] == result for entry in data["nodes"])]
    kinds = [tag("option", f"{SHORT_WORDS[result]}", value=result) for result in present]
    choice = tag("select", tag("option", "all results", value=""), *kinds, id="result", aria_label="Only this result")
    count = tag("output", f"{len(data['nodes'])} nodes", id="count", for_="filter")
    return section(
        "nodes",
        heading,
        tag("p", source[data["source"]] + merged, class_="note"),
        _kept(data),
        tag("div", search, choice, count, class_="tools"),
        _table(data),
    )


def _kept(data: Plain) -> Element | None:
    """Where many nodes are kept: one row for all with the same reasons, with the blocks that they are in."""
    kept = [entry for entry in data["nodes"] if entry["result"] == "kept"]
    if len(kept) <= FEW:
        return None
    rows = [(e["node"] or e["output"], e["operator"], *(_coded(e, way) for way in REASON_WORDS)) for e in kept]
    columns: list[Content] = ["Nodes", "Operator", *(f"Why {words}" for words in REASON_WORDS.values())]
    cells: list[list[Content]] = [[prose(str(cell)) for cell in row] for row in grouped(rows)]
    return table(columns, cells, "Kept nodes, by reason")


def _coded(entry: Plain, way: str) -> str:
    return "; ".join(f"{r['code']}: {r['words']}" for r in entry["reasons"] if r["way"] == way)


def _table(data: Plain) -> Element:
    columns = ("#", "Node", "Operator", "Result", "Where it went, or why it stays", "Error ratio")
    numeric = {"#", "Error ratio"}
    heads = [tag("th", each, scope="col", class_="number" if each in numeric else None) for each in columns]
    rows = [_row(number, entry, ratio) for number, (entry, ratio) in enumerate(figures.at_sites(data))]
    caption = tag("caption", "Affine nodes of the original and what became of them", class_="unseen")
    made = tag("table", caption, tag("thead", tag("tr", *heads)), tag("tbody", *rows), id="results")
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label="Affine nodes")


def _row(number: int, entry: Plain, ratio: float | None) -> Element:
    called = entry["node"] or entry["output"]
    show = tag("a", shown(called), href="#network", class_="name", dir="auto", data_entry=number)
    return tag(
        "tr",
        tag("td", str(number + 1), class_="number"),
        tag("th", show, scope="row"),
        tag("td", shown(entry["operator"])),
        tag("td", _badge(entry["result"])),
        tag("td", *_story(entry)),
        tag("td", "" if ratio is None else f"{ratio:.2f}", class_="number"),
        data_entry=number,
        data_result=entry["result"],
    )


def _story(entry: Plain) -> list[Content]:
    if entry["reasons"]:
        return [
            tag("p", tag("b", f"{REASON_WORDS[r['way']]}: "), prose(r["words"]), " ", _code(r))
            for r in entry["reasons"]
        ]
    parts: list[Content] = []
    for word, labels in (("into ", entry["into"]), ("; through ", entry["through"])):
        if labels:
            parts += [word, prose(", ".join(labels[:8])), f" and {len(labels) - 8} more" if labels[8:] else None]
    return parts or [RESULTS[entry["result"]]]


def _code(reason: Plain) -> Element:
    return tag("code", shown(reason["code"]), class_="code")


def errors_section(data: Plain) -> Element:
    """Frames of the charts about errors."""
    heading = "Error against float64"
    if not any(level["tensors"] for level in (data["verification"] or {"levels": []})["levels"]):
        return section("errors", heading, figures.no_data(data, "errors"))
    if figures.only_confirms(data):
        return section("errors", heading, figures.no_data(data, "sites"))
    pick = tag("select", id="site", aria_label="Fold site")
    return section(
        "errors",
        heading,
        tag("div", tag("figure", id="sites"), tag("figure", id="ratios"), class_="charts"),
        tag("div", tag("label", tag("span", "Channels of"), pick), class_="tools"),
        tag("figure", id="channels"),
    )


def statistics_section(data: Plain) -> Element:
    """Frames of the charts about channels, and the table of dead ones."""
    channels = data["channels"]
    heading = "Channels of the original's BatchNormalization"
    unread = f"{channels['unread']} nodes hold no stored statistics and are left out." if channels["unread"] else ""
    if not channels["nodes"]:
        return section("statistics", heading, tag("p", f"The original has none with stored statistics. {unread}"))
    count = f"{channels['dead']:,} of {channels['channels']:,} channels are" if channels["dead"] else "No channel is"
    say = f"{count} dead: with a variance below {channels['threshold']:g}, or a scale factor of 0. {unread}"
    charts = tag("div", tag("figure", id="factors"), tag("figure", id="variances"), class_="charts")
    return section("statistics", heading, tag("p", say), charts, tag("div", id="dead"))
