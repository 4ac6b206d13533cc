"""Small changes of a model, as functions that change it in place: what the faults of `referee` are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Change = Callable[[ModelProto], Any]
Values = np.ndarray
Feeds = Mapping[str, Any]


class Edit(NamedTuple):
    """A change of the faultless fold of a network; of a fault, `shows` are inputs on which outputs differ.

    Without `shows` a fault must be seen on normal inputs. One of the interface has words instead: they say what it is.
    """

    kind: str
    name: str
    net: str
    change: Change
    shows: Feeds | str | None = None


def scopes(model: ModelProto) -> Iterator[Any]:
    """The main graph, functions, and every body in them."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        scope = pending.pop(0)
        yield scope
        pending += [a.g for n in scope.node for a in n.attribute if a.type == AttributeProto.GRAPH]


def find(model: ModelProto, operator: str, at: int = 0) -> NodeProto:
    """The node of an operator that comes as number `at`, the main graph first."""
    return [node for scope in scopes(model) for node in scope.node if node.op_type == operator][at]


def both(*changes: Change) -> Change:
    """One change after the other."""
    return lambda model: [change(model) for change in changes]


def put(operator: str, at: int = 0, **attributes: Any) -> Change:
    """Attributes of a node with other values; None removes one."""

    def change(model: ModelProto) -> None:
        node = find(model, operator, at)
        kept = [a for a in node.attribute if a.name not in attributes]
        given = [helper.make_attribute(k, v) for k, v in attributes.items() if v is not None]
        del node.attribute[:]
        node.attribute.extend([*kept, *given])

    return change


def become(operator: str, other: str, at: int = 0) -> Change:
    """Another operator with the same inputs and attributes."""
    return lambda model: setattr(find(model, operator, at), "op_type", other)


def bypass(operator: str, port: int = 0, at: int = 0) -> Change:
    """The node hands one of its inputs on."""

    def change(model: ModelProto) -> None:
        node = find(model, operator, at)
        node.CopyFrom(helper.make_node("Identity", [node.input[port]], [node.output[0]], name=node.name))

    return change


def swap(operator: str, first: int = 0, second: int = 1, at: int = 0, field: str = "input") -> Change:
    """Two inputs (or outputs) of a node in each other's place."""

    def change(model: ModelProto) -> None:
        names = getattr(find(model, operator, at), field)
        names[first], names[second] = names[second], names[first]

    return change


def drop(operator: str, port: int, at: int = 0) -> Change:
    """A node without its last input."""
    return lambda model: find(model, operator, at).input.pop(port)


def stored(model: ModelProto, name: str) -> TensorProto:
    """A constant by its name, in any scope; of a Constant node its value."""
    for scope in scopes(model):
        if isinstance(scope, GraphProto):
            for own in scope.initializer:
                if own.name == name:
                    return own
        for node in scope.node:
            if node.op_type == "Constant" and name in node.output:
                return next(a.t for a in node.attribute if a.name == "value")
    raise KeyError(name)


def values(name: str, change: Callable[[Values], Any]) -> Change:
    """Other numbers in a constant, of the same type."""

    def edit(model: ModelProto) -> None:
        tensor = stored(model, name)
        old = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(old)).astype(old.dtype), tensor.name))

    return edit


def of_input(operator: str, port: int, change: Callable[[Values], Any], at: int = 0) -> Change:
    """Other numbers in the constant that a node reads, whatever its name."""
    return lambda model: values(find(model, operator, at).input[port], change)(model)


def one(number: float, at: int = 0) -> Callable[[Values], Values]:
    """One row (channel) of a constant times a number."""

    def change(old: Values) -> Values:
        new = old.astype(np.float64)
        new[at] *= number
        return new

    return change


