"""`recalibrate` and `check` on models in memory, or on paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..display.display import Shown, Table, counted
from ..model import models, onnx_io
from ..model.models import Model
from ..model.storage import Storage
from ..runtime.host import Host
from ..runtime.protos import caller_inputs
from ..system.installed import require_runtime
from . import copies
from .drift import COLUMNS, Drift, Fit, Sample
from .feeds.calibration import Feed, from_batches
from .feeds.card import Card
from .feeds.chunks import Chunks
from .layout import Layout, lay_out, runnable
from .methods import agreeing, by_batches, sequential
from .options import Options
from .writing import untied, write_statistics

Watch = Callable[[int, int, int], None]  # the level that is measured, of how many, and runs of it that are done
SCHEMA = "bnfold.recalibrate/1"


@dataclass(frozen=True, repr=False)
class Recalibration(Shown):
    """What `recalibrate` returns: the model with new statistics, and of each BatchNormalization how they differ."""

    model: onnx.ModelProto
    method: str
    batch_size: int | None  # of alg2 and pooled
    samples: int
    drifts: tuple[Drift, ...]
    notes: tuple[str, ...]
    provider: str = "cpu"  # that ran the model

    def in_a_line(self) -> str:
        """How many statistics of how many samples, and the layer that moved farthest."""
        most = max(self.drifts, key=lambda drift: drift.shift, default=None)
        moved = f"; largest shift {most.shift:.2g} standard deviations, at {most.node!r}" if most else ""
        return f"{len(self.drifts)} BatchNormalization, {counted(self.samples, 'sample')} ({self.method}){moved}"

    def tables(self) -> tuple[Table, ...]:
        drifts = Table("Drift", COLUMNS, [drift.row() for drift in self.drifts])
        return drifts, Table("Notes", ("",), [(note,) for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.recalibrate/1`."""
        norms = [drift.to_json() for drift in self.drifts]
        facts = {
            "method": self.method,
            "batch_size": self.batch_size,
            "samples": self.samples,
            "provider": self.provider,
        }
        return {"schema": SCHEMA, **facts, "batch_normalizations": norms, "notes": list(self.notes)}


