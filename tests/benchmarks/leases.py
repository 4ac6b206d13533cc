"""Records in results/ that grow: machines are lent for minutes, so that what is in one file comes from several.

Each entry names by its index in `leases` where it was measured: date, version of bnfold, environment. What is measured
again replaces what was there; everything else stays as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def read(path: Path) -> list[Entry]:
    """The entries of a record, each with its lease in place of the index; none where there is no record yet."""
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return [{**entry, "lease": content["leases"][entry["lease"]]} for entry in content["entries"]]


def merge(path: Path, fresh: Iterable[Entry], keys: Sequence[str]) -> None:
    """Write the record anew with `fresh` entries, which replace those that have the same `keys`; unused leases go."""
    entries = list({tuple(map(entry.get, keys)): entry for entry in (*read(path), *fresh)}.values())
    leases: list[Entry] = []
    for entry in entries:
        if entry["lease"] not in leases:
            leases.append(entry["lease"])
    content = {
        "schema": f"bnfold.{path.stem}/2",
        "leases": leases,
        "entries": [{**entry, "lease": leases.index(entry["lease"])} for entry in entries],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
