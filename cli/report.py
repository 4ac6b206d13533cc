"""`bnfold report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bnfold.system.limits import limited
from bnfold_cli.console import say, write_text
from bnfold_cli.groups import SizeOptions
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

Original = Annotated[Path, typer.Argument(metavar="A.onnx", help="The model as it was.")]
Folded = Annotated[Path, typer.Argument(metavar="B.onnx", help="What became of it, by whatever tool.")]
Out = Annotated[
    str | None, typer.Option("--out", "-o", metavar="PATH|-", help="Where to.", show_default="B with the ending .html")
]
Verify = Annotated[
    str | None,
    typer.Option(
        metavar="EFFORT|FILE",
        help="Verify now (fast, full; off: do not), or take what `verify --json` wrote.",
        show_default="fast, or what --fold says",
    ),
]
Fold = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="What `fold --json` wrote: where each node went. Else the fold is planned again."
    ),
]
Bench = Annotated[
    str | None, typer.Option(metavar="run|FILE", help="Measure latency now, or take what `bench --json` wrote.")
]
Raw = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What `bench --raw` wrote along with it: every single run.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the page if it exists.")]
Outside = Annotated[
    bool, typer.Option("--allow-external-outside", help="Read external data also outside the models' folders.")
]


def report(
    original: Original,
    folded: Folded,
    out: Out = None,
    verify: Verify = None,
    fold: Fold = None,
    bench: Bench = None,
    raw: Raw = None,
    force: Force = False,
    *,
    sizes: SizeOptions,
    allow_external_outside: Outside = False,
    limit: Limit = None,
) -> int:
    """Show what a fold changed, why nodes stayed, how wrong it can be and what it bought: one page of HTML.

    The page needs no network and no other file. Any two versions of a model will do, whoever made the second. Exits 0
    when the page is written, whatever it says; `verify` and `bench` are what to ask for an exit code.
    """
    target = out or f"{str(folded).removesuffix('.onnx')}.html"
    require_places({"--out": target}, [original, folded, fold, raw, verify, bench], force)
    from bnfold.reporting import collect

    sources: dict[str, Any] = {"verify": verify, "fold": fold, "bench": bench, "raw": raw} | sizes.of_functions()
    with limited(limit or ()):
        data = collect(original, folded, **sources, allow_external_outside=allow_external_outside)
    write(data, target)
    return 0


def write(data: dict[str, Any], target: str) -> None:
    """The page, to a file or to stdout (`-`)."""
    from bnfold.reporting import to_html

    write_text(to_html(data), target)
    if target != "-":
        say(f"wrote {target}")
