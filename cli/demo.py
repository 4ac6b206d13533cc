"""`bnfold demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold_cli.console import say, table


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the files go; must be new or empty.")] = Path(
        "bnfold-demo"
    ),
) -> int:
    """Train, export, fold, verify and measure a small network on handwritten digits: a few minutes on two cores."""
    from bnfold.reporting.demo import demo as run
    from bnfold_cli.train import watch

    result = run(folder, say, watch)
    table("bnfold on handwritten digits", ("", "before the fold", "after it"), result.rows())
    say(f"The files are in {folder}.")
    return 0 if result.verified.passed else 1