@dataclass(frozen=True, repr=False)
class Check(Shown):
    """What `check` returns: whether the statistics that a model stores fit data, for each BatchNormalization."""

    threshold: float
    samples: int
    fits: tuple[Fit, ...]
    notes: tuple[str, ...]
    provider: str = "cpu"  # that ran the model

    @property
    def verdict(self) -> str:
        """FAIL if a channel is off; INCONCLUSIVE if so few samples could not show it, and differ at all; else PASS."""
        if any(fit.off for fit in self.fits):
            return "FAIL"
        exact = all(fit.drift.none for fit in self.fits)
        return "INCONCLUSIVE" if self.resolution > self.threshold and not exact else "PASS"

    @property
    def resolution(self) -> float:
        """The drift that chance may hide or feign, in standard deviations."""
        return max((fit.resolution for fit in self.fits), default=0.0)

    def in_a_line(self) -> str:
        return f"{self.verdict}: {self.reason}"

    @property
    def reason(self) -> str:
        """The numbers that the verdict rests on, in a sentence."""
        off, channels = sum(fit.off for fit in self.fits), sum(fit.drift.channels for fit in self.fits)
        if self.verdict == "INCONCLUSIVE":
            samples, drift = counted(self.samples, "sample"), f"a drift below {self.resolution:.2g}"
            threshold = f"the threshold is {self.threshold:g} standard deviations"
            return f"{samples} cannot distinguish {drift} from chance, and {threshold}"
        return f"{off} of {channels} channels are off by more than {self.threshold:g} standard deviations"

    @property
    def tone(self) -> str:
        return {"PASS": "good", "FAIL": "bad"}.get(self.verdict, "open")

    def tables(self) -> tuple[Table, ...]:
        drifts = Table("Drift", (*COLUMNS, "off"), [(*fit.drift.row(), fit.off) for fit in self.fits])
        return drifts, Table("Notes", ("",), [(note,) for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.recalibrate/1`."""
        norms = [fit.to_json() for fit in self.fits]
        facts = {
            "verdict": self.verdict,
            "threshold": self.threshold,
            "samples": self.samples,
            "provider": self.provider,
        }
        return {"schema": SCHEMA, **facts, "batch_normalizations": norms, "notes": list(self.notes)}


def recalibrate(
    model: Model,
    batches: Iterable[Any],
    *,
    method: str = "sequential",
    batch_size: int | None = None,
    memory_limit: int = Options.memory_limit,
    provider: str = Options.provider,
    watch: Watch = lambda level, levels, done: None,
) -> Recalibration:
    """Population statistics of `batches` (section 3.1 of the paper) for every BatchNormalization of a model.

    `model` is what `bnfold.fold` takes, and is left as it was; `batches` are dictionaries of arrays by input name or,
    for a model with one input, arrays. `sequential` does not depend on how they are cut, nor on their order; `alg2` and
    `pooled` cut them into mini-batches of `batch_size`. What lies between two layers is kept in memory up to
    `memory_limit` bytes, then in a temporary file; `method` is one of these three. The model runs on `provider`, cpu or
    cuda, in strict float32 (TF32 off); the moments are added up in float64 by numpy. Raises ModelProblem for a model or
    data that will not do, EnvironmentProblem for a provider that does not run here.
    """
    options = Options(method, batch_size, memory_limit, provider=provider)
    host = Host.ready(options.way)
    return in_place(*onnx_io.consumable(model), lambda card: from_batches(batches, card), options, host, watch)


Data = Callable[[Card], Iterator[Feed]]


def in_place(
    record: onnx.ModelProto, storage: Storage, data: Data, options: Options, host: Host, watch: Watch
) -> Recalibration:
    """`recalibrate` on a record that may be consumed."""
    require_runtime("recalibration")
    run, notes = runnable(record, storage)
    batch = 0 if options.is_sequential else copies.fixed_batch(run.graph)
    if batch and batch != options.size:
        run = copies.freed(run, batch)
        notes.append(f"run with batches of {options.size}, not {batch} as the model states")
    layout = lay_out(record, run, storage, host)
    card, levels = Card.of(run), len(layout.stages)
    chunks = Chunks(card, options.size, exact=not options.is_sequential)
    runs = chunks.of(data(card))
    if run is not record and batch:
        runs = agreeing(runs, lay_out(record, runnable(record, storage)[0], storage, host), layout, batch)
    if options.is_sequential:
        measured = sequential(layout.stages, runs, options.memory_limit, lambda at, done: watch(at, levels, done))
    else:
        measured = by_batches(layout.stages, runs, options.method == "pooled", lambda at, done: watch(at, 1, done))
    notes += untied(record, layout.norms)
    drifts = tuple(
        Drift.of(norm, measured.statistics[norm.output], measured.counts[norm.output]) for norm in layout.norms
    )
    write_statistics(record, layout.norms, measured.statistics, storage)
    size = None if options.is_sequential else chunks.size
    words = _notes(notes, layout, chunks, host)
    return Recalibration(record, options.method, size, chunks.samples, drifts, words, options.provider)


def check(
    model: Model,
    batches: Iterable[Any],
    *,
    threshold: float = Options.threshold,
    batch_size: int | None = None,
    provider: str = Options.provider,
    watch: Watch = lambda level, levels, done: None,
) -> Check:
    """Whether the statistics that a model stores fit `batches`, by running it as it is. See `recalibrate`."""
    options = Options(batch_size=batch_size, threshold=threshold, provider=provider)
    host = Host.ready(options.way)
    where = models.path_or_proto(model)
    storage = Storage(where.parent if isinstance(where, Path) else None)
    return check_record(onnx_io.load(where), storage, lambda card: from_batches(batches, card), options, host, watch)


def check_record(
    record: onnx.ModelProto, storage: Storage, data: Data, options: Options, host: Host, watch: Watch
) -> Check:
    """`check` on data that are brought to what the model takes."""
    require_runtime("the check of statistics")
    run, notes = runnable(record, storage)
    layout, card = lay_out(record, run, storage, host), Card.of(run)
    chunks = Chunks(card, options.size)
    samples = {norm.output: Sample(norm) for norm in layout.norms}
    stored = {norm.output: norm.stored for norm in layout.norms}
    for done, env in enumerate(chunks.of(data(card)), 1):
        rows = max((len(env[value.name]) for value in caller_inputs(run.graph) if env[value.name].ndim), default=1)
        for stage in layout.stages:
            env = stage.run(env, stored)
            for norm in stage.norms:
                samples[norm.output].see(env[norm.source], rows)
            env = stage.left(env)
        watch(0, 1, done)
    fits = tuple(sample.fit(options.threshold) for sample in samples.values())
    words = _notes(notes, layout, chunks, host)
    return Check(options.threshold, chunks.samples, fits, words, options.provider)


def _notes(notes: list[str], layout: Layout, chunks: Chunks, host: Host) -> tuple[str, ...]:
    rest = [f"{chunks.rest} samples, less than a batch, were left out"] * bool(chunks.rest)
    return (*notes, *layout.notes, *rest, *host.notes())
