"""From the answers of launches to the cells of a benchmark and its notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from ..runtime.sessions import CPU
from .results import Block, Cell, medians
from .runner import MODELS
from .settings import Setting
from .statistics import UNTRUSTED, judged, speedup, times

BUSY = 0.5  # load per processor, before we start, above which a note is due
NOTED_DIFFERENCE = 0.05  # of outputs, relative to the largest: beyond, models may not compute the same
THROTTLED = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")


def cell(setting: Setting, answers: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], margin: float) -> Cell:
    """The cell of one setting, from the answer of each launch."""
    ratios, controls = (tuple(entry[key] for entry in answers) for key in ("log_ratio", "log_control"))
    runs = {name: [t for entry in answers for block in entry["blocks"][name] for t in block] for name in MODELS}
    left = facts["batch_normalization" if setting.level == "off" else "left_by_onnxruntime"]
    submitted = [entry["enqueue_ms"] for entry in answers if None not in entry["enqueue_ms"]]
    return Cell(
        setting,
        ms=medians([[_middle_ms(entry["blocks"][name]) for name in MODELS] for entry in answers]),
        speedup=speedup(ratios),
        control=speedup(controls),
        verdict=judged(ratios, controls, margin),
        log_ratios=ratios,
        log_controls=controls,
        times=(times(runs["original"]), times(runs["folded"])),
        create_ms=medians([entry["create_ms"] for entry in answers]),
        first_run_ms=medians([entry["first_run_ms"] for entry in answers]),
        enqueue_ms=medians(submitted) if submitted else None,
        left=(left["original"], left["folded"]),
        placed=(answers[0]["placed"][0], answers[0]["placed"][1]),
        difference=_worst([entry["difference"] for entry in answers]),
    )


def _worst(differences: Sequence[float | None]) -> float | None:
    numbers = [each for each in differences if each is not None]
    return max(numbers) if len(numbers) == len(differences) else None


def _middle_ms(blocks: Sequence[Sequence[float]]) -> float:
    return 1e3 * median(t for block in blocks for t in block)


def all_blocks(settings: Sequence[Setting], answers: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Block, ...]:
    """The timed blocks of all launches."""
    return tuple(
        Block(number, setting, name, tuple(runs))
        for number, launch in enumerate(answers)
        for setting, entry in zip(settings, launch, strict=True)
        for name, timed in entry["blocks"].items()
        for runs in timed
    )


def notes(around: Mapping[str, Any], precisions: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[str, ...]:
    """Notes that a reader of the figures should know."""
    return tuple([*_busy(around), *_models(precisions), *_throttled(around), *_judged(cells)])


def _busy(around: Mapping[str, Any]) -> Iterator[str]:
    load = around["load_average"]
    if load and load[0] / around["processors_usable"] > BUSY:
        yield f"the machine was busy before the timing began (load {load[0]:.1f}): expect a wide interval"


def _models(precisions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, facts in precisions.items():
        yield from facts["notes"]
        if facts["same_graph"]:
            where = f" in {name}" if name else ""
            yield (
                f"after onnxruntime's own level-1 rewrites both models are the same graph{where}: "
                "expect 1.00x by default"
            )


def _throttled(around: Mapping[str, Any]) -> Iterator[str]:
    seen = {
        reason
        for key in ("gpus", "gpus_timing", "gpus_after")
        for gpu in around.get(key, ())
        for reason in gpu["clocks_event_reasons"]
    }
    reasons = [reason for reason in THROTTLED if reason in seen]
    if reasons:
        yield f"the GPU was throttled ({', '.join(reasons)}): `nvidia-smi -lgc` would fix its clocks"


def _judged(cells: Sequence[Cell]) -> Iterator[str]:
    for each in cells:
        words = each.setting.words()
        if each.verdict == UNTRUSTED:
            yield f"{words}: the original does not measure like itself; do nothing else meanwhile, or give more time"
        if "LAUNCH_BOUND" in each.flags:
            yield f"{words}: submission takes most of the time; a CUDA graph or a larger batch would show the device"
        if each.setting.way.gpu and any(CPU in counts for counts in each.placed):
            yield f"{words}: some nodes sit on the CPU; `bnfold verify` says which"
        if each.difference is None or each.difference > NOTED_DIFFERENCE:
            unknown = "cannot be compared: they are not finite, or of other names or shapes"
            how = unknown if each.difference is None else f"are {each.difference:.2g} of the largest apart"
            yield f"{words}: the outputs of the models {how}; `bnfold verify` separates rounding from faults"
