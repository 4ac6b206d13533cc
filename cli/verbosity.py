"""`-q` and `-v`, which every command has: how much is said other than data and errors."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Annotated, Any

import typer

from bnfold import __version__
from bnfold.errors import UsageProblem
from bnfold.system.progress import notifying
from bnfold_cli import console

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but data and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: details, versions, time.")]


def with_verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with `--quiet` and `--verbose`, and a progress bar while it works."""
    plain = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, **options: Any) -> Any:
        set_verbosity(quiet, verbose)
        notice()
        began = time.perf_counter()
        with progress_shown(), notifying(console.note):
            code = command(**options)
        if console.detailed:
            console.say(f"{versions()}; {time.perf_counter() - began:.1f} s")
        return code

    run.__doc__ = "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))
    run.__signature__ = plain.replace(parameters=[*plain.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return run


def progress_shown() -> AbstractContextManager[None]:
    """A progress bar for each step, on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from bnfold_cli import progress_bar

    shown: AbstractContextManager[None] = progress_bar.shown()
    return shown


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Say less or more from now on. Raises UsageProblem for both at once."""
    if quiet and verbose:
        raise UsageProblem("--quiet and --verbose exclude each other", "Leave out one of them.")
    console.words.quiet, console.detailed = quiet, verbose


def notice() -> None:
    """A note where two runtimes are installed that overwrite each other: pip does not say so."""
    from bnfold.system.installed import mixture

    if warning := mixture():
        console.note(warning[0])
        console.words.line(warning[1], "hint:", "bold cyan")


def versions() -> str:
    """The versions of the installed packages that do the work."""
    from importlib.metadata import PackageNotFoundError, version

    from bnfold.system.installed import runtimes

    words = [f"bnfold {__version__}"]
    for name in ("onnx", *runtimes(), "numpy", "torch"):
        try:
            words.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(words)
