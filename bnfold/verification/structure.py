"""The structure tier, run in a child: is B valid, is its interface A's, and what else differs in the file?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import helper

from ..errors import first_line
from ..model import datafiles
from ..model.messages import all_nodes, counts
from ..model.order import sort_nodes
from ..process.child import stage
from ..runtime import detached
from ..runtime.copies import is_random
from ..runtime.protos import caller_inputs
from .file_changes import file_changes
from .interface import differences
from .untouched import Messages


@datafiles.unchanged()
def structure_report(request: Mapping[str, Any], models: Sequence[onnx.ModelProto]) -> dict[str, Any]:
    """Compare two models, read from the paths of the request, without running them: the fields of `Structure`.

    `problems` are why B fails: a name that is defined twice, onnx's checker rejects B but not A, or another interface
    (see `interface`). `notes` inform. What else differs in the file are `changes`, in groups, the worst first. Where
    the request says `untouched`, they are problems as well: every message outside the fold sites (`declared`, or all
    nodes that differ) has to be the same to the last byte.
    """
    original, folded = models
    messages, frozen = Messages(original, folded), request.get("frozen", False)
    changes = file_changes(original, folded, messages, request.get("declared"))
    facts: dict[str, Any] = {"original": _facts(original), "folded": _facts(folded), "identical": original == folded}
    before = _checked("the original", request["original"], original)
    after = _checked("the folded model", request["folded"], folded)
    datafiles.require_unchanged()
    problems, notes = [*_names(original, folded), *_random(original, folded)], []
    if after and not before:
        problems.insert(0, f"onnx.checker accepts the original but not the folded model: {after}")
    elif before:
        notes.append(f"onnx.checker rejects the original already: {before}")
    problems += differences(original, folded, frozen)
    problems += (f"not untouched: {change.in_a_line()}" for change in changes if request.get("untouched"))
    facts["untouched"], facts["edited"] = messages.count()
    return {"problems": problems, "notes": notes, "changes": [*map(asdict, changes)], **facts}


def _facts(model: onnx.ModelProto) -> dict[str, int]:
    return dict(zip(("nodes", "batch_normalization"), counts(model), strict=True))


def _names(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """A sentence for each name that is defined twice in the folded model alone."""
    already = _repeated(original)
    for name in sorted(_repeated(folded) - already):
        yield f"the name {name!r} is defined more than once"


def _random(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """A sentence if random operators draw from other distributions, which no run shows: they are replaced in those."""
    drawn = [Counter(_draws(node) for node in all_nodes(model) if is_random(node)) for model in (original, folded)]
    if drawn[0] != drawn[1]:
        yield f"what random operators draw changed from {_listed(drawn[0])} to {_listed(drawn[1])}"


def _draws(node: onnx.NodeProto) -> str:
    """`RandomNormal (mean 0.0, scale 1.0)`: the operator and all attributes but seed and dtype."""
    known = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in ("seed", "dtype")}
    stated = {"mean": 0.0, "scale": 1.0} if "Normal" in node.op_type else {"low": 0.0, "high": 1.0}
    return f"{node.op_type} ({', '.join(f'{name} {value}' for name, value in sorted((stated | known).items()))})"


def _listed(drawn: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(drawn.items())) or "none"


def _repeated(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    counts = Counter(tensor.name for tensor in graph.initializer)
    counts.update(name for node in graph.node for name in node.output if name)
    counts.update(value.name for value in caller_inputs(graph))
    return {name for name, count in counts.items() if count > 1}


def _checked(label: str, path: str, model: onnx.ModelProto) -> str:
    """The first line of the error of onnx's checker on a model, its nodes sorted; "" if it passes."""
    stage(f"onnx.checker, on {label},")
    with TemporaryDirectory(prefix="bnfold-") as folder:
        moved = sort_nodes(model)
        skeleton = detached.file_without_data(model, folder)
        try:
            onnx.checker.check_model(skeleton or (model if moved else path), full_check=True)
        except Exception as why:  # the checker raises errors of several unrelated classes
            return first_line(why)
    return ""
