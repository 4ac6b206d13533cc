"""The structure tier, run in a child: is B valid, is its interface A's, and what else differs in the file?

What else differs changes no number. But runtimes check operator sets and versions, people and deployments read metadata
and documentation, tools look nodes up by name: so all of it is reported, and fails where a model is to be untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
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
from ..runtime.protos import caller_inputs
from ..runtime.randomness import is_random
from .interface import differences
from .results import Change, Structure
from .untouched import Messages

STAMP = "bnfold"  # the one metadata key a fold may add
ORDER = (  # the worst first
    *("node", "function", "training_info", "operator sets", "version", "metadata", "quantization_annotation"),
    *("initializer", "sparse_initializer", "value_info", "documentation", "graph", "order"),
)
GROUP_NAMES = {  # of kinds of messages, where the kind itself is no plain name
    "node": "nodes",
    "function": "functions",
    "training_info": "training",
    "quantization_annotation": "quantization annotations",
    "initializer": "initializers",
    "sparse_initializer": "initializers",
    "value_info": "shapes of tensors",
    "graph": "the graph's name and documentation",
    "order": "order of the nodes",
}


@datafiles.unchanged()
def structure_report(request: Mapping[str, Any], models: Sequence[onnx.ModelProto]) -> dict[str, Any]:
    """Compare two models, read from the paths of the request, without running them: a `Structure`, as plain data.

    `problems` are why B fails: a name that is defined twice, onnx's checker rejects B but not A, or another interface
    (see `interface`). `notes` inform. What else differs in the file are `changes`, in groups, the worst first. Where
    the request says `untouched`, they are problems as well: every message outside the fold sites (`declared`, or all
    nodes that differ) has to be the same to the last byte.
    """
    original, folded = models
    messages, identical = Messages(original, folded), original == folded
    changes = _file_changes(original, folded, messages, request.get("declared"))
    facts = _facts(original), _facts(folded)
    before = _checked("the original", request["original"], original)
    after = _checked("the folded model", request["folded"], folded)
    datafiles.require_unchanged()
    problems, notes = [*_names(original, folded), *_random(original, folded)], list[str]()
    if after and not before:
        problems.insert(0, f"onnx.checker accepts the original but not the folded model: {after}")
    elif before:
        notes.append(f"onnx.checker rejects the original already: {before}")
    problems += differences(original, folded, request.get("frozen", False))
    problems += (f"not untouched: {change.in_a_line()}" for change in changes if request.get("untouched"))
    return asdict(Structure(tuple(problems), tuple(notes), tuple(changes), identical, *messages.count(), *facts))


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
    usual = {"RandomNormal": {"mean": 0.0, "scale": 1.0}, "RandomUniform": {"low": 0.0, "high": 1.0}}
    known = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in ("seed", "dtype")}
    stated: dict[str, Any] = usual.get(node.op_type.removesuffix("Like"), {})
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


def _file_changes(
    original: onnx.ModelProto, folded: onnx.ModelProto, messages: Messages, declared: Collection[str] | None
) -> list[Change]:
    """Every change outside the fold sites (`declared`, or all nodes that differ)."""
    changes = [*_identity(original, folded), *messages.undeclared(declared)]
    changes.sort(key=lambda change: ORDER.index(change[0]))
    groups = groupby(((GROUP_NAMES.get(kind, kind), words) for kind, words in changes), itemgetter(0))
    return [Change.of(kind, [words for _, words in group]) for kind, group in groups]


def _identity(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Changes of versions, producer, domain, documentation and metadata of the model: the kind, and a sentence."""
    before, after = _operator_sets(original), _operator_sets(folded)
    for domain in sorted(before.keys() | after.keys()):
        if before.get(domain) != after.get(domain):
            old, new = (str(each.get(domain, "none")) for each in (before, after))
            yield "operator sets", f"the operator set {domain} changed from {old} to {new}"
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(original, field) != getattr(folded, field):
            kind = "documentation" if field == "doc_string" else "version"
            yield kind, f"{field} changed from {getattr(original, field)!r} to {getattr(folded, field)!r}"
    yield from (("metadata", words) for words in _metadata(original, folded))


def _operator_sets(model: onnx.ModelProto) -> dict[str, int]:
    """The versions of the operator sets of a model, by domain."""
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def _metadata(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    pairs = ({entry.key: entry.value for entry in model.metadata_props} for model in (original, folded))
    before, after = ({key: value for key, value in pair.items() if key != STAMP} for pair in pairs)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            how = "is new" if key not in before else "changed" if key in after else "is gone"
            yield f"metadata {key!r} {how}"
