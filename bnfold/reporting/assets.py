"""The assets of the page: style sheet, own scripts, and libraries exactly as their makers publish them."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

LIBRARIES = ("d3", "plot", "cytoscape")  # in this order; dagre runs in a worker
WORKER = "dagre"
SCRIPTS = ("base.js", "charts.js", "errors.js", "statistics.js", "latency.js", "network.js", "details.js", "nodes.js")
LAYOUT = "layout.js"


@cache
def asset_text(name: str) -> str:
    """The text of a file in the folder `assets`."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def manifest() -> dict[str, Any]:
    """The libraries by name: npm `package`, `version`, path `file` in it, `license`, and the `sha256` of the file."""
    entries: dict[str, Any] = json.loads(asset_text("manifest.json"))
    return entries


def library(name: str) -> str:
    """The published file, after its name, version and licence, which go wherever it goes."""
    about = manifest()[name]
    words = f"{about['package']} {about['version']} ({about['license']})\n\n{asset_text(f'licenses/{name}.txt')}"
    return f"/*! {words.strip()} */\n{asset_text(f'{name}.min.js')}"


def policy(scripts: list[str]) -> str:
    """The content security policy: these scripts run, a worker of ours does, and nothing is fetched from anywhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
