"""A copy of a model in which a caller can switch nodes off, one at a time: what changes then shows what they do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ...model.messages import bodies
from ...runtime.protos import FLOATING, domain

SWITCH = "bnfold/switch"  # the input that says which bypass is taken; 0: none
HANDS_ON = frozenset(  # operators that hand on the values of an input, in another shape, order or type
    ["Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "CastLike", "Expand"]
)
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_WIDE = (TensorProto.INT32, TensorProto.INT64)
CHANGEABLE = (*FLOATING, *_NARROW, *_WIDE, TensorProto.BOOL)  # types of which other values can be made
Types = Mapping[str, int]  # of tensors, by name


@dataclass(frozen=True)
class Bypass:
    """What stands in for a node's output: one of its inputs, other nodes, or (neither) other values than it has."""

    number: int
    output: str
    instead: str = ""
    nodes: tuple[onnx.NodeProto, ...] = ()


def bypasses_of(
    node: onnx.NodeProto, types: Types, fixed: Collection[str], first: int, read: Collection[str]
) -> list[Bypass]:
    """The ways to do without a node, numbered from `first`; other values only of types that can be changed.

    Of its outputs those that are `read` count. What is `fixed`, of constants and sizes alone, stands in for nothing:
    sizes are alike by chance.
    """
    outputs = [name for name in node.output if name in read and name in types]
    data = [name for name in node.input if name and name not in fixed]
    pairs = [(outputs[0], name) for name in dict.fromkeys(data) if outputs and types.get(name) == types[outputs[0]]]
    pairs = [] if node.op_type in HANDS_ON and domain(node) == "" else pairs
    pairs += [(name, "") for name in outputs if types[name] in CHANGEABLE]
    return [Bypass(number, *pair) for number, pair in enumerate(pairs, first)]


def switchable(model: onnx.ModelProto, by_place: Mapping[int, Sequence[Bypass]], types: Types) -> onnx.ModelProto:
    """A copy of `model` with an input SWITCH; `by_place` are bypasses of nodes, by their place in `every_node`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    places = iter(range(1 << 62))
    _switched(copy.graph, by_place, types, places)
    copy.graph.input.append(helper.make_tensor_value_info(SWITCH, TensorProto.INT64, []))
    del copy.graph.value_info[:]
    return copy


def _switched(
    graph: onnx.GraphProto, by_place: Mapping[int, Sequence[Bypass]], types: Types, places: Iterator[int]
) -> None:
    """Each node, and after it what chooses between its outputs and what stands in for them."""
    nodes = []
    for node in graph.node:
        choices: list[onnx.NodeProto] = []
        for bypass in by_place.get(next(places), ()):
            i = list(node.output).index(bypass.output) if bypass.output in node.output else -1
            kept = f"{bypass.output}/{bypass.number}"
            if i >= 0:
                node.output[i] = kept
            else:
                choices[-1].output[0] = kept
            choices += _choice(bypass, kept, types)
        for body in bodies(node):
            _switched(body, by_place, types, places)
        nodes += [node, *choices]
    del graph.node[:]
    graph.node.extend(nodes)


def _choice(bypass: Bypass, kept: str, types: Types) -> list[onnx.NodeProto]:
    """Nodes that give the output `kept` its name again, or give what stands in for it that name."""
    stem = f"{SWITCH}/{bypass.number}"
    kind = types[bypass.output]
    number = helper.make_tensor("", TensorProto.INT64, [], [bypass.number])
    as_it_is = _branch([helper.make_node("Identity", [kept], [f"{stem}/as it is"])], kind)
    if bypass.nodes:
        other = _branch(bypass.nodes, kind)
    elif bypass.instead:
        other = _branch([*_of_any_shape(bypass.instead, stem)], kind)
    else:
        other = _branch([*_other_values(kept, kind, stem)], kind)
    return [
        helper.make_node("Constant", [], [stem], value=number),
        helper.make_node("Equal", [SWITCH, stem], [f"{stem}/taken"]),
        helper.make_node("If", [f"{stem}/taken"], [bypass.output], then_branch=other, else_branch=as_it_is),
    ]


def _branch(nodes: Sequence[onnx.NodeProto], kind: int) -> onnx.GraphProto:
    result = onnx.ValueInfoProto(name=nodes[-1].output[0])
    result.type.tensor_type.elem_type = kind
    return onnx.GraphProto(name="branch", node=nodes, output=[result])


def _of_any_shape(name: str, stem: str) -> Iterator[onnx.NodeProto]:
    """The same values; what they would be reshaped to is not inferred, so that no other shape is refused beforehand."""
    sizes = [f"{stem}/{word}" for word in ("sizes", "numbers", "shape")]
    yield helper.make_node("Shape", [name], sizes[:1])
    yield helper.make_node("Cast", sizes[:1], sizes[1:2], to=TensorProto.FLOAT)
    yield helper.make_node("Cast", sizes[1:2], sizes[2:], to=TensorProto.INT64)
    yield helper.make_node("Reshape", [name, sizes[2]], [f"{stem}/instead"])


def _other_values(name: str, kind: int, stem: str) -> Iterator[onnx.NodeProto]:
    """Zeros for floating-point numbers, the next integer, the opposite truth."""
    end = f"{stem}/other"
    if kind == TensorProto.BOOL:
        yield helper.make_node("Not", [name], [end])
        return
    narrow, number = kind in _NARROW, f"{stem}/operand"
    working = TensorProto.INT32 if narrow else kind
    yield helper.make_node("Constant", [], [number], value=helper.make_tensor("", working, [], [kind not in FLOATING]))
    if narrow:
        yield helper.make_node("Cast", [name], [f"{stem}/wide"], to=working)
    names = [f"{stem}/wide" if narrow else name, number]
    yield helper.make_node("Mul" if kind in FLOATING else "Add", names, [f"{stem}/wide other" if narrow else end])
    if narrow:
        yield helper.make_node("Cast", [f"{stem}/wide other"], [end], to=kind)
