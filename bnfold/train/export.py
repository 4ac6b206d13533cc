"""From a finished run to an ONNX file in which every BatchNormalization is still a node."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..errors import CheckFailed, ModelProblem, UsageProblem
from ..system.files import require_target
from ..system.installed import need, require_runtime
from ..system.staging import staged

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from .runs import Checkpoint, Config

OLDEST_OPSET = 18  # PyTorch has no implementations below
TOLERANCE = {"float32": 1e-5, "float16": 1e-2}  # of the largest output, or of 1 if that is smaller


@dataclass(frozen=True)
class ExportResult:
    """A file that was written; `worst_error` is its largest difference to PyTorch in float64."""

    path: Path
    run: Path
    opset: int
    dtype: str
    batch_norms: int
    nodes: int
    bytes: int
    worst_error: float


def export(run: Path | None, out: Path, opset: int = 20, dtype: str = "float32", force: bool = False) -> ExportResult:
    """Write the finished `run` (None: the newest under runs/) to `out`, for batches of any size.

    Class names, input normalization and the training record go into the metadata. The file is checked and compared
    with PyTorch before it appears; if anything is wrong nothing is written. Raises UsageProblem for an opset or
    dtype that is not supported or an `out` that exists, ModelProblem for a run that cannot be read.
    """
    _check_request(out, opset, dtype, force)
    need("torch", "onnxscript", what="an export")
    require_runtime("the comparison of the exported file with PyTorch")
    from . import runs

    run = runs.newest() if run is None else run.parent if os.path.isfile(run) else run
    config, checkpoint = runs.read_config(run), runs.load_checkpoint(run)
    model = _network(run, config, checkpoint)
    proto = _proto(model, config, checkpoint, opset, dtype)
    with staged(out, replace=force) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        worst = _worst_error(model, config, temporary, dtype)
    kinds = [node.op_type for node in proto.graph.node]
    batch_norms = kinds.count("BatchNormalization")
    return ExportResult(out, run, opset, dtype, batch_norms, len(kinds), out.stat().st_size, worst)


def _check_request(out: Path, opset: int, dtype: str, force: bool) -> None:
    if dtype not in TOLERANCE:
        raise UsageProblem(f"unknown dtype {dtype!r}", f"Use {' or '.join(TOLERANCE)}.")
    if opset < OLDEST_OPSET:
        raise _no_opset(opset)
    require_target(out)
    if os.path.isdir(out):
        raise UsageProblem(f"{out} is a folder", "Name the file to write, such as model.onnx.")
    if not os.path.isdir(out.parent):
        raise UsageProblem(f"there is no folder {out.parent}", "Make it first, or choose another place.")
    if os.path.lexists(out) and not force:
        raise UsageProblem(f"{out} exists", "--force replaces it.")


def _no_opset(opset: int) -> UsageProblem:
    return UsageProblem(
        f"PyTorch cannot export opset {opset}: it is too {'old' if opset < OLDEST_OPSET else 'new'}",
        f"--opset {OLDEST_OPSET} is the oldest, 20 the default.",
    )


def _network(run: Path, config: Config, checkpoint: Checkpoint) -> nn.Module:
    """The trained network with its population statistics, ready for inference."""
    from .session import network

    if not checkpoint.scores:
        raise ModelProblem(
            f"{run} is not finished", f"`bnfold train --resume --out {quote(str(run))}` goes on with it."
        )
    model = network(config, checkpoint.model | checkpoint.statistics, run)
    _check_finite(model, f"{run} holds NaN or infinity in", "Train again with a lower --lr.")
    return model.eval()


def _check_finite(model: nn.Module, problem: str, hint: str) -> None:
    for name, values in model.state_dict().items():
        if not bool(values.isfinite().all()):
            raise ModelProblem(f"{problem} {name}", hint)


def _proto(model: nn.Module, config: Config, checkpoint: Checkpoint, opset: int, dtype: str) -> onnx.ModelProto:
    from . import to_onnx

    cast = to_onnx.in_dtype(model, dtype)
    _check_finite(cast, f"{dtype} cannot hold", "Use --dtype float32.")
    proto = to_onnx.converted(cast, config.shape, opset, metadata(config, checkpoint))
    if any(entry.version != opset for entry in proto.opset_import if entry.domain == ""):
        raise _no_opset(opset)
    _check_batch_norms(model, proto)
    return proto


def _check_batch_norms(model: nn.Module, proto: onnx.ModelProto) -> None:
    from .norms import tracked_norms

    expected, exported = (
        len(tracked_norms(model)),
        sum(node.op_type == "BatchNormalization" for node in proto.graph.node),
    )
    if expected != exported:
        raise CheckFailed(
            f"PyTorch exported {exported} of {expected} BatchNormalization", "This is a defect: report it."
        )


def metadata(config: Config, checkpoint: Checkpoint) -> dict[str, str]:
    """What a deployer needs to know, as JSON under names that start with bnfold; no path of this machine."""
    from importlib.metadata import version

    from .. import __version__

    settings: dict[str, Any] = asdict(config.settings)
    kind, _, place = config.settings.data.partition(":")
    del settings["data_dir"], settings["epochs"]
    record = (
        settings
        | checkpoint.scores
        | {
            "data": f"{kind}:{Path(place).name}" if place else kind,
            "arch": Path(config.settings.arch).name,
            "steps": checkpoint.step,
            "train_images": config.train_images,
            "test_images": config.test_images,
            "statistics": checkpoint.taken,
            "versions": {"bnfold": __version__, "torch": version("torch")},
        }
    )
    return {
        "bnfold.classes": json.dumps(config.classes),
        "bnfold.normalization": config.normalization.to_json(),
        "bnfold.training": json.dumps(record),
    }


def _worst_error(model: nn.Module, config: Config, path: Path, dtype: str) -> float:
    """The largest difference to PyTorch; CheckFailed if it is too large or the file is not valid."""
    from .to_onnx import worst_difference

    error, largest = worst_difference(model, path, config.shape, dtype)
    if not error <= TOLERANCE[dtype] * max(1.0, largest):
        raise CheckFailed(
            f"the exported file differs from PyTorch by {error:.3g} on outputs up to {largest:.3g}",
            "Use --dtype float32." if dtype != "float32" else "This is a defect: report it.",
        )
    return error
