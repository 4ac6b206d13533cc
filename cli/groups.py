"""Options that belong together as one parameter of a command: a dataclass, whose fields Typer reads one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer


def with_options_of_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, in which each parameter that is a dataclass becomes an option for each field."""
    plain = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {p.name: p.annotation for p in plain.parameters.values() if is_dataclass(p.annotation)}
    if not groups:
        return command

    @wraps(command)
    def run(**options: Any) -> Any:
        made = {name: kind(**{f.name: options.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        return command(**options, **made)

    parameters = [each for p in plain.parameters.values() for each in _one_by_one(p)]
    run.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _one_by_one(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """A parameter as it is or, of a group, one for each field; all of them by name."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        by_name = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(field.name, by_name, default=field.default, annotation=hints[field.name])


Inputs = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|FOLDER", help="Data to run first: .npz, .npy, ONNX test data. Repeatable."),
]
Shape = Annotated[
    list[str] | None, typer.Option(metavar="NAME:SIZES", help="Shape of an input, as x:1,3,224,224. Repeatable.")
]
Dim = Annotated[
    list[str] | None, typer.Option(metavar="NAME=SIZES", help="Sizes of a dynamic dimension, as N=1,8. Repeatable.")
]


@dataclass(frozen=True)
class SizeOptions:
    """The sizes with which models are run."""

    shape: Shape = None
    dim: Dim = None

    def of_functions(self) -> dict[str, Any]:
        """`shapes` and `dims` as the functions of the package take them. Raises UsageProblem."""
        if not (self.shape or self.dim):
            return {"shapes": {}, "dims": {}}
        from bnfold.runtime.input_options import parse_dim, parse_shape

        shapes = {name: sizes for text in self.shape or () for name, sizes in parse_shape(text).items()}
        dims = dict(map(parse_dim, self.dim or ()))
        plain = [{name: list(sizes) for name, sizes in each.items()} for each in (shapes, dims)]
        return {"shapes": plain[0], "dims": plain[1]}


@dataclass(frozen=True)
class InputOptions(SizeOptions):
    """What models are run with."""

    inputs: Inputs = None

    def of_functions(self) -> dict[str, Any]:
        """`inputs`, `shapes` and `dims`. Raises UsageProblem."""
        return {"inputs": list(self.inputs or ())} | super().of_functions()
