"""Which tensors two graphs share, where the graphs differ, and which differences are undone further on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import onnx

from ..model.messages import every_node, reads
from ..runtime import detached
from ..runtime.copies import without_data
from ..runtime.protos import called, called_as, produced, stored
from .plain_nodes import PlainNodes


def shared(original: onnx.GraphProto, folded: onnx.GraphProto) -> list[str]:
    """Names that a node makes in both graphs, in the order of the folded one; constants left out."""
    ours = produced(original)
    return [
        n for n, node in produced(folded).items() if n in ours and node.op_type not in ("Constant", "ConstantOfShape")
    ]


def edited(original: onnx.ModelProto, folded: onnx.ModelProto) -> set[str]:
    """Tensors of the folded model, its nodes sorted, whose node is not the original's, or which itself or in its bodies
    reads a constant that is not, also a computed one, or calls a function that is not."""
    graphs, plain = (original.graph, folded.graph), [PlainNodes(model) for model in (original, folded)]
    ours, theirs = map(produced, graphs)
    constants, functions = changed_constants(*graphs), changed_functions(original, folded)
    fixed, edits = without_data(folded.graph), set[str]()
    for name, node in theirs.items():
        if (
            name not in ours
            or not constants.isdisjoint(reads(node))
            or not functions.isdisjoint(map(called, every_node([node])))
            or plain[0].of(ours[name]) != plain[1].of(node)
        ):
            edits.add(name)
            constants |= {name} & fixed
    return edits


def changed_functions(original: onnx.ModelProto, folded: onnx.ModelProto) -> set[str]:
    """Operators of nodes that call a function that is not the original's, or that calls such a function."""
    ours, theirs = _functions(original), _functions(folded)
    calls = {name: {called(node) for f in several for node in every_node(f.node)} for name, several in theirs.items()}
    changed = {name for name, several in theirs.items() if ours.get(name) != several}
    while more := {name for name in calls.keys() - changed if not changed.isdisjoint(calls[name])}:
        changed |= more
    return changed


def _functions(model: onnx.ModelProto) -> dict[str, list[onnx.FunctionProto]]:
    """The functions of a model, by the operator of nodes that call them."""
    named: dict[str, list[onnx.FunctionProto]] = {}
    for function in model.functions:
        named.setdefault(called_as(function), []).append(function)
    return named


def changed_constants(original: onnx.GraphProto, folded: onnx.GraphProto) -> set[str]:
    """Constants of the folded graph that the original does not have, or not with this value, however it is encoded."""
    old = stored(original)
    return {name for name, tensor in stored(folded).items() if name not in old or not _is_equal(old[name], tensor)}


def _is_equal(old: onnx.TensorProto, new: onnx.TensorProto) -> bool:
    """Whether two constants are the same message, or the same numbers; those in files are not read."""
    if old == new or old.data_type != new.data_type or old.dims != new.dims or old.data_type == onnx.TensorProto.STRING:
        return old == new
    if detached.stays(old) or detached.stays(new):
        return False
    return detached.values(old).tobytes() == detached.values(new).tobytes()


SELECT = frozenset(["Split", "Slice", "Gather", "GatherND", "GatherElements"])  # outputs are some of the elements
MOVES = SELECT | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
REARRANGES = MOVES - SELECT  # outputs are all of the elements, in another order at most
MIXING = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])  # their outputs are sums over channels or columns
BOUNDED = frozenset(["Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf", "Softsign", "Sin", "Cos"])


UNSEEN = {"Shape": 0, "Size": 0, "CastLike": 1}  # the input of which an operator reads no values


def undone(folded: onnx.GraphProto, good: Mapping[str, bool], edits: set[str]) -> set[str]:
    """Shared tensors that have other values by design: those inside a chain that an affine was moved along.

    A tensor that fails (`good` is False) is excused only if it is no output and every path from it to one reaches some
    tensor that is good again, and not before it has passed an edited node: an unedited node cannot make a wrong tensor
    right, it can only hide it (a Relu of negative values). A node that selects hides nothing: the elements it returns
    are right or wrong, and the others do not matter; nor do tensors of which only the shape or the type is read.
    """
    outputs = {output.name for output in folded.output}
    readers = readers_of_each(folded.node, UNSEEN)
    excused: dict[str, bool] = {}
    restored: dict[str, bool] = {}  # as `excused`, once an edited node has been passed
    for name in reversed(list(produced(folded))):
        fine, inner = good.get(name, False), name not in outputs
        made = [output for node in readers.get(name, ()) for output in node.output if output]
        selected = {o for node in readers.get(name, ()) if node.op_type in SELECT for o in node.output if good.get(o)}
        restored[name] = fine or (inner and all(restored.get(o, False) for o in made))
        excused[name] = inner and all(
            restored.get(o, False) if o in edits else (not good.get(o, False) and excused.get(o, False))
            for o in made
            if o not in selected
        )
    return {name for name, fine in good.items() if not fine and excused.get(name, False)}


def readers_of_each(
    nodes: Iterable[onnx.NodeProto], but: Mapping[str, int] | None = None
) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, themselves or in their bodies; `but` as `reads` has it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in set(reads(node, but)):
            readers.setdefault(name, []).append(node)
    return readers


def reached(
    makers: Mapping[str, onnx.NodeProto], sites: Collection[str], cuts: Collection[str]
) -> tuple[set[str], set[str]]:
    """The tensors that are computed between `cuts` and `sites`, these included; and the cuts that they are made of."""
    agenda, between, entering = [*sites], set[str](), set[str]()
    while agenda:
        name = agenda.pop()
        if name in makers and name not in between:
            between.add(name)
            entering.update(read for read in makers[name].input if read in cuts)
            agenda += [read for read in makers[name].input if read not in cuts]
    return between, entering


def shape_of_graph(model: onnx.ModelProto) -> list[str]:
    """A description that ignores names and the numbers in constants: equal for graphs of the same structure."""
    meaning = {value.name: f"input {i}" for i, value in enumerate(model.graph.input)}
    meaning.update((t.name, f"{t.data_type}{list(t.dims)}") for t in model.graph.initializer)
    known: dict[str, int] = {}
    for node in model.graph.node:
        attributes = sorted(a.SerializeToString(deterministic=True).hex() for a in node.attribute)
        key = f"{node.domain}:{node.op_type}{attributes}{[meaning.get(name, '') for name in node.input]}"
        number = known.setdefault(key, len(known))  # nested names would grow with depth; numbers do not
        meaning.update((name, f"{number}.{i}") for i, name in enumerate(node.output))
    return [meaning.get(output.name, "") for output in model.graph.output] + sorted(known)
