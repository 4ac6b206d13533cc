"""The result of the fold for each affine node: as a record of the fold says, or as the nodes of two models show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from ..folding.affine_nodes import BATCH_NORMALIZATION
from .drawing import Drawing

DIRECTIONS = ("hoist", "sink", "merge")
RESULTS = {  # in the order in which they are listed, each in words
    "hoist": "folded into what is before it",
    "sink": "folded into what is after it",
    "merge": "merged with parallel branches",
    "gone": "gone; where to is not recorded",
    "kept": "kept",
    "left": "still there, though it could be folded",
}
Plain = dict[str, Any]
Makers = dict[tuple[str, str], list[int]]


def node_results(before: Drawing, after: Drawing, record: Mapping[str, Any] | None, derived: bool) -> list[Plain]:
    """One entry for each affine node of the original, in the order of its graph.

    `record` has the lists `folded` and `kept` of schema `bnfold.fold/1`. Where it was `derived` from the original
    alone, it counts only as far as the nodes of the other model agree with it. What no record names are the
    BatchNormalization nodes: of these the models themselves show whether they are still there.
    """
    stays, places, makers = match_nodes(before, after), _by_label(before), _makers(before)
    listed = [*record["folded"], *record["kept"]] if record else []
    alike = {a: b for a, b in stays.items() if before.nodes[a].get("op") == after.nodes[b].get("op")}
    entries = [_recorded(entry, _place(entry, makers, places), alike, derived) for entry in listed]
    named = {entry["before"] for entry in entries}
    norms = (place for place, node in enumerate(before.nodes) if _is_norm(node) and place not in named)
    entries += [_shown(before.nodes[place], place, alike.get(place)) for place in norms]
    for entry in entries:
        entry["homes"] = [stays[p] for p in (places.get(label) for label in entry["into"]) if p in stays]
    return sorted(entries, key=lambda entry: len(before.nodes) if entry["before"] is None else entry["before"])


def match_nodes(before: Drawing, after: Drawing) -> dict[int, int]:
    """Which node of the one graph is which of the other: by operator and name, by output, by constants, by name."""
    keys: tuple[Callable[[Plain], Hashable | None], ...] = (
        lambda node: node.get("name") and (node["kind"], node.get("op"), node["name"]),
        lambda node: node.get("outputs") and (node["kind"], node.get("op"), node["outputs"][0]),
        lambda node: _constants(node, before) and (node.get("op"), _constants(node, before)),
        lambda node: node.get("name") and (node["kind"], node["name"]),
    )
    matches: dict[int, int] = {}
    for key in keys:
        first, second = _unique(before, key, matches.keys()), _unique(after, key, matches.values())
        matches |= {place: second[value] for value, place in first.items() if value in second}
    return matches


def _unique(graph: Drawing, key: Callable[[Plain], Hashable | None], taken: Iterable[int]) -> dict[Hashable, int]:
    """Indices of nodes by their key, where it belongs to one node alone among those that are not yet `taken`."""
    skipped = set(taken)
    keyed = {place: value for place, node in enumerate(graph.nodes) if place not in skipped and (value := key(node))}
    counts = Counter(keyed.values())
    return {value: place for place, value in keyed.items() if counts[value] == 1}


def _constants(node: Plain, graph: Drawing) -> tuple[str, ...]:
    return tuple(name for name in node.get("inputs", ()) if name in graph.constants)


def _is_norm(node: Plain) -> bool:
    return node.get("op") == BATCH_NORMALIZATION and node.get("domain", "") in ("", "ai.onnx")


def _makers(graph: Drawing) -> Makers:
    """Places by operator and output, in the order of the graph: bodies may use one name for what is theirs."""
    makers: Makers = {}
    for place, node in enumerate(graph.nodes):
        for name in node.get("outputs", ()):
            makers.setdefault((node.get("op", ""), name), []).append(place)
    return makers


def _by_label(graph: Drawing) -> dict[str, int]:
    """Places by what a node is called in sentences (`graph.label`)."""
    places: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        if node["kind"] == "node" and (node.get("name") or node.get("outputs")):
            name = f"'{node['name']}'" if node.get("name") else f"-> '{node['outputs'][0]}'"
            places.setdefault(f"{node['op']} {name}", place)
    return places


def _place(entry: Mapping[str, Any], makers: Makers, places: Mapping[str, int]) -> int | None:
    """The place of the node of an entry in the original: by its output or, if that has another name now, by its own.

    Each place among `makers` is given out once.
    """
    candidates = makers.get((entry["operator"], entry["output"]))
    return candidates.pop(0) if candidates else places.get(f"{entry['operator']} '{entry['node']}'")


def _recorded(entry: Mapping[str, Any], place: int | None, stays: Mapping[int, int], derived: bool) -> Plain:
    """An entry of the record, whose node stands at `place` of the original."""
    after, folded = stays.get(-1 if place is None else place), "direction" in entry
    result = entry["direction"] if folded else "kept"
    if derived and place is not None:
        result = ("left" if folded else "kept") if after is not None else result if folded else "gone"
    names = {key: entry[key] for key in ("node", "operator", "output")}
    into, through = ([*entry.get(key, ())] if result in DIRECTIONS else [] for key in ("into", "through"))
    outcome = {
        "result": result,
        "into": into,
        "through": through,
        "reasons": _reasons(entry) if result == "kept" else [],
    }
    return {**names, **outcome, "before": place, "after": after if result in ("kept", "left") else None}


def _reasons(entry: Mapping[str, Any]) -> list[Plain]:
    ways = {"hoist": "not_hoisted", "sink": "not_sunk", "merge": "not_merged"}
    return [{"way": way, **entry[key]} for way, key in ways.items() if entry.get(key)]


def _shown(node: Plain, place: int, after: int | None) -> Plain:
    """A BatchNormalization that no record names."""
    names = {"node": node.get("name", ""), "operator": node["op"], "output": (node.get("outputs") or [""])[0]}
    result = "gone" if after is None else "kept"
    return {**names, "result": result, "into": [], "through": [], "reasons": [], "before": place, "after": after}
