"""`bnfold`: fold Batch Normalization out of ONNX models, and prove that nothing else changed."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from bnfold import __version__
from bnfold.errors import BnfoldError, EnvironmentProblem
from bnfold.system.interrupts import interruptible
from bnfold_cli.console import complain, words
from bnfold_cli.groups import with_options_of_groups
from bnfold_cli.streams import lost, steady, widen
from bnfold_cli.verbosity import with_verbosity

HELP = "Fold Batch Normalization out of ONNX models, and prove that nothing else changed."
EXIT_CODES = (
    "Exit codes: 0 ok, 1 a check failed, 2 usage, 3 model unreadable, invalid or unsupported, "
    "4 environment, 5 inconclusive, 70 internal error, 130 interrupted."
)

INTERRUPTED = 130  # also what the argument parser answers to Ctrl-C

COMMANDS = (
    *("fold", "explain", "verify", "bench", "report", "recalibrate"),
    *("evaluate", "train", "export", "doctor", "demo"),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bnfold {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that come before the command."""


def parser(arguments: list[str]) -> typer.Typer:
    """The commands, each a function of its own file: only the one that is called, which saves time, or else all."""
    app = typer.Typer(
        name="bnfold",
        help=f"{HELP}\n\n{EXIT_CODES}",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    command = next((word for word in arguments if not word.startswith("-")), None)
    for name in [command] if command in COMMANDS else COMMANDS:
        app.command(name)(with_verbosity(with_options_of_groups(command_of(name))))
    return app


def command_of(name: str) -> Callable[..., Any]:
    """The function of the command `name`."""
    function: Callable[..., Any] = getattr(import_module(f"bnfold_cli.{name}"), name)
    return function


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code and never raises. Without any argument it is help that is wanted."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = int(parser(arguments)(arguments, prog_name="bnfold", standalone_mode=False) or 0)
        return _interrupted() if code == INTERRUPTED else code
    except BnfoldError as problem:
        complain(problem, problem.hint)
        return problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as problem:
        return _unexpected(problem)


def _interrupted() -> int:
    complain("interrupted", "Nothing was left half written; run the same command again.")
    return INTERRUPTED


def _unexpected(problem: Any) -> int:
    """Usage errors of the argument parser (exit code 2); anything else is a defect of bnfold (70)."""
    if hasattr(problem, "format_message") and hasattr(problem, "ctx"):
        command = problem.ctx.command_path if problem.ctx else "bnfold"
        message = problem.format_message().removesuffix(".") or "no command is given"
        message = message.replace("Value error, ", "", 1)  # what pydantic says first, by which newer typers read values
        complain(message[:1].lower() + message[1:], f"Run `{command} --help` for the options.")
        return 2
    if os.environ.get("BNFOLD_DEBUG"):
        raise problem
    words.quiet = False  # whichever process it is
    complain(
        f"internal error: {type(problem).__name__}: {problem}".splitlines()[0],
        "This is a defect of bnfold: please report it. BNFOLD_DEBUG=1 shows where it happened.",
    )
    return 70


def main() -> None:
    """The `bnfold` command. SIGTERM and SIGHUP interrupt it, as Ctrl-C does."""
    interruptible()
    steady()
    widen()
    _end(_exit_code(run()))


def _exit_code(code: int) -> int:
    """The exit code of a command that may have had no room for what it had to say (4)."""
    why = lost("stdout")
    if why is None or code:
        return code
    complain(f"stdout cannot be written: {why.strerror}", "The work is done; only what was to be shown is missing.")
    return EnvironmentProblem.exit_code


def _end(code: int) -> NoReturn:
    """End the process at once, without destroying its objects one by one, which takes a while."""
    if threading.active_count() == 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
