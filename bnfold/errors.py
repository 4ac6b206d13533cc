"""What can go wrong, in one line each: a message, what to do about it, and the exit code of the command line."""

from __future__ import annotations

from .display import printable

FOREVER = 1e9  # seconds: what can be waited for


class BnfoldError(Exception):
    """Base of every error bnfold raises on purpose.

    `str(error)` says what is wrong, in one `printable` line; `hint` says what to do about it; `exit_code` is what the
    command line exits with.
    """

    exit_code = 70
    evidence: object = None  # what there is to look at nevertheless

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(printable(message))
        self.hint = printable(hint)


def first_line(error: BaseException) -> str:
    """What an exception of another package says, in one line; of the system's errors the words alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class CheckFailed(BnfoldError):
    """A check ran and its answer is no (exit code 1)."""

    exit_code = 1


class UsageProblem(BnfoldError):
    """The request cannot be carried out as made: options that exclude each other, say (exit code 2)."""

    exit_code = 2


class ModelProblem(BnfoldError):
    """The model or data file is unreadable, invalid or unsupported (exit code 3)."""

    exit_code = 3


class EnvironmentProblem(BnfoldError):
    """Something this machine lacks: a package, an execution provider, disk space, a permission (exit code 4)."""

    exit_code = 4


class Inconclusive(BnfoldError):
    """The check could not decide either way (exit code 5)."""

    exit_code = 5


def require_within(name: str, value: float, least: float, most: float) -> None:
    """Raises UsageProblem for a number below `least` or above `most`, and for what is none: nan."""
    if not least <= value <= most:
        raise UsageProblem(f"{name} is {value}", f"Give a number from {least:.10g} to {most:.10g}.")


def require_no_model(target: object) -> None:
    """Raises UsageProblem for a name that only a model has: a report under it would take the place of one."""
    if str(target).endswith((".onnx", ".onnx.data")):
        raise UsageProblem(f"{target} is the name of a model", "Give the report a name of its own.")
