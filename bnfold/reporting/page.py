"""The page: what a person reads first is there without any script; graph, charts, search and sorting need one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ..system.staging import write_file
from . import assets, sections, table_sections
from .collecting import collect
from .html import tag, written

ENDLESS = 10_000  # characters of a string that the page holds whole
NAVIGATION = {
    "network": "Network",
    "nodes": "Nodes",
    "errors": "Errors",
    "statistics": "Channels",
    "latency": "Latency",
    "proof": "Verification",
    "environment": "Environment",
}


def report(
    original: str | PathLike[str],
    folded: str | PathLike[str],
    target: str | PathLike[str] | None = None,
    *,
    verify: str | None = None,
    bench: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, Sequence[int]] | None = None,
    allow_external_outside: bool = False,
) -> str:
    """The page of HTML about two versions of a model, whoever made the second; written to `target`, if there is one.

    Both are paths. `verify` is fast, full, off, or the path of what `verify --json` wrote; `bench` is `run` to measure
    latency, or the path of what `bench --json` wrote; `shapes` of inputs and `dims`, sizes of dynamic dimensions, are
    what models are run with. `allow_external_outside` reads external data also outside the models' folders. The page
    needs no network and no other file. Raises ModelProblem for files that are not what they should be, UsageProblem
    where two models are no pair or a record is about others, EnvironmentProblem where `target` cannot be written.
    """
    for path in (original, folded):
        if not isinstance(path, str | PathLike):
            raise TypeError(f"a model of a report is a path; this is of type {type(path).__name__}")
    options: dict[str, Any] = {"verify": verify, "bench": bench, "shapes": shapes, "dims": dims}
    options |= {"allow_external_outside": allow_external_outside}
    text = to_html(collect(Path(original), Path(folded), **options))
    if target is not None:
        write_file(Path(target), text.encode(errors="backslashreplace"))
    return text


def to_html(data: Mapping[str, Any]) -> str:
    """The page about `data` (schema `bnfold.report/1`), which it holds as well: one file that needs no other."""
    data = shortened(data)
    scripts = [*map(assets.library, assets.LIBRARIES), *map(assets.asset_text, assets.SCRIPTS)]
    page = tag("html", _head(data, scripts), _body(data, scripts), lang="en")
    return written(page)


def _head(data: Mapping[str, Any], scripts: list[str]) -> Element:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=assets.policy(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"bnfold {data['bnfold']}"),
        tag("title", sections.title(data)),
        tag("link", rel="icon", href="data:,"),
        tag("style", assets.asset_text("page.css")),
    )


def _body(data: Mapping[str, Any], scripts: list[str]) -> Element:
    links = [tag("a", words, href=f"#{name}") for name, words in NAVIGATION.items()]
    return tag(
        "body",
        tag("a", "Skip to the verdict", href="#verdict", class_="skip"),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *_sections(data)),
        tag("footer", f"Made by bnfold {data['bnfold']}, {data['made']}. This page loads nothing from anywhere."),
        tag("script", embedded(data), type="application/json", id="data"),
        tag(
            "script",
            f"{assets.library(assets.WORKER)}\n{assets.asset_text(assets.LAYOUT)}",
            type="text/plain",
            id="worker",
        ),
        *(tag("script", script) for script in scripts),
    )


def _sections(data: Mapping[str, Any]) -> list[Element]:
    return [
        sections.verdict_section(data),
        sections.network_section(data),
        sections.nodes_section(data),
        sections.errors_section(data),
        sections.statistics_section(data),
        table_sections.latency_section(data),
        table_sections.proof_section(data),
        table_sections.environment_section(data),
    ]


def shortened(data: Any) -> Any:
    """Plain data in which a string longer than ENDLESS has its SHA-256 in place of its middle: names still differ."""
    if isinstance(data, Mapping):
        return {shortened(key): shortened(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [*map(shortened, data)]
    if not isinstance(data, str) or len(data) <= ENDLESS:
        return data
    digest = sha256(data.encode(errors="surrogatepass")).hexdigest()
    return f"{data[: ENDLESS // 2]}...({len(data)} characters, SHA-256 {digest})...{data[-ENDLESS // 4 :]}"


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script that holds it, nor begin markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})
