"""`bnfold export`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from bnfold_cli.console import say, table


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file to write.")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A finished run.", show_default="the newest under runs/")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 or newer.")] = 20,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Type of the numbers.")] = "float32",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace MODEL.onnx if it exists.")] = False,
) -> None:
    """Export a run to ONNX with every BatchNormalization still a node, checked and compared with PyTorch."""
    from bnfold.train.export import export

    result = export(checkpoint, model, opset=opset, dtype=dtype, force=force)
    rows = [
        ("file", result.path),
        ("run", result.run),
        ("opset, dtype", f"{result.opset}, {result.dtype}"),
        ("nodes", result.nodes),
        ("BatchNormalization", result.batch_norms),
        ("bytes", result.bytes),
        ("worst error against PyTorch in float64", f"{result.worst_error:.2g}"),
    ]
    table("Exported", ("quantity", "value"), rows)
    say(f"next: bnfold fold {quote(str(result.path))}")
