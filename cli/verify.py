"""`bnfold verify`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnfold.system.limits import limited
from bnfold_cli import console
from bnfold_cli.groups import InputOptions
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.verification import SelfTest, Verification

EXIT = {"PASS": 0, "FAIL": 1, "VACUOUS": 5, "INCONCLUSIVE": 5}


Original = Annotated[str, typer.Argument(metavar="A.onnx", help="The model as it was.")]
Folded = Annotated[str, typer.Argument(metavar="B.onnx", help="The model that should compute the same.")]
Effort = Annotated[Literal["fast", "full"], typer.Option(help="How much is run: fast takes seconds.")]
Opt = Annotated[str, typer.Option(help="onnxruntime graph optimization levels to compare at.")]
Ep = Annotated[str, typer.Option(help="Execution providers: cpu, cuda, tensorrt, tensorrt-rtx.")]
Math = Annotated[str, typer.Option(help="Arithmetic of a GPU provider: strict (float32), default (TF32).")]
Placement = Annotated[
    Literal["strict", "compute", "any"],
    typer.Option(metavar="POLICY", help="What must run on a GPU provider: strict (all), compute or any."),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random inputs.")]
Budget = Annotated[
    float | None, typer.Option(min=1.0, metavar="SECONDS", help="Begin nothing more after this; say what was skipped.")
]
Planted = Annotated[bool, typer.Option("--self-test", help="Also plant faults into B, and show which are found.")]
Untouched = Annotated[
    bool, typer.Option("--untouched", help="Also fail if anything else in the file changed, as metadata or shapes.")
]
Freeze = Annotated[
    bool, typer.Option("--freeze-initializers", help="Callers need not be able to override initializers of B.")
]
Require = Annotated[
    Literal["measured", "proved"],
    typer.Option(metavar="measured|proved", help="The grade that a PASS must have; proved is for all inputs."),
]
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
    *,
    data: InputOptions,
    budget: Budget = None,
    seed: Seed = 0,
    require: Require = "measured",
    untouched: Untouched = False,
    freeze_initializers: Freeze = False,
    allow_external_outside: Outside = False,
    self_test: Planted = False,
    limit: Limit = None,
    junit: Junit = None,
    json: Json = None,
) -> int:
    """Decide whether B computes what A computes, up to rounding.

    Both run on onnxruntime, graph optimization off and at its default, against a float64 evaluation of A. B must accept
    every input that A accepts, and give the same outputs. What else changed in the file is listed, and fails only with
    --untouched. A PASS is proved for all inputs, or measured on those that were tried. A GPU provider runs both with
    strict float32 arithmetic and with its default, and where each node ran is proved; cuDNN tries all kernels out, as
    onnxruntime serves, only with effort full. Exits 0 for PASS, 1 for FAIL, 4 if a provider cannot run, 5 for VACUOUS
    (the comparison could not have failed), INCONCLUSIVE, and a PASS that is not of the grade required.
    """
    require_places({"--junit": junit, "--json": json}, [original, folded, *(data.inputs or ())])
    options: dict[str, Any] = {"effort": effort, "seed": seed, "placement": placement, "budget_s": budget}
    options |= {"levels": opt.split(","), "providers": ep.split(","), "maths": math.split(",")}
    options |= {"untouched": untouched, "freeze_initializers": freeze_initializers, "require": require}
    options |= {"allow_external_outside": allow_external_outside} | data.of_functions()
    with limited(limit or ()):
        result, planted = decide(original, folded, options, self_test)
    return print_result(result, planted, json, junit)


def decide(original: str, folded: str, options: dict[str, Any], planted: bool) -> tuple[Verification, SelfTest | None]:
    """The verification and, if faults are to be `planted`, the self-test."""
    from bnfold.verification import self_test, verify

    result = verify(original, folded, **options)
    return result, self_test(original, folded, effort=options["effort"], seed=options["seed"]) if planted else None


def print_result(result: Verification, planted: SelfTest | None, json: str | None, junit: str | None) -> int:
    """Tables and verdict on stdout, unless a report goes there; notes and reasons on stderr. Returns the exit code."""
    if "-" not in (json, junit):
        for each in (*result.errors_tables(console.detailed), result.changes_table()):
            if each.rows:
                console.table(each.title, each.columns, each.rows)
        if console.detailed and result.worst():
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
        console.verdict(result.verdict, result.said_grade if result.passed else "")
    return EXIT["FAIL"] if planted and not planted.passed else EXIT[result.verdict]
