"""The fold as a pass of onnx_ir, to stand in a PassManager next to those of onnxscript. Needs the package onnx-ir.

ir.passes.PassManager([FoldBatchNormalization(), onnx_ir.passes.common.RemoveUnusedNodesPass()])(model)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from .folding.proved import fold
from .folding.result import FoldResult
from .model.onnx_io import load
from .system.installed import install_command

try:
    import onnx_ir as ir
except ImportError as why:
    raise ImportError(f"bnfold.passes needs the package onnx_ir ({why}): {install_command('ir')}") from why


class FoldBatchNormalization(ir.passes.InPlacePass):
    """Fold every affine node that has a home among the constants of a model, and prove that nothing else changed.

    The model stays the object that it was. Where a node folds its graph is a new one, in which initializers that did
    not change are the tensors that they were (of torch, lazy, in a file), and nodes and values have their `meta`.
    `results` has the FoldResult of each run: what was folded, what was kept and why, and the verification. Options are
    those of `bnfold.fold`: initializers that are also graph inputs are not touched, unless `freeze_initializers`, and
    nothing is proved with `verify` False. Functions that have a BatchNormalization are inlined.

    Raises what `bnfold.fold` does, and then the model is as it was. A PassManager wraps it in a PassError, whose
    `__cause__` it is.
    """

    def __init__(self, *, freeze_initializers: bool = False, verify: bool = True) -> None:
        super().__init__()
        self.freeze_initializers = freeze_initializers
        self.verify = verify
        self.results: list[FoldResult] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold the model in place; `modified` says whether anything was."""
        record = load(model)
        result = fold(record, freeze_initializers=self.freeze_initializers, verify=self.verify)
        self.results.append(result)
        modified = result.model != record
        if modified:
            _become(model, ir.serde.deserialize_model(result.model))
        return ir.passes.PassResult(model, modified)


def _become(model: ir.Model, folded: ir.Model) -> None:
    """Give a model the contents of its folded version, with its own objects wherever they say the same."""
    _keep_tensors(model.graph, folded.graph)
    _keep_meta(model.graph, folded.graph)
    functions = {key: _same(model.functions.get(key), function) for key, function in folded.functions.items()}
    model.functions.clear()
    model.functions.update(functions)
    model.graph = folded.graph
    model.ir_version = folded.ir_version


def _keep_tensors(before: ir.Graph, after: ir.Graph) -> None:
    for name, value in after.initializers.items():
        if name in before.initializers and _equal(old := before.initializers[name].const_value, value.const_value):
            value.const_value = old


def _equal(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    if one is None or other is None:
        return False
    alike = one.dtype == other.dtype != ir.DataType.STRING and one.shape == other.shape
    return alike and one.tobytes() == other.tobytes()


def _keep_meta(before: ir.Graph, after: ir.Graph) -> None:
    """What passes have noted, which no file has, stays with whatever has the name that it had, if only one had it."""
    after.meta.update(before.meta)
    for items in (ir.Graph.__iter__, _values):
        named = Counter(item.name for item in items(before))
        noted = {item.name: item.meta for item in items(before) if item.name and named[item.name] == 1}
        for item in items(after):
            item.meta.update(noted.get(item.name or "", {}))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    stored = (value for value in graph.initializers.values() if value not in graph.inputs)
    made = (value for node in graph for value in node.outputs)
    return chain(graph.inputs, stored, made)


def _same(before: ir.Function | None, after: ir.Function) -> ir.Function:
    """The function before, where it says the same."""
    if before is not None and ir.serde.serialize_function(before) == ir.serde.serialize_function(after):
        return before
    return after
