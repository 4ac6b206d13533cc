"""`--limit`, which several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Limit = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        help="Limits on what a file may cost: nodes=, elements= (of a computed tensor), seconds= and memory= (of a "
        "process), as in memory=8GB (10^9) or 8GiB (2^30 bytes). Repeatable.",
    ),
]
