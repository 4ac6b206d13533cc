"""Which models the rules may be applied to: valid by the checker of onnx, their types and shapes in agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import onnx
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from ..algebra.affine import Refused
from ..errors import BnfoldError, EnvironmentProblem, ModelProblem
from ..process.native import Failed, Stopped, guarded, start_guarded
from ..system.limits import MORE
from . import external
from .messages import all_nodes, all_tensors, bodies, inner_graphs
from .order import REPAIR, sort_nodes, topological
from .storage import Storage
from .tensors import DATA_FIELDS

LENGTH_CHECKED_FROM = (
    1 << 20
)  # bytes of data from which we, not onnx's checker, see whether a tensor holds as many as it should
UNLISTED, LIST_HINT = (  # what onnx's checker says of an initializer, and what to do about it
    "in initializer but not in graph input",
    "Up to IR version 3 initializers must be inputs, too: set ir_version to 4 with the onnx package, or export again.",
)
NOT_ONNX_HINT = "Give a binary ONNX file (.onnx), as torch.onnx.export or `bnfold export` writes it."


def require_known(model: ModelProto, name: object) -> None:
    """Refuse what is no model, or is of a format or operator set that the installed onnx package does not know."""
    if not model.HasField("graph") or not model.opset_import or model.ir_version < 1:
        raise ModelProblem(f"{name} is not an ONNX model", NOT_ONNX_HINT)
    _require_text(model, name)
    if model.ir_version > onnx.IR_VERSION:
        raise ModelProblem(
            f"{name} has IR version {model.ir_version}; onnx {onnx.__version__} knows those up to {onnx.IR_VERSION}",
            "Upgrade the onnx package, or export for an older version.",
        )
    newest = onnx.defs.onnx_opset_version()
    version, *others = {o.version: None for o in model.opset_import if o.domain in ("", "ai.onnx")} or {1: None}
    if others:
        raise ModelProblem(
            f"{name} imports ONNX's operators of opsets {version} and {others[0]}: which is meant is not said", REPAIR
        )
    if not 1 <= version <= newest:
        raise ModelProblem(
            f"{name} uses opset {version}; onnx {onnx.__version__} knows opsets 1 to {newest}",
            "Upgrade the onnx package, or export for an older opset.",
        )


def _require_text(model: ModelProto, name: object) -> None:
    """Refuse a name that is not UTF-8: protobuf returns it as bytes instead of text."""
    if bytes in map(type, _words(model)):
        wrong = next(word for word in _words(model) if isinstance(word, bytes))
        raise ModelProblem(f"{name} holds a name that is not UTF-8: {wrong[:40]!r}", "Is the file damaged?")


def _words(model: ModelProto) -> Iterator[str | bytes]:
    """The names of tensors, nodes, operators, attributes, functions and data files."""
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    yield from _values(model.graph)
    for node in all_nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for graph in bodies(node):
            yield from _values(graph)
    for tensor in all_tensors(model):
        yield from (tensor.name, *(word for entry in tensor.external_data for word in (entry.key, entry.value)))


def _values(graph: GraphProto) -> Iterator[str | bytes]:
    return (value.name for value in chain(graph.input, graph.output, graph.value_info))


def require_valid(record: ModelProto, name: object, storage: Storage | None = None) -> None:
    """Refuse what onnx's checker refuses, in its words; whether the data of large tensors is there we see ourselves.

    `name` is what the model is called, `storage` where its data lies, if not in memory. Raises ModelProblem.
    """
    with checked_meanwhile(record, name, storage):
        pass


@contextmanager
def checked_meanwhile(
    record: ModelProto, name: object, storage: Storage | None = None, outside: bool = False
) -> Iterator[None]:
    """`require_valid` of a model as it is now; while the checker of onnx works, the block may change the model.

    Where the checker refuses, its error is raised instead of one from the block. Data files may also lie `outside` the
    folder.
    """
    if storage is not None:
        external.require_data(record, storage, outside)
    answer = start_guarded("onnx's checker", lambda: onnx.checker.check_model(_bare(record)))
    try:
        require_acyclic(record)
        for tensor in all_tensors(record):  # the checker does not count bytes
            if tensor.HasField("raw_data") and not uses_external_data(tensor):
                external.require_length(tensor, len(tensor.raw_data))
        yield
    except BaseException as problem:
        _refuse(name, partial(answer, wanted=isinstance(problem, Exception)))
        raise
    _refuse(name, answer)


def _refuse(name: object, answer: Callable[[], bytes]) -> None:
    """Raises ModelProblem where the answer of onnx's checker is no, EnvironmentProblem where a limit ended it."""
    try:
        answer()
    except Stopped as why:
        raise EnvironmentProblem(f"{name} was not checked: {why}", MORE) from why
    except Failed as why:
        raise ModelProblem(f"{name} is not valid ONNX: {why}", LIST_HINT if UNLISTED in str(why) else REPAIR) from why


def _bare(record: ModelProto) -> ModelProto:
    """A copy, its nodes sorted, in which no shape is left out, and tensors that are large or lie elsewhere are empty.

    ONNX allows inputs and outputs of unknown rank, and onnxruntime runs them; only its checker does not.
    """
    bare = ModelProto()
    bare.CopyFrom(record)
    sort_nodes(bare)
    for value in chain(bare.graph.input, bare.graph.output):
        if value.type.tensor_type.elem_type:
            value.type.tensor_type.shape.SetInParent()
    for tensor in all_tensors(bare):
        if uses_external_data(tensor) or _is_large_and_whole(tensor):
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return bare


def _is_large_and_whole(tensor: TensorProto) -> bool:
    """Whether a tensor has much data, of the right length and in one field, so that there is nothing to check."""
    if len(tensor.raw_data) < LENGTH_CHECKED_FROM or tensor.data_type == TensorProto.STRING:
        return False
    return len(tensor.raw_data) == external.data_length(tensor) and not any(
        getattr(tensor, field) for field in DATA_FIELDS
    )


def require_acyclic(model: ModelProto) -> None:
    """Raises ModelProblem where a node of some graph reads what is computed from its own output."""
    for part in (model.graph, *model.functions):
        for graph in (part, *inner_graphs(part.node)):
            topological(graph.node)


@contextmanager
def consistent(bare: bytes) -> Iterator[None]:
    """A block that may rely on the types and shapes of a serialized model, in which large tensors have no values.

    onnx's checker does not compare them, and shape inference takes long; so it runs only where the block fails. Raises
    ModelProblem if they contradict each other. If they do not, the error of the block is a defect of bnfold, and stays.
    """
    try:
        yield
    except (BnfoldError, Refused):
        raise
    except Exception:
        try:
            guarded("shape inference", lambda: _infer(bare))
        except Stopped as why:
            raise EnvironmentProblem(f"the types and shapes of the model were not checked: {why}", MORE) from why
        except Failed as why:
            raise ModelProblem(f"the types or shapes of the model contradict each other: {why}", REPAIR) from why
        raise


def _infer(bare: bytes) -> None:
    onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
