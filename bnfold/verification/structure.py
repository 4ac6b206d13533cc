"""The structure tier, run in a child: is the folded model still the same model to everything around it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..errors import first_line
from ..model import datafiles
from ..model.messages import counts
from ..process.child import stage
from ..runtime import detached
from ..runtime.loading import load
from ..runtime.protos import caller_inputs
from .untouched import Messages

STAMP = "bnfold"  # the one metadata key a fold may add


@datafiles.unchanged()
def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the interfaces of two models (paths) and check both; `problems` fail, `notes` inform.

    Same inputs and outputs (names, order, types, dimensions), operator sets, IR version, metadata and doc strings;
    every message outside the fold sites (`declared`, or whatever nodes differ) the same to the last byte; external data
    at its place; every name defined once; onnx's checker, which the folded model must pass if the original does.
    """
    stage("reading the models")
    original, folded = (load(request[name], request.get("outside", False)) for name in ("original", "folded"))
    problems = [*_interface(original, folded), *_identity(original, folded), *_names(original, folded)]
    messages = Messages(original, folded)
    problems += messages.unasked(request.get("declared"))
    notes = _overridable(original, folded)
    before = _checked("the original", original, request["original"])
    after = _checked("the folded model", folded, request["folded"])
    datafiles.require_unchanged()
    if after and not before:
        problems.append(f"onnx.checker accepts the original but not the folded model: {after}")
    elif before:
        notes.append(f"onnx.checker rejects the original already: {before}")
    facts: dict[str, Any] = {"original": _facts(original), "folded": _facts(folded), "identical": original == folded}
    facts["untouched"], facts["edited"] = messages.count()
    return {"problems": problems, "notes": notes, **facts}


def _facts(model: onnx.ModelProto) -> dict[str, int]:
    return dict(zip(("nodes", "batch_normalization"), counts(model), strict=True))


def _interface(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    sides = (
        ("inputs", caller_inputs(original.graph), caller_inputs(folded.graph)),
        ("outputs", list(original.graph.output), list(folded.graph.output)),
    )
    for what, old, new in sides:
        if [v.name for v in old] != [v.name for v in new]:
            yield f"the {what} changed from {_list(old)} to {_list(new)}"
            continue
        for before, after in zip(old, new, strict=True):
            if before.type != after.type:
                yield f"{what[:-1]} {before.name!r} changed from {_type(before)} to {_type(after)}"


def _list(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values) or "none"


def _type(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ",".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type)}[{dims}]"


def _identity(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """What names and versions the model."""
    if _versions(original) != _versions(folded):
        yield f"the operator sets changed from {_versions(original)} to {_versions(folded)}"
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(original, field) != getattr(folded, field):
            yield f"{field} changed from {getattr(original, field)!r} to {getattr(folded, field)!r}"
    before, after = _metadata(original), _metadata(folded)
    lost = [key for key, value in before.items() if after.get(key) != value]
    new = [key for key in after if key not in before and key != STAMP]
    if lost or new:
        yield f"metadata changed: {', '.join(lost + new)}"


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props if entry.key != STAMP}


def _names(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """Names defined twice in the folded model that were not so before."""
    already = _repeated(original)
    for name in sorted(_repeated(folded) - already):
        yield f"the name {name!r} is defined more than once"


def _repeated(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    counts = Counter(tensor.name for tensor in graph.initializer)
    counts.update(name for node in graph.node for name in node.output if name)
    counts.update(value.name for value in caller_inputs(graph))
    return {name for name, count in counts.items() if count > 1}


def _overridable(original: onnx.ModelProto, folded: onnx.ModelProto) -> list[str]:
    """From IR version 4 on, an initializer that is also an input may be overridden by a caller."""
    if original.ir_version < 4:
        return []
    kept = {value.name for value in folded.graph.input}
    stored = {tensor.name for tensor in original.graph.initializer}
    gone = [v.name for v in original.graph.input if v.name in stored and v.name not in kept]
    return [f"callers can no longer override {len(gone)} initializers: {', '.join(gone[:4])}"] if gone else []


def _checked(label: str, model: onnx.ModelProto, path: str) -> str:
    """What onnx's checker has against a model, in one line; nothing if it passes."""
    stage(f"onnx.checker, on {label},")
    with TemporaryDirectory(prefix="bnfold-") as folder:
        try:
            onnx.checker.check_model(detached.without_data(model, folder) or path, full_check=True)
        except Exception as why:  # the checker raises errors of several unrelated classes
            return first_line(why)
    return ""
