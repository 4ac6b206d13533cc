"""`bnfold explain`"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.errors import UsageProblem
from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.folding.result import Explanation


def explain(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="IN.onnx", help="The model to look at. Nothing is written.", show_default=False),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Say what the code of a reason means, and what can be done. Repeatable."),
    ] = None,
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Count initializers that callers may override as constants.")
    ] = False,
    limit: Limit = None,
    json: Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the answer as JSON.")] = None,
) -> None:
    """Show for every affine node where `fold` would put it, or why it is kept.

    Of many nodes one row is for all with the same reason; -v lists them one by one. Each reason has a code: --code says
    more about it, without a model.
    """
    require_one(model, code)
    for each in code or ():
        show_code(each)
    if model:
        explain_file(model, freeze_initializers, limit or [], json)


def require_one(model: Path | None, code: list[str] | None) -> None:
    """Raises UsageProblem where there is nothing to explain, or a model and codes."""
    if model is None and not code:
        raise UsageProblem("missing argument 'IN.onnx'", "Run `bnfold explain --help` for the options.")
    if model and code:
        raise UsageProblem("--code needs no model", "Leave out one of them.")


def show_code(code: str) -> None:
    """The row of docs/reasons.md for a code. Raises UsageProblem for none of them."""
    from bnfold.folding.advice import ADVICE, MEANING

    name = code.upper()
    if name not in MEANING:
        raise UsageProblem(f"{code} is not the code of a reason", f"The codes are {', '.join(MEANING)}.")
    console.table(name, ("", ""), [("it means", MEANING[name]), ("what you can do", ADVICE[name])])


def explain_file(model: Path, freeze_initializers: bool, limit: list[str], json: str | None) -> None:
    """`bnfold explain IN.onnx`"""
    from dataclasses import asdict

    from bnfold.folding.driver import explain as explain_model
    from bnfold.system.limits import limited

    require_places({"--json": json}, [model])
    with limited(limit):
        result = explain_model(model, freeze_initializers=freeze_initializers)
    if json:
        rows = {"folded": [asdict(f) for f in result.folded], "kept": [asdict(k) for k in result.kept]}
        console.write_json({"schema": "bnfold.explain/1", "model": str(model), **rows}, json)
    if json != "-":
        show(result, model)


def show(result: Explanation, model: Path) -> None:
    """A table of what folds, one of what is kept and why, and how many there are."""
    from bnfold.folding.summary import FEW, folded_table, kept_table

    for one in (folded_table(result.folded, console.detailed), kept_table(result.kept, console.detailed)):
        if one.rows:
            console.table(one.title, one.columns, one.rows)
    console.say(result.in_a_line())
    if result.kept:
        code = result.kept[0].not_hoisted.code
        console.say(f"`bnfold explain --code {code}` says more about a code")
    if max(len(result.folded), len(result.kept)) > FEW and not console.detailed:
        console.say(f"`bnfold explain {quote(str(model))} -v` lists every node")
