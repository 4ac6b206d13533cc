"""Where the outputs of a command go: checked before any work, so that a mistyped path is an error at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bnfold.errors import BnfoldError, EnvironmentProblem, UsageProblem, require_no_model

REPORTS = ("--json", "--junit", "--report", "--out")  # what can go to stdout


def require_places(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[str | Path | None] = (),
    force: bool = True,
    made: Path | None = None,
) -> None:
    """Raises UsageProblem where an output, by its option, is no file, is a model's, or is another file of the command;
    without `force` also where it exists. Raises EnvironmentProblem where it cannot be written.

    `-` is stdout, which takes one report. A `--plot` is a picture that can be drawn. `inputs` are all other files of
    the command, and folders; the folder `made` is one that the command makes.
    """
    from bnfold.display import plots
    from bnfold.system import staging

    for option in (option for option, target in outputs.items() if str(target) == "-" and option not in REPORTS):
        raise UsageProblem(f"{option} does not go to stdout", "Give a path.")
    wanted = {option: str(target) for option, target in outputs.items() if target is not None}
    if list(wanted.values()).count("-") > 1:
        raise UsageProblem("two reports cannot both go to stdout", "Give one of them a path.")
    taken = [Path(each) for each in inputs if each is not None]
    for option, target in wanted.items():
        if target != "-":
            with staging.writing(Path(target)):
                _require_free(option, Path(target), taken, force)
                if Path(target).parent != made:
                    _require_writable(Path(target))
            taken.append(Path(target))
        if option == "--plot":
            plots.require_plot(Path(target))


def _require_free(option: str, path: Path, taken: Iterable[Path], force: bool) -> None:
    require_no_model(path)
    if os.path.isdir(path):
        raise UsageProblem(f"{option}: {path} is a folder", "Name the file to write.")
    if any(_same(path, other) for other in _with_data(taken, path)):
        raise UsageProblem(f"{option}: {path} is another file of this command", "Choose another name.")
    if os.path.lexists(path) and not force:
        raise UsageProblem(f"{path} exists", "--force replaces it.")


def _require_writable(path: Path) -> None:
    from bnfold.system import staging

    staging.require_folder(path)
    with suppress(FileNotFoundError):
        os.lstat(path)  # which raises OSError where the name is too long, say
    place = path if os.path.exists(path) and not os.path.isfile(path) else path.parent
    if not os.access(place, os.W_OK):
        raise EnvironmentProblem(f"{path} cannot be written: Permission denied", "Choose another place.")


def _same(path: Path, other: Path) -> bool:
    """The same file, or what would become the same."""
    if os.path.exists(path) and os.path.exists(other):
        return path.samefile(other)
    return path.parent.resolve() / path.name == other.parent.resolve() / other.name


def _with_data(taken: Iterable[Path], path: Path) -> Iterator[Path]:
    """Files, and those that hold the data of models among them, which are looked up only where something is there."""
    for each in taken:
        yield each
        if os.path.exists(path) and each.suffix == ".onnx" and os.path.isfile(each):
            yield from _data_files(each)


def _data_files(model: Path) -> Iterable[Path]:
    from bnfold.model import external, onnx_io

    try:
        return external.data_files(onnx_io.detached(model)[0], model.parent)
    except BnfoldError:  # which the command will say
        return []
