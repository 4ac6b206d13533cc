"""What can go wrong, in one line each: a message, what to do about it, and the exit code of the command line."""

from __future__ import annotations

LONGEST = 2000  # characters of a sentence


class BnfoldError(Exception):
    """Base of every error bnfold raises on purpose.

    `str(error)` says what is wrong; `hint` says what to do about it; `exit_code` is what the command line exits with.
    """

    exit_code = 70
    evidence: object = None  # what there is to look at nevertheless

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(short(message))
        self.hint = short(hint)


def short(text: str) -> str:
    """A sentence about a file that holds endless names, without the middle of it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


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


def require_no_model(target: object) -> None:
    """Raises UsageProblem for a name that only a model has: a report under it would take the place of one."""
    if str(target).endswith(".onnx"):
        raise UsageProblem(f"{target} is the name of a model", "Give the report a name of its own.")
