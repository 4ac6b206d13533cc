"""`bnfold bench`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnfold.limits import asked
from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.bench import Benchmark

Original = Annotated[str, typer.Argument(metavar="A.onnx", help="The model as it was.")]
Folded = Annotated[str, typer.Argument(metavar="B.onnx", help="The folded model.")]
Quick = Annotated[bool, typer.Option("--quick", help="3 launches, a few seconds: a first impression.")]
Launches = Annotated[int, typer.Option(min=2, help="Fresh processes, at most.")]
Budget = Annotated[float, typer.Option(min=1.0, metavar="SECONDS", help="Time for everything.")]
Ep = Annotated[str, typer.Option(help="Execution providers: cpu, cuda, tensorrt, tensorrt-rtx.")]
Mode = Annotated[
    str | None,
    typer.Option(help="e2e (numpy in and out; usual on cpu), device (I/O binding; usual on a GPU), enqueue."),
]
Graph = Annotated[
    str, typer.Option("--cuda-graph", help="off, on or both; with --ep cuda or tensorrt-rtx, and mode device.")
]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE[,SIZE...]", help="Size of a dynamic dimension; each size is timed."),
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
    cuda_graph: Graph = "off",
    dim: Dim = None,
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
    of the control. Exits 0 for an answer, 1 if a --fail-if holds, 4 if a provider cannot run, 5 for UNTRUSTED.
    """
    from bnfold.bench import benchmark, gate

    require_places({"--json": json, "--raw": raw, "--plot": plot}, [original, folded])
    gates = [gate.gate(text) for text in fail_if or []]
    how: dict[str, Any] = {"launches": min(launches, 3) if quick else launches, "margin": gate.percent(margin)}
    how |= {"budget_s": min(budget, 6.0) if quick else budget, "dims": _sizes(dim or [])}
    how |= {"providers": ep.split(","), "mode": mode, "cuda_graph": cuda_graph, "threads": threads}
    with asked(limit or ()):
        found = benchmark(original, folded, **how)
    _write(found, raw, plot)
    tell(found, failed := gate.failures(found, gates), json)
    return 5 if found.verdict == "UNTRUSTED" else int(bool(failed))


def _sizes(dim: list[str]) -> dict[str, tuple[int, ...]]:
    from bnfold.verification.asked import dim_asked

    return dict(map(dim_asked, dim))


def _write(found: Benchmark, raw: Path | None, plot: Path | None) -> None:
    from bnfold.bench import files

    if raw:
        files.write_raw(found, raw)
    if plot:
        files.write_plot(found, plot)
    for path in filter(None, (raw, plot)):
        console.say(f"wrote {path}")


def tell(found: Benchmark, failed: list[str], json: str | None) -> None:
    """Tables and verdict on stdout, or JSON; notes and failed conditions on stderr."""
    if json != "-":
        for one in found.tables()[:3]:
            console.table(one.title, one.columns, one.rows)
    if json:
        console.write_json({**found.to_json(), "failed": failed}, json)
    for text in found.notes:
        console.note(text)
    for sentence in failed:
        console.fail(sentence)
    if json != "-":
        console.verdict(found.summary())
    if console.detailed:
        console.say(f"{found.launches} launches, {found.environment['threads']} threads, {found.seconds:.1f} s in all")