def insert(name: str, body: str, **constants: Any) -> Change:
    """Nodes in front of every reader of a tensor: `body` makes `out` from the tensor `x`, in ONNX's text format."""
    words = f"g (float x) => (float out) {{ {body.replace('%', '_')} }}"

    def change(model: ModelProto) -> None:
        nodes = list(onnx.parser.parse_graph(words).node)
        own = {made: f"{made}_new" for node in nodes for made in node.output} | {"x": name}
        for node in nodes:
            renamed = ([own.get(n, n) for n in names] for names in (node.input, node.output))
            node.input[:], node.output[:] = renamed
        for node in model.graph.node:
            node.input[:] = [own["out"] if n == name else n for n in node.input]
        at = 1 + max((i for i, n in enumerate(model.graph.node) if name in n.output), default=-1)
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*rest[:at], *nodes, *rest[at:]])
        model.graph.initializer.extend(tensor(v, k) for k, v in constants.items())

    return change


def instead(operator: str, body: str, **constants: Any) -> Change:
    """Nodes in the place of one: `body` makes `out` from its first input `x`, in ONNX's text format."""
    words = f"g (float x) => (float out) {{ {body} }}"

    def change(model: ModelProto) -> None:
        node, nodes = find(model, operator), list(onnx.parser.parse_graph(words).node)
        own = {made: f"{made}_new" for each in nodes for made in each.output}
        own |= {"x": node.input[0], "out": node.output[0]}
        for each in nodes:
            renamed = ([own.get(n, n) for n in names] for names in (each.input, each.output))
            each.input[:], each.output[:] = renamed
        at = list(model.graph.node).index(node)
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*rest[:at], *nodes, *rest[at + 1 :]])
        model.graph.initializer.extend(tensor(v, k) for k, v in constants.items())

    return change


def tensor(value: Any, name: str) -> TensorProto:
    """A stored constant; what is not made of integers, truth values or words is float32."""
    array = np.asarray(value, object if isinstance(value, list) else None)
    return numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)


def dimension(name: str, axis: int, size: str | int) -> Change:
    """Another size, or symbol, of a dimension of an input or output."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        dim = next(v for v in [*graph.input, *graph.output] if v.name == name).type.tensor_type.shape.dim[axis]
        dim.Clear()
        setattr(dim, "dim_param" if isinstance(size, str) else "dim_value", size)

    return change


def output_as(kind: int) -> Change:
    """The output `y` in another type."""

    def change(model: ModelProto) -> None:
        maker = next(n for n in model.graph.node if "y" in n.output)
        maker.output[:] = ["y_own" if n == "y" else n for n in maker.output]
        model.graph.node.append(helper.make_node("Cast", ["y_own"], ["y"], to=kind))
        next(v for v in model.graph.output if v.name == "y").type.tensor_type.elem_type = kind

    return change


def opset(version: int) -> Change:
    """Another version of the operators, which are not converted."""
    return lambda model: setattr(model.opset_import[0], "version", version)


def other_branches(model: ModelProto) -> None:
    """The two bodies of an If in each other's place."""
    other = {"then_branch": "else_branch", "else_branch": "then_branch"}
    for attribute in find(model, "If").attribute:
        attribute.name = other[attribute.name]


def renamed(model: ModelProto) -> None:
    """Every tensor and constant but inputs and outputs by another name."""
    graph = model.graph
    kept = {v.name for v in (*graph.input, *graph.output)} | {""}
    del graph.value_info[:]
    for stored in graph.initializer:
        stored.name = stored.name if stored.name in kept else f"own_{stored.name}"
    for node in graph.node:
        node.input[:] = [n if n in kept else f"own_{n}" for n in node.input]
        node.output[:] = [n if n in kept else f"own_{n}" for n in node.output]


def image(value: float, batch: int = 1) -> dict[str, Any]:
    """An image of one value."""
    return {"x": np.full((batch, 3, 8, 8), value, np.float32)}


def sized(*shape: int, name: str = "x") -> dict[str, Any]:
    """Normal numbers."""
    return {name: np.random.default_rng(5).standard_normal(shape).astype(np.float32)}
