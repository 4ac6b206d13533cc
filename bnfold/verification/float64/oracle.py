"""The oracle: what a model computes in float64, whatever precision it is stored in.

It shares no code with the fold or with onnxruntime: onnx's ReferenceEvaluator on a float64 copy of the model, with the
operators replaced that it is known to get wrong or slow. Where it still cannot evaluate a node it says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from ...model.bounds import expanded_sizes
from ...model.messages import all_nodes, every_node, inner_graphs, reads
from ...runtime import detached
from ...runtime.protos import FLOATS, called, opset
from ...system.progress import report
from .constant_parts import evaluate_constants
from .floating import wide
from .large_constants import Stored, TooLarge, reading_blocks, to_float64
from .loops import WITH_BODIES
from .operators import REPLACED, Resize10
from .windows import Array

ReplaceOutputs = Callable[[onnx.NodeProto, Sequence[Any], Sequence[Any]], Sequence[Any]]  # a node, its inputs, outputs
MEMORY_FACTOR = 3  # the bytes of the largest constant, in memory


class CannotEvaluate(Exception):
    """The oracle cannot compute a node; `operator` is the name of its operator."""

    def __init__(self, operator: str, why: object) -> None:
        super().__init__(f"{operator}: {why}".splitlines()[0])
        self.operator = operator


class NeedsMemory(CannotEvaluate):
    """There is no memory for the constants of a node in float64."""


class _Evaluator(ReferenceEvaluator):
    """ReferenceEvaluator with the operators of this package, also in functions and subgraphs."""

    def __init__(self, proto: Any, new_ops: Any = None, **options: Any) -> None:
        super().__init__(proto, new_ops=new_ops or [*REPLACED, *WITH_BODIES], **options)

    def retrieve_external_data(self, tensor: TensorProto) -> Array:
        return detached.values(tensor).view(Stored)

    def _load_impl(self, node: Any, *rest: Any) -> Any:
        version = self.opsets_.get("", self.opsets_.get("ai.onnx", 0))
        if node.op_type == "Resize" and node.domain == "" and version == 10:
            return Resize10
        try:
            return super()._load_impl(node, *rest)
        except (NotImplementedError, RuntimeError, ValueError, AttributeError, KeyError) as why:
            if type(why).__name__ == "RuntimeContextError":
                raise
            raise CannotEvaluate(called(node), why) from why


def _evaluator(model: onnx.ModelProto) -> type[_Evaluator]:
    """The class that evaluates a model; where constants lie in files, its operators read them from there."""
    if not detached.length(model):
        return _Evaluator
    memory = max(detached.WHOLE_UP_TO, MEMORY_FACTOR * detached.largest(model))

    class Evaluator(_Evaluator):
        def _load_impl(self, node: Any, *rest: Any) -> Any:
            operator = super()._load_impl(node, *rest)
            return reading_blocks(operator, memory) if isinstance(operator, type) else operator

    return Evaluator


def _without_references(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model; its functions inlined if they have attributes of their call, which not all operators of onnx take."""
    refers = any(a.ref_attr_name for f in model.functions for node in every_node(f.node) for a in node.attribute)
    return inline_local_functions(model) if refers else model


class Oracle:
    """Float64 evaluation of one model. Raises `CannotEvaluate` for an operator that it cannot compute."""

    def __init__(self, model: onnx.ModelProto) -> None:
        wide = doubled(evaluate_constants(_without_references(model)))
        order = {key: place for place, key in enumerate(expanded_sizes(wide.functions))}
        wide.functions.sort(key=lambda f: order[f.domain, f.name, f.overload])  # those that are called come first
        try:
            self._evaluator = _evaluator(model)(wide)
        except CannotEvaluate:
            raise
        except Exception as why:  # whatever an operator does not find in its node
            raise CannotEvaluate("the graph", why) from why
        self.rounds, self._begun = 0, 0  # evaluations that are expected, where somebody wants to know; nodes so far
        self._graph = wide.graph
        self._opset = opset(model)

    def evaluate(
        self,
        feeds: Mapping[str, Array],
        names: Iterable[str] | None = None,
        replace_outputs: ReplaceOutputs | None = None,
    ) -> dict[str, Any]:
        """The tensors called `names` (default: the graph's outputs) for the inputs `feeds`, floating point as float64.

        A value is dropped once nothing needs it any more. `replace_outputs` returns the values that nodes read instead
        of the outputs of a node.
        """
        wanted = set(names) if names is not None else {output.name for output in self._graph.output}
        values: dict[str, Any] = {"": None, **self._evaluator.rt_inits_}
        values.update((name, wide(value)) for name, value in feeds.items())
        left = Counter(name for node in self._graph.node for name in reads(node))
        nodes = self._evaluator.rt_nodes_
        with np.errstate(all="ignore"):
            for node in nodes:
                self._report(len(nodes))
                self._step(node, values, replace_outputs)
                self._drop(node.onnx_node, values, left, wanted)
        return {name: to_float64(values[name]) for name in wanted if name in values}

    def _report(self, nodes: int) -> None:
        """Report the progress of all evaluations."""
        self._begun += 1
        if self.rounds:
            report("verify: float64 evaluation", min(self._begun, self.rounds * nodes), self.rounds * nodes)

    def _step(self, node: Any, values: dict[str, Any], replace_outputs: ReplaceOutputs | None) -> None:
        inputs = [values.get(name) for name in node.input]
        context = {"context": values} if node.need_context() else {}
        try:
            outputs = node.run(*inputs, **context)
        except CannotEvaluate:
            raise
        except TooLarge as why:
            raise NeedsMemory(*str(why).split(": ", 1)) from why
        except Exception as why:  # any numpy error of any operator: it is the operator that is named
            raise CannotEvaluate(called(node.onnx_node), _cause(why)) from why
        if replace_outputs is not None:
            outputs = replace_outputs(node.onnx_node, inputs, outputs)
        values.update(zip(node.output, outputs, strict=False))

    def _drop(self, node: onnx.NodeProto, values: dict[str, Any], left: Counter[str], wanted: set[str]) -> None:
        read = [*reads(node)]
        left.subtract(read)
        for name in (*read, *node.output):
            if name and left[name] <= 0 and name not in wanted:
                values.pop(name, None)


def _cause(why: BaseException) -> BaseException:
    """The first error of a chain: ReferenceEvaluator wraps errors in messages about argument types."""
    return _cause(why.__cause__) if why.__cause__ else why


TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "output_dtype"})


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which float64 replaces float32, float16 and bfloat16 everywhere.

    Covers initializers (sparse ones too), Constant and ConstantOfShape values, the target types of Cast and its kin,
    and declared value types; in subgraphs and functions as well. Integers, 8-bit and 4-bit floats stay as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in (copy.graph, *inner_graphs([*copy.graph.node, *(n for f in copy.functions for n in f.node)])):
        _widen_graph(graph)
    for node in all_nodes(copy):
        _widen_node(node)
    return copy


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS and not detached.stays(tensor):
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            _widen_tensor(attribute.sparse_tensor.values)
        elif attribute.name in TYPE_ATTRIBUTES and attribute.i in FLOATS:
            attribute.i = TensorProto.DOUBLE
        elif attribute.name in ("value_float", "value_floats"):
            _as_tensor(attribute)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _as_tensor(attribute: AttributeProto) -> None:
    """Replace value_float or value_floats of a Constant, which are float32, by a tensor of float64."""
    one = attribute.name == "value_float"
    values = np.array(attribute.f if one else list(attribute.floats), dtype=np.float64)
    attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))
