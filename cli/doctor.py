"""`bnfold doctor`"""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    ep: Annotated[
        str, typer.Option("--ep", help="Providers that must work: cpu, cuda, tensorrt, tensorrt-rtx.")
    ] = "cpu",
    json: Annotated[str | None, typer.Option("--json", metavar="PATH|-", help="Write the answer as JSON.")] = None,
) -> None:
    """Show which execution providers work here, where a test node really ran, and what to do about the others.

    Exits 0 if the providers of --ep work, 4 if one does not; the others are for information.
    """
    from bnfold.runtime.doctor import doctor as look
    from bnfold.runtime.providers import ways
    from bnfold_cli import console
    from bnfold_cli.places import require_places

    require_places({"--json": json})
    wanted = dict.fromkeys(way.provider for way in ways(ep.split(",")))
    result = look()
    if json != "-":
        console.table("Execution providers", result.COLUMNS, result.rows())
        if console.detailed:
            console.table("Installed", ("provider", "wheel", "version"), result.installed())
        for health in result.providers:
            if not health.works:
                console.data.line(f"{health.provider}: {health.why}")
                console.data.line(f"hint: {health.fix}")
    if json:
        console.write_json(result.to_json(), json)
    result.require(wanted)
