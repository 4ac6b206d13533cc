"""Inline functions with a BatchNormalization: its constants may be arguments, which only the calls know."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import onnx

from ..process.native import Failed, guarded
from .messages import all_nodes, every_node, is_batch_norm


def holders(record: onnx.ModelProto) -> list[tuple[str, str]]:
    """Domain and name of the functions that are called, and have a BatchNormalization in their bodies."""
    holding = {(f.domain, f.name) for f in record.functions if any(map(is_batch_norm, every_node(f.node)))}
    return sorted(holding & {(node.domain, node.op_type) for node in all_nodes(record)}) if holding else []


def inlined(record: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which these functions stand at their calls, by onnx's own inliner; in nested functions as well.

    What is not valid, such as a function that calls itself, stays as it is.
    """
    with suppress(Failed):
        while names := holders(record):
            record = onnx.ModelProto.FromString(guarded("onnx's inliner", partial(_without, record, names)))
    return record


def _without(record: onnx.ModelProto, names: list[tuple[str, str]]) -> bytes:
    import onnx.inliner

    return bytes(onnx.inliner.inline_selected_functions(record, names).SerializeToString())
