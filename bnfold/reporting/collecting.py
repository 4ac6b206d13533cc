"""Everything that a report shows, as plain data: schema `bnfold.report/1`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from .. import __version__
from ..errors import BnfoldError, UsageProblem
from ..folding.pipeline import FoldReport, Size, size_of
from ..model import external, onnx_io
from ..model.storage import Storage
from . import latency, records
from .channels import channels
from .drawing import draw_graph
from .node_results import node_results

if TYPE_CHECKING:
    from ..benchmarking import Benchmark

SCHEMA = "bnfold.report/1"
Plain = dict[str, Any]


@dataclass(frozen=True)
class ModelPair:
    """Two models and what is known of their files: `model_files` has path, bytes and SHA-256 of each."""

    original: ModelProto
    folded: ModelProto
    storage: Storage  # of the original
    sizes: tuple[Size, Size]
    model_files: dict[str, Plain]


def of_fold(report: FoldReport, bench: bool = False) -> Plain:
    """The report of a fold, also of one that did not pass: then `fold["written"]` is false.

    With `bench` the latency of both models is measured, if the result was written.
    """
    from ..verification.verifying import describe

    verification = report.verification.to_json() if report.verification else None
    models = dict(verification["models"]) if verification else {}
    models["original"] = models.get("original") or describe(report.source)
    models["folded"] = models.get("folded") or (describe(report.target) if report.written else {})
    sizes = report.before, report.after
    model_files = {"original": models["original"], "folded": {"bytes": sizes[1].bytes, **models["folded"]}}
    model_files["folded"]["path"] = str(report.target)
    original, storage = onnx_io.detached(report.source)
    pair = ModelPair(original, report.result.model, storage, sizes, model_files)
    timed = _measured(pair, None, {}) if bench and report.written else (None, None)
    return _payload(pair, report.to_json(), verification, *timed)


def collect(
    original: Path,
    folded: Path,
    *,
    verify: str | None = None,
    fold: Path | None = None,
    bench: str | None = None,
    raw: Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, Sequence[int]] | None = None,
    allow_external_outside: bool = False,
) -> Plain:
    """The report of a pair of models, whoever made the second from the first.

    `verify` is fast, full, off, or a file that `verify --json` wrote; without it, what `fold` says of verification
    counts, else fast. `fold` is a file of `fold --json`; without it, where each node went is derived from the original
    and compared with the nodes of the other. `bench` is `run` or a file of `bench --json`, `raw` one of `bench --raw`.
    `shapes` and `dims` are the sizes that models are run with here.
    Raises ModelProblem for files that are not what they should be, UsageProblem where two models are no pair or a
    record is about others.
    """
    pair = _pair(original, folded)
    record = _fold_record(fold, pair) if fold else None
    sizes = {"shapes": shapes or {}, "dims": dims or {}}
    measured, blocks = _latency(bench, raw, pair, sizes)
    if verify is None and record and record["verification"]:
        verification: Plain | None = record["verification"]
    else:
        verification = _verification(verify or "fast", pair, sizes | {"allow_external_outside": allow_external_outside})
    return _payload(pair, record, verification, measured, blocks)


def _pair(original: Path, folded: Path) -> ModelPair:
    from ..verification.verifying import describe, locate

    with locate(original) as first, locate(folded) as second:
        read = [onnx_io.detached(path) for path in (first, second)]
        models = [model for model, _ in read]
        files = zip(models, (first, second), strict=True)
        sizes = tuple(size_of(model, path, external.data_files(model, path.parent)) for model, path in files)
        model_files = {"original": describe(first), "folded": describe(second)}
    _require_pair(models, sizes, (original, folded))
    return ModelPair(models[0], models[1], read[0][1], (sizes[0], sizes[1]), model_files)


def _require_pair(models: list[ModelProto], sizes: tuple[Size, ...], paths: tuple[Path, Path]) -> None:
    """Raises UsageProblem where the second cannot be what became of the first."""
    for field in ("input", "output"):
        names = [[value.name for value in getattr(model.graph, field)] for model in models]
        if all(names) and not set(names[0]) & set(names[1]):
            words = " and ".join(
                f"{path} has the {field} {values[0]!r}" for path, values in zip(paths, names, strict=True)
            )
            raise UsageProblem(f"these are no two versions of one model: {words}", "Name the original, then its fold.")
    if sizes[0].batch_normalizations < sizes[1].batch_normalizations:
        counts = " and ".join(f"{p} has {s.batch_normalizations}" for p, s in zip(paths, sizes, strict=True))
        raise UsageProblem(f"the second model has more BatchNormalization: {counts}", "The original comes first.")


def _fold_record(path: Path, pair: ModelPair) -> Plain:
    record = records.read_record(path, "fold")
    for name, size in zip(("before", "after"), pair.sizes, strict=True):
        records.require_same_sizes(path, record[name], asdict(size))
    records.require_same(path, (record["verification"] or {}).get("models", {}), pair.model_files)
    return record


def _verification(how: str, pair: ModelPair, options: dict[str, Any]) -> Plain | None:
    """The verification in a file, or one made now; None if it is off."""
    if how == "off":
        return None
    if how in ("fast", "full"):
        from ..verification import verify

        paths = (pair.model_files[name]["path"] for name in ("original", "folded"))
        return verify(*paths, effort=how, **options).to_json()
    record = records.read_record(Path(how), "verify")
    records.require_same(Path(how), record["models"], pair.model_files)
    return record


def _latency(
    bench: str | None, raw: Path | None, pair: ModelPair, sizes: dict[str, Any]
) -> tuple[Plain | None, list[Plain] | None]:
    """The record of a benchmark, and its single runs; None for either that is not there."""
    if bench is None:
        if raw:
            raise UsageProblem("--raw without --bench", "Give the file that `bnfold bench --json` wrote along with it.")
        return None, None
    if bench == "run":
        return _measured(pair, raw, sizes)
    path = Path(bench)
    record = records.read_record(path, "bench")
    records.require_same(path, record.get("models", {}), pair.model_files)
    names = dict(zip(("original", "folded"), pair.sizes, strict=True))
    records.require_same_sizes(path, record["nodes"], {name: size.nodes for name, size in names.items()})
    norms = {name: size.batch_normalizations for name, size in names.items()}
    records.require_same_sizes(path, record["batch_normalization"], norms)
    return record, latency.condense(latency.lines(records.file_text(raw), raw)) if raw else None


def _measured(pair: ModelPair, raw: Path | None, sizes: dict[str, Any]) -> tuple[Plain, list[Plain]]:
    from ..benchmarking import bench

    if raw:
        raise UsageProblem("--raw with --bench run", "A file of raw samples goes with the file of its own benchmark.")
    result: Benchmark = bench(pair.model_files["original"]["path"], pair.model_files["folded"]["path"], **sizes)
    return result.to_json(), latency.condense(block.to_json() for block in result.blocks)


def _payload(
    pair: ModelPair,
    record: Mapping[str, Any] | None,
    verification: Plain | None,
    bench: Plain | None = None,
    blocks: list[Plain] | None = None,
) -> Plain:
    """The whole report."""
    from ..benchmarking.environment import environment

    before, after = draw_graph(pair.original), draw_graph(pair.folded)
    source, said = ("fold", record) if record else _derived(pair)
    return {
        "schema": SCHEMA,
        "bnfold": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "models": pair.model_files,
        "before": asdict(pair.sizes[0]),
        "after": asdict(pair.sizes[1]),
        "source": source,
        "nodes": node_results(before, after, said, derived=source != "fold"),
        "channels": channels(pair.original, pair.storage),
        "fold": {**record, "verification": None} if record else None,
        "verification": verification,
        "bench": bench,
        "runs": blocks,
        "environment": environment(),
        "graphs": {"before": before.plain(), "after": after.plain()},
    }


def _derived(pair: ModelPair) -> tuple[str, Plain | None]:
    """What bnfold would do with the original; no record where it would refuse it."""
    from ..folding.driver import explain

    try:
        explanation = explain(pair.model_files["original"]["path"])
    except BnfoldError:
        return "names", None
    return "derived", {"folded": [*map(asdict, explanation.folded)], "kept": [*map(asdict, explanation.kept)]}
