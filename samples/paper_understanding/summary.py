"""results.json as text."""

from collections.abc import Iterable
from typing import Any

Results = dict[str, Any]
KINDS = ("none", "last", "everywhere")
HEAD = f"{'':>38}{'no BN':>12}{'at the last':>12}{'everywhere':>12}"


def summary(results: Results) -> str:
    """All numbers that the README quotes."""
    plan = results["plan"]
    parts = (
        ("held-out accuracy, by learning rate", accuracies(results)),
        (f"resnet-{plan['depth']} at the start", moments(results)),
        ("gradient of a convolution", gradients(results)),
        (f"first step to over 1000 times the loss, of those up to {plan['single_steps'][-1]:.3g}", edges(results)),
    )
    return "\n\n".join("\n".join((title, HEAD, *lines)) for title, lines in parts) + "\n\n" + spectra(results)


def accuracies(results: Results) -> Iterable[str]:
    rows = {(row["depth"], row["lr"], row["kind"]): row.get("accuracy", "diverged") for row in results["sweep"]}
    for depth, lr in dict.fromkeys(key[:2] for key in sorted(rows)):
        yield line(f"resnet-{depth}, {lr:g}", (rows.get((depth, lr, kind), "-") for kind in KINDS))


def moments(results: Results) -> Iterable[str]:
    rows = {row["kind"]: row for row in results["moments"]}
    for what in ("variance", "mean"):
        for place, i in (("first", 0), ("middle", results["plan"]["depth"] // 2 - 1), ("last", -1)):
            size = "|mean|" if what == "mean" else what
            yield line(f"{size} after the {place} convolution", (rows[kind][what][i] for kind in KINDS))
    yield line("largest share of one class in dl/dz", (results["columns"][kind] for kind in KINDS))


def gradients(results: Results) -> Iterable[str]:
    gradient = {(row["initial"], row["layer"], row["kind"]): row for row in results["gradients"]}
    for initial, layer in dict.fromkeys(key[:2] for key in gradient):
        rows = [gradient[initial, layer, kind] for kind in KINDS]
        for what, words in (("size", "mean | |"), ("kurtosis", "kurtosis"), ("by_example", "agreement of images")):
            yield line(f"{initial}, {layer}: {words}", (row[what] for row in rows))


def edges(results: Results) -> Iterable[str]:
    edge = {(row["depth"], row["kind"]): row["diverges_at"] or "none" for row in results["losses"]}
    for depth in sorted({depth for depth, _ in edge}):
        yield line(f"resnet-{depth}, at the start", (edge[depth, kind] for kind in KINDS))
    trained = {row["kind"]: row["diverges_at"] or "none" for row in results["trained"]}
    yield line(f"resnet-{results['trained'][0]['depth']}, trained", (trained[kind] for kind in KINDS))


def spectra(results: Results) -> str:
    matrices, values = results["products"][-1].values()
    return f"product of {matrices} random matrices: the smallest singular value is {values[-1]:.2g} of the largest"


def line(title: str, values: Iterable[Any]) -> str:
    return f"{title:>38}" + "".join(f"{v:>12.3g}" if isinstance(v, float) else f"{v:>12}" for v in values)
