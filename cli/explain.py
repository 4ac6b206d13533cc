"""`bnfold explain`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.folding.result import Explanation


def explain(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to look at. Nothing is written.")],
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Count initializers that callers may override as constants.")
    ] = False,
    limit: Limit = None,
    json: Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the answer as JSON.")] = None,
) -> None:
    """Show for every affine node where `fold` would put it, or why it is kept."""
    from dataclasses import asdict

    from bnfold.folding.driver import explain as explain_model
    from bnfold.system.limits import limited

    require_places({"--json": json}, [model])
    with limited(limit or ()):
        result = explain_model(model, freeze_initializers=freeze_initializers)
    if json:
        rows = {"folded": [asdict(f) for f in result.folded], "kept": [asdict(k) for k in result.kept]}
        console.write_json({"schema": "bnfold.explain/1", "model": str(model), **rows}, json)
    if json != "-":
        show(result)


def show(result: Explanation) -> None:
    """A table of what folds, one of what is kept and why, how many; in detail also what can be done about it."""
    from bnfold.folding.advice import advice
    from bnfold.folding.result import folded_table, kept_table

    for one in (folded_table(result.folded, console.detailed), kept_table(result.kept, console.detailed)):
        if one.rows:
            console.table(one.title, one.columns, one.rows)
    console.say(result.in_a_line())
    if result.kept and not console.detailed:
        console.say("-v adds the code of each reason, and what can be done about it")
    for line in advice(result.kept) if console.detailed else ():
        console.say(line)
