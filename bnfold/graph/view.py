"""The onnx-graphsurgeon graph over a ModelProto: who makes and who reads each tensor, and with what shape."""

from __future__ import annotations

import math
from contextlib import suppress

import onnx_graphsurgeon as gs
from onnx import ModelProto, SparseTensorProto, TensorProto, TypeProto
from onnx_graphsurgeon.logger import G_LOGGER

from ..errors import ModelProblem
from ..model.messages import bodies, inner_graphs
from ..model.order import sort_nodes
from ..process.native import Failed, guarded
from .importing import graph_of
from .inference import inferred
from .shadows import declare, restore, unshadowed
from .shapes import STUB_ABOVE, adopt_shapes, stating, unseen
from .symbols import complete, drop_stated_names


def import_view(bare: ModelProto) -> gs.Graph:
    """The view of a `skeleton`, to which inferred shapes are added. Raises ModelProblem if the graph cannot be read."""
    names = unshadowed(bare)
    whole = states_shapes(bare)
    drop_stated_names(bare)
    if not whole:
        with suppress(Failed):  # stated shapes must do, then
            bare.ParseFromString(guarded("shape inference", lambda: inferred(bare)))
    declare(bare)
    view = imported(bare)
    values = unseen(view)
    if values:
        with suppress(Failed):
            stated = stating(bare, values)
            adopt_shapes(bare, ModelProto.FromString(guarded("shape inference", lambda: inferred(stated))))
            view = imported(bare)
    complete(view)
    for graph in [view, *view.functions] if names else ():
        restore(graph, names)
    return view


def imported(bare: ModelProto) -> gs.Graph:
    """The view of a model whose names mean one tensor each."""
    severity = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        return graph_of(bare)
    except Exception as problem:
        raise ModelProblem(
            f"the graph cannot be read: {type(problem).__name__}: {problem}",
            "Check the file with onnx.checker.check_model.",
        ) from problem
    finally:
        G_LOGGER.severity = severity


def states_shapes(model: ModelProto) -> bool:
    """Whether the file gives every tensor that a node makes an element type and each of its axes a length or a name."""
    if model.functions or any(any(bodies(node)) for node in model.graph.node):
        return False
    known = {value.name for value in [*model.graph.value_info, *model.graph.output] if is_whole(value.type.tensor_type)}
    return known.issuperset(name for node in model.graph.node for name in node.output if name)


def is_whole(kind: TypeProto.Tensor) -> bool:
    named = (dim.WhichOneof("value") for dim in kind.shape.dim)
    return kind.elem_type != TensorProto.UNDEFINED and kind.HasField("shape") and all(named)


def overridable(record: ModelProto, freeze: bool) -> tuple[set[str], list[str]]:
    """Initializers that a caller may replace, because they are also inputs of the graph; and a note about such.

    Up to IR version 3 the format forces every initializer into the inputs, and exporters kept the habit after it; so
    where all of them are listed, it says nothing about the caller.
    """
    stored = {t.name for t in record.graph.initializer}
    listed = stored & {i.name for i in record.graph.input}
    if not listed:
        return set(), []
    if freeze or record.ir_version < 4 or listed == stored:
        why = "by --freeze-initializers" if freeze else "the file lists every initializer as an input"
        return set(), [f"{len(listed)} initializers that are also inputs count as constants ({why})"]
    return listed, [f"callers may override {len(listed)} initializers (--freeze-initializers: are constants)"]


def skeleton(record: ModelProto, overridable: set[str]) -> ModelProto:
    """A sorted copy of the model in which large tensors, and sparse ones, have a type and a shape but no values.

    Initializers that a caller may override are left out: what they are is only known by the input of their name.
    """
    bare = ModelProto(ir_version=record.ir_version, opset_import=record.opset_import, functions=record.functions)
    source = record.graph
    bare.graph.name = source.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(bare.graph, field).extend(getattr(source, field))
    bare.graph.initializer.extend(stub(t) for t in source.initializer if t.name not in overridable)
    sort_nodes(bare)
    for graph in (bare.graph, *inner_graphs(bare.graph.node)):
        graph.initializer.extend(map(dense_stub, graph.sparse_initializer))
        del graph.sparse_initializer[:]
    return bare


def stub(tensor: TensorProto) -> TensorProto:
    if math.prod(tensor.dims) <= STUB_ABOVE and tensor.data_location != TensorProto.EXTERNAL:
        return tensor
    return TensorProto(
        name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL
    )


def dense_stub(sparse: SparseTensorProto) -> TensorProto:
    """What the readers of a sparse initializer see: a dense tensor. Shape inference knows no operator for others."""
    kind = sparse.values.data_type
    return TensorProto(name=sparse.values.name, dims=sparse.dims, data_type=kind, data_location=TensorProto.EXTERNAL)
