"""What a fold has no business with must be the very messages that were read, down to the last byte."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx

from .protos import called, every_node, subgraphs

Digests = dict[tuple[str, str], list[bytes]]  # by kind of message and name, in the order of the file
FIELDS = {"initializer": "name", "value_info": "name", "quantization_annotation": "tensor_name"}


class Messages:
    """The messages of two models, each read once."""

    def __init__(self, original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
        self.original, self.folded = original, folded
        self.before, self.after = digests(original), digests(folded)
        self.different = {key for key, found in self.after.items() if not _are_among(found, self.before.get(key, []))}

    def unasked(self, declared: Collection[str] | None) -> Iterator[str]:
        """Sentences about what changed beside the fold sites.

        `declared` are the sites, as the first outputs of their nodes; without it whatever node differs, or reads a
        constant that does, counts as one.
        """
        allowed = _about(self.folded, _sites(self.folded, self.different) if declared is None else declared)
        for kind, name in sorted(self.different):
            if name not in allowed:
                yield f"{kind} {name!r} changed, though it belongs to no fold site"
        used, left = _mentioned(self.original), _mentioned(self.folded)
        for kind, name in sorted(self.before.keys() - self.after.keys()):
            if kind != "node" and (name in left or name not in used):
                yield f"{kind} {name!r} is gone"
        yield from _labels(self.original, self.folded)

    def count(self) -> tuple[int, int]:
        """How many messages of the folded model are the original's, and how many are not."""
        return len(self.after) - len(self.different), len(self.different)


def _are_among(found: Iterable[bytes], before: Iterable[bytes]) -> bool:
    """Whether all are there, in this order; of graphs that use one name for what is theirs, some may have lost it."""
    following = iter(before)
    return all(digest in following for digest in found)


def digests(model: onnx.ModelProto) -> Digests:
    """Every message of a model about something that has a name; nodes without the graphs that are nested in them."""
    found: Digests = {}
    for kind, name, message in _every(model):
        digest = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        found.setdefault((kind, name), []).append(digest)
    return found


def _every(model: onnx.ModelProto) -> Iterator[tuple[str, str, Any]]:
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield "function", called_as(function), _bare(function, "node")
        yield from _in_nodes(function.node)
    for number, training in enumerate(model.training_info):
        yield "training_info", str(number), training


def called_as(function: onnx.FunctionProto) -> str:
    """What nodes that call a function are called."""
    return called(onnx.NodeProto(domain=function.domain, op_type=function.name))


def _in_graph(graph: onnx.GraphProto) -> Iterator[tuple[str, str, Any]]:
    yield "graph", graph.name, onnx.GraphProto(doc_string=graph.doc_string, metadata_props=graph.metadata_props)
    yield from _in_nodes(graph.node)
    for field, key in FIELDS.items():
        yield from ((field, getattr(message, key), message) for message in getattr(graph, field))
    yield from (("sparse_initializer", sparse.values.name, sparse) for sparse in graph.sparse_initializer)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str, Any]]:
    for node in nodes:
        inner = list(subgraphs(node))
        yield "node", _first(node), _without_graphs(node) if inner else node
        for graph in inner:
            yield from _in_graph(graph)


def _first(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _without_graphs(node: onnx.NodeProto) -> Any:
    bare = _bare(node, "attribute")
    for attribute in node.attribute:
        bare.attribute.append(_bare(attribute, "g", "graphs"))
    return bare


def _bare(message: Any, *fields: str) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    for field in fields:
        copy.ClearField(field)
    return copy


def _sites(model: onnx.ModelProto, different: Collection[tuple[str, str]]) -> set[str]:
    stored = {name for kind, name in different if kind in ("initializer", "sparse_initializer")}
    nodes = {_first(node) for node in every_node(model) if not stored.isdisjoint(node.input)}
    return nodes | {name for kind, name in different if kind == "node"}


def _about(model: onnx.ModelProto, declared: Collection[str]) -> set[str]:
    """The names that fold sites may change: their own tensors and what they read."""
    sites = [node for node in every_node(model) if _first(node) in declared]
    return {*declared, *(name for node in sites for name in (*node.input, *node.output))}


def _mentioned(model: onnx.ModelProto) -> set[str]:
    """Names that nodes make or read, and names of operators."""
    return {name for node in every_node(model) for name in (*node.input, *node.output, called(node))}


def _labels(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[str]:
    """A node may be edited, but keeps its name, its documentation and its place among the others."""
    before, after = ({node.name: node for node in every_node(model) if node.name} for model in (original, folded))
    for name in sorted(before.keys() & after.keys()):
        old, new = (nodes[name] for nodes in (before, after))
        if (old.doc_string, *old.metadata_props) != (new.doc_string, *new.metadata_props):
            yield f"node {name!r} lost its documentation or metadata"
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield "the order of the nodes changed"
