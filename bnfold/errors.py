"""The errors that bnfold raises on purpose: each has a message, a hint what to do, and an exit code."""

from __future__ import annotations

import re

NAME_LENGTH, SENTENCE_LENGTH = 300, 2000  # characters that are shown of a name, and of a sentence with names in it
FOREVER = 1e9  # seconds: what can be waited for


class BnfoldError(Exception):
    """Base of every error bnfold raises on purpose.

    `str(error)` says what is wrong, in one `printable` line; `hint` says what to do about it, and tracebacks show it,
    too; `exit_code` is what the command line exits with.
    """

    exit_code = 70
    evidence: object = None  # what there is to look at nevertheless

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(printable(message))
        self.hint = printable(hint)
        self.add_note(f"hint: {self.hint}")


def first_line(error: BaseException) -> str:
    """The message of an exception of another package, in one line; of OSError only its words."""
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


def printable(text: str, longest: int = SENTENCE_LENGTH) -> str:
    """Any text as one line that a terminal, a log, XML and HTML show as it is, however hostile the names in it.

    What does not print (control characters, line ends, what changes the direction of text, lone surrogates) becomes its
    escape, as does the start of what a pipeline takes for a command (`##[error]`). Of more than NAME_LENGTH characters
    without a blank, or more than `longest` in all, the middle is left out, and how many they were is said.
    """
    if len(text) <= NAME_LENGTH and text.isprintable() and "##" not in text:
        return text
    text = _cut(_cut_words(text), longest)
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return _cut(_cut_words(re.sub(r"##(?=\w*\[)", r"\\x23#", escaped)), longest)


def _cut_words(text: str) -> str:
    return re.sub(rf"\S{{{NAME_LENGTH + 1},}}", lambda match: _cut(match[0], NAME_LENGTH), text)


def _cut(text: str, longest: int) -> str:
    """Text without its middle, if it is longer."""
    if len(text) <= longest:
        return text
    left_out = f"...({len(text)} characters)..."
    kept = longest - len(left_out)
    return text[: kept - kept // 2] + left_out + text[-(kept // 2) :]
