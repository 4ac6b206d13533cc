"""`bnfold explain`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold_cli.console import say, table, write_json
from bnfold_cli.limit import Limit

if TYPE_CHECKING:
    from bnfold.folding import Folded, Kept


def explain(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to look at. Nothing is written.")],
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Count initializers that callers may override as constants.")
    ] = False,
    limit: Limit = None,
    json: Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the answer as JSON.")] = None,
) -> None:
    """Say of every affine node where `fold` would put it, or why it must stay."""
    from dataclasses import asdict

    from bnfold.folding import Folded, Kept
    from bnfold.folding import explain as ask
    from bnfold.limits import asked

    with asked(limit or ()):
        fates = ask(model, freeze_initializers=freeze_initializers)
    folded, kept = [f for f in fates if isinstance(f, Folded)], [k for k in fates if isinstance(k, Kept)]
    if json:
        rows = {"folded": [asdict(f) for f in folded], "kept": [asdict(k) for k in kept]}
        write_json({"schema": "bnfold.explain/1", "model": str(model), **rows}, json)
    if json != "-":
        show(folded, kept)


def show(folded: list[Folded], kept: list[Kept]) -> None:
    """A table of what folds, one of what stays, and how many."""
    if folded:
        columns = ("node", "operator", "folds into", "on the way through")
        table(
            "folds",
            columns,
            [(f.node or f.output, f.operator, "\n".join(f.into), "\n".join(f.through)) for f in folded],
        )
    if kept:
        columns = ("node", "operator", "not into what is before it, because", "nor after it, because")
        table("stays", columns, [(k.node or k.output, k.operator, *k.reasons) for k in kept])
    say(f"{len(folded)} affine nodes fold, {len(kept)} stay")
