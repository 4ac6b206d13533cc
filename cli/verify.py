"""`bnfold verify`"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnfold.system.limits import limited
from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.verification import SelfTest, Verification

EXIT = {"PASS": 0, "FAIL": 1, "VACUOUS": 5, "INCONCLUSIVE": 5}


Original = Annotated[str, typer.Argument(metavar="A.onnx", help="The model as it was.")]
Folded = Annotated[str, typer.Argument(metavar="B.onnx", help="The model that should compute the same.")]
Effort = Annotated[str, typer.Option(help="fast (three inputs, seconds) or full.")]
Opt = Annotated[str, typer.Option(help="onnxruntime graph optimization levels to compare at.")]
Ep = Annotated[str, typer.Option(help="Execution providers: cpu, cuda, tensorrt, tensorrt-rtx.")]
Math = Annotated[str, typer.Option(help="Arithmetic of a GPU provider: strict (float32), default (TF32).")]
Placement = Annotated[str, typer.Option(help="What must run on a GPU provider: strict (all), compute or any.")]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random inputs.")]
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
Budget = Annotated[
    float | None, typer.Option(min=1.0, metavar="SECONDS", help="Begin nothing more after this; say what was skipped.")
]
Planted = Annotated[bool, typer.Option("--self-test", help="Also plant faults into B, and show which are found.")]
Junit = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JUnit XML.")]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JSON.")]
Outside = Annotated[
    bool,
    typer.Option("--allow-external-outside", help="Read external data also outside the models' folders."),
]


def verify(
    original: Original,
    folded: Folded,
    effort: Effort = "fast",
    opt: Opt = "off,default",
    ep: Ep = "cpu",
    math: Math = "strict,default",
    placement: Placement = "compute",
    inputs: Inputs = None,
    shape: Shape = None,
    dim: Dim = None,
    budget: Budget = None,
    seed: Seed = 0,
    allow_external_outside: Outside = False,
    self_test: Planted = False,
    limit: Limit = None,
    junit: Junit = None,
    json: Json = None,
) -> int:
    """Decide whether B computes what A computes, up to rounding.

    Both run on onnxruntime, graph optimization off and at its default, against a float64 evaluation of A; inputs,
    outputs, operator sets and metadata must be the same. A GPU provider runs them with strict float32 arithmetic and
    with its default, and where each node ran is proved; cuDNN tries all kernels out, as onnxruntime serves, only with
    effort full. Exits 0 for PASS, 1 for FAIL, 4 if a provider cannot run, 5 for VACUOUS (the comparison could not have
    failed) and INCONCLUSIVE.
    """
    from bnfold.verification import self_test as plant
    from bnfold.verification import verify as run

    require_places({"--junit": junit, "--json": json}, [original, folded, *(inputs or ())])
    ways: dict[str, Any] = {"levels": opt.split(","), "providers": ep.split(","), "maths": math.split(",")}
    ways |= sizes(shape or (), dim or ()) | {"inputs": inputs or (), "budget_s": budget, "placement": placement}
    with limited(limit or ()):
        result = run(original, folded, effort=effort, seed=seed, allow_external_outside=allow_external_outside, **ways)
        planted = plant(original, folded, effort=effort, seed=seed) if self_test else None
    print_result(result, planted, json, junit)
    return EXIT["FAIL"] if planted and not planted.passed else EXIT[result.verdict]


def sizes(shape: Iterable[str], dim: Iterable[str]) -> dict[str, Any]:
    """The shapes and dimensions in the options."""
    from bnfold.runtime.input_options import parse_dim, parse_shape

    shapes = {name: sizes for text in shape for name, sizes in parse_shape(text).items()}
    return {"shapes": shapes, "dims": dict(map(parse_dim, dim))}


def print_result(result: Verification, planted: SelfTest | None, json: str | None, junit: str | None) -> None:
    """Tables and verdict on stdout, unless a report goes there; notes and reasons on stderr."""
    if "-" not in (json, junit):
        errors, _ = result.tables()
        console.table(errors.title, errors.columns, errors.rows)
        if console.detailed:
            console.table("Worst of the outputs and fold sites", result.WORST, result.worst())
        if planted:
            console.table("Planted faults", planted.COLUMNS, planted.rows())
    if junit:
        console.write_junit("bnfold verify", result.checks(), result.seconds, junit)
    if json:
        console.write_json({**result.to_json(), "self_test": planted.to_json() if planted else None}, json)
    for text in result.notes:
        console.note(text)
    for reason in result.reasons:
        console.say(reason) if result.passed else console.fail(reason)
    if planted and not planted.passed:
        console.fail("self-test: a planted fault was not found")
    if "-" not in (json, junit):
        console.verdict(result.verdict)
