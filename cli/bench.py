"""`bnfold bench`"""

from __future__ import annotations

from typing import Annotated

import typer


def bench(
    original: Annotated[str, typer.Argument(metavar="A.onnx", help="The model as it was.")],
    folded: Annotated[str, typer.Argument(metavar="B.onnx", help="The folded model.")],
    quick: Annotated[bool, typer.Option("--quick", help="3 launches, a few seconds: a first impression.")] = False,
    launches: Annotated[int, typer.Option("--launches", min=2, help="Fresh processes, at most.")] = 7,
    budget: Annotated[float, typer.Option("--budget", min=1.0, metavar="SECONDS", help="Time for everything.")] = 30.0,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="Size of a dynamic dimension.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of an operator (default: all processors).")
    ] = None,
    json: Annotated[str | None, typer.Option("--json", metavar="PATH|-", help="Write the result as JSON.")] = None,
) -> None:
    """Measure how much faster B is than A, with an interval and a verdict.

    Fresh processes time both models in interleaved blocks on onnxruntime's CPU provider, with its graph optimization
    off and at its default. The verdict (FASTER, EQUIVALENT, SLOWER, INCONCLUSIVE; margin 1 %) is about the default.
    """
    from bnfold.bench import benchmark, size
    from bnfold_cli import console

    if quick:
        launches, budget = min(launches, 3), min(budget, 6.0)
    dims = dict(map(size, dim or []))
    found = benchmark(original, folded, launches=launches, budget_s=budget, dims=dims, threads=threads)
    if json != "-":
        console.table("Latency", found.COLUMNS, found.rows())
        console.data.print(found.summary())
    if json:
        console.write_json(found.to_json(), json)
    for note in found.notes:
        console.say(f"note: {note}")
