"""What differs in the file of B apart from what it computes, in groups, the worst first.

None of it changes a number. Runtimes check operator sets and versions, people and deployments read metadata and
documentation, tools look nodes up by name: so all of it is reported, and fails where a model is to be left untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter

import onnx

from .results import Change
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


def file_changes(
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
