"""`bnfold bench`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnfold.system.limits import limited
from bnfold_cli import console
from bnfold_cli.groups import SizeOptions
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.benchmarking import Benchmark
    from bnfold.benchmarking.gate import Gate

Original = Annotated[str, typer.Argument(metavar="A.onnx", help="The model as it was.")]
Folded = Annotated[str, typer.Argument(metavar="B.onnx", help="The folded model.")]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="A first impression: 3 launches, a few seconds, no cold start, --cudnn-search heuristic.",
    ),
]
Launches = Annotated[int, typer.Option(min=2, help="Fresh processes, at most.")]
Budget = Annotated[float, typer.Option(min=1.0, metavar="SECONDS", help="Time for everything.")]
Ep = Annotated[str, typer.Option(help="Execution providers: cpu, cuda, tensorrt, tensorrt-rtx.")]
Mode = Annotated[
    Literal["e2e", "device", "enqueue"] | None,
    typer.Option(help="What is timed: e2e is numpy in and out (usual on cpu), device I/O binding (usual on a GPU)."),
]
Opt = Annotated[str, typer.Option(help="onnxruntime graph optimization levels to time at.")]
Graph = Annotated[
    Literal["off", "on", "both"], typer.Option("--cuda-graph", help="With --ep cuda or tensorrt-rtx, and mode device.")
]
Search = Annotated[
    Literal["exhaustive", "heuristic", "default"] | None,
    typer.Option(
        "--cudnn-search",
        help="How cuDNN chooses algorithms on CUDA, for both models: exhaustive (the default, being onnxruntime's: "
        "what a deployment that sets nothing will see), heuristic, or default (no search: at once, maybe slower).",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="float32, float16, or float32,float16 for both: models are converted (default: timed as they are)."
    ),
]
Cold = Annotated[
    bool | None,
    typer.Option("--cold/--no-cold", help="Also measure a cold start (default: unless --quick).", show_default=False),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of an operator (default: all processors).")]
Margin = Annotated[str, typer.Option(metavar="SHARE", help="Differences below this count as none.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help="Exit 1 if at the default level the whole interval says so: slower:2% (B takes over 1.02 times as long "
        "as A) or speedup<1.05.",
    ),
]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JSON.")]
Raw = Annotated[Path | None, typer.Option(metavar="PATH", help="Write every block of runs as a line of JSON.")]
Plot = Annotated[Path | None, typer.Option(metavar="PATH", help="Draw the ratios (png, svg or pdf; extra: plot).")]


def bench(
    original: Original,
    folded: Folded,
    quick: Quick = False,
    launches: Launches = 7,
    budget: Budget = 30.0,
    ep: Ep = "cpu",
    mode: Mode = None,
    opt: Opt = "off,default",
    cuda_graph: Graph = "off",
    cudnn_search: Search = None,
    precision: Precision = None,
    cold: Cold = None,
    *,
    sizes: SizeOptions,
    threads: Threads = None,
    margin: Margin = "1%",
    fail_if: FailIf = None,
    limit: Limit = None,
    json: Json = None,
    raw: Raw = None,
    plot: Plot = None,
) -> int:
    """Measure how much faster B is than A, with an interval and a verdict.

    Fresh processes time both models, and A once more as a control, in interleaved blocks on onnxruntime, with its
    graph optimization off and at its default. The verdict is about the default: FASTER, EQUIVALENT, SLOWER,
    INCONCLUSIVE, or UNTRUSTED where A does not measure like itself; FASTER and SLOWER must also exceed the interval
    of the control. Exits 0 for an answer, INCONCLUSIVE included, 1 if a --fail-if holds, 4 if a provider cannot run, 5
    for UNTRUSTED or if the interval cannot decide a --fail-if.
    """
    require_places({"--json": json, "--raw": raw, "--plot": plot}, [original, folded])
    gates = parsed_gates(fail_if or [])
    how: dict[str, Any] = {"mode": mode, "cuda_graph": cuda_graph, "cudnn_search": cudnn_search, "threads": threads}
    how |= {"launches": launches, "budget_s": budget, "cold": cold is not False}
    how |= _parsed(margin, ep, opt, precision) | sizes.of_functions()
    result = measured(original, folded, _quickly(how, cold) if quick else how, limit or ())
    return print_result(result, gates, json, raw, plot)


def parsed_gates(conditions: list[str]) -> list[Gate]:
    """The conditions under which a benchmark counts as failed."""
    from bnfold.benchmarking import gate

    return [gate.gate(text) for text in conditions]


def _parsed(margin: str, ep: str, opt: str, precision: str | None) -> dict[str, Any]:
    """Options that are written as text, as `benchmark` takes them."""
    from bnfold.benchmarking.gate import percent

    lists = {"providers": ep.split(","), "levels": opt.split(",")}
    lists |= {} if precision is None else {"precisions": precision.split(",")}
    return {"margin": percent(margin), **lists}


def _quickly(how: dict[str, Any], cold: bool | None) -> dict[str, Any]:
    """The same with little effort; options that the command names stay."""
    search = how["cudnn_search"] or ("heuristic" if "cuda" in how["providers"] else None)
    less = {"launches": min(how["launches"], 3), "budget_s": min(how["budget_s"], 6.0), "cold": bool(cold)}
    return how | less | {"cudnn_search": search}


def measured(original: str, folded: str, how: dict[str, Any], limits: Sequence[str]) -> Benchmark:
    """The benchmark, within the limits."""
    from bnfold.benchmarking import bench

    with limited(limits):
        return bench(original, folded, **how)


def _write(result: Benchmark, raw: Path | None, plot: Path | None) -> None:
    from bnfold.benchmarking import outputs

    if raw:
        outputs.write_raw(result, raw)
    if plot:
        outputs.write_plot(result, plot)
    for path in filter(None, (raw, plot)):
        console.say(f"wrote {path}")


def print_result(result: Benchmark, gates: list[Gate], json: str | None, raw: Path | None, plot: Path | None) -> int:
    """Tables and verdict on stdout, or JSON; notes and failed conditions on stderr; files. Returns the exit code."""
    from bnfold.benchmarking.gate import failures, undecided

    _write(result, raw, plot)
    failed, unsure = failures(result, gates), undecided(result, gates)
    if json != "-":
        for one in filter(lambda table: table.rows, result.tables()[:3]):
            console.table(one.title, one.columns, one.rows)
    if json:
        console.write_json({**result.to_json(), "failed": failed, "undecided": unsure}, json)
    for text in result.notes:
        console.note(text)
    for sentence in (*failed, *unsure):
        console.fail(sentence)
    if json != "-":
        console.verdict(result.summary())
    if console.detailed:
        threads = result.environment["threads"]
        console.say(f"{result.launches} launches, {threads} threads, {result.seconds:.1f} s in all")
    if result.verdict == "UNTRUSTED" or (unsure and not failed):
        return 5
    return int(bool(failed))
