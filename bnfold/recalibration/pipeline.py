"""`bnfold recalibrate` on files: OUT appears whole, or not at all; IN is never changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..display.display import counted
from ..errors import ModelProblem
from ..model import onnx_io
from ..model.datafiles import unchanged
from ..model.storage import Storage
from ..model.validity import require_valid
from ..runtime.host import Host
from ..system import staging
from .feeds.calibration import from_path
from .options import Options
from .recalibrating import Check, Data, Recalibration, Watch, check_record, in_place

LEAST_SAMPLES = 16  # samples whose statistics are written


@dataclass(frozen=True)
class Written:
    """A file that was written, and the result of the recalibration."""

    source: Path
    target: Path
    result: Recalibration

    def to_json(self) -> dict[str, Any]:
        return {**self.result.to_json(), "source": str(self.source), "target": str(self.target)}


def default_target(source: Path) -> Path:
    """m.onnx -> m.recalibrated.onnx"""
    return source.parent / f"{source.name.removesuffix('.onnx')}.recalibrated.onnx"


def recalibrate_file(
    source: Path, target: Path | None, data: Path, options: Options, force: bool, watch: Watch
) -> Written:
    """Write `source` with the statistics of `data` to `target` (default: NAME.recalibrated.onnx next to it)."""
    target = target or default_target(source)
    with unchanged():
        return _recalibrated(source, target, data, options, force, watch)


def _recalibrated(source: Path, target: Path, data: Path, options: Options, force: bool, watch: Watch) -> Written:
    host = Host.ready(options.way)
    record, storage = _read(source)
    onnx_io.require_free(record, source, target, force, *filter(os.path.exists, [data]))
    with staging.staged(target, replace=force) as draft:
        result = in_place(record, storage, _reader(data, options), options, host, watch)
        require_enough(result.samples, data)
        onnx_io.write(record, storage, draft)
    return Written(source, target, result)


def require_enough(samples: int, data: Path) -> None:
    """Raises ModelProblem for so few samples that by chance a mean is off by 1/4 of a standard deviation."""
    if samples < LEAST_SAMPLES:
        raise ModelProblem(
            f"{data} holds {counted(samples, 'sample')}, whose statistics are chance",
            f"Give at least {LEAST_SAMPLES}; some hundreds are usual.",
        )


def check_file(source: Path, data: Path, options: Options, watch: Watch) -> Check:
    """Whether the statistics of the model at `source` fit `data`; nothing is written."""
    host = Host.ready(options.way)
    return check_record(*_read(source), _reader(data, options), options, host, watch)


def _read(source: Path) -> tuple[onnx.ModelProto, Storage]:
    record, storage = onnx_io.detached(source)
    require_valid(record, source, storage)
    return record, storage


def _reader(data: Path, options: Options) -> Data:
    return lambda card: from_path(data, card.taking(options.images), options.any_range)
