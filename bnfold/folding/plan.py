"""Hoist and sink over a graph: from an affine to the edits that give it a home, or Refused. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import IDENTITY, Affine, Array, Refused, require, require_room_to_broadcast
from ..algebra.rounding import TINY, keeps_codes, rounded
from ..graph.constants import value_of
from ..graph.dequantized import dequantized
from ..graph.edits import Edit, InsertAdd, Replace, Retype, SetAttributes, SetConstant
from ..graph.foreign import is_foreign_quantizer
from ..graph.queries import (
    algebra,
    dims,
    dtype,
    fits,
    has,
    is_constant,
    is_floating,
    is_repeated,
    label,
    onto,
    operator,
)
from ..graph.scopes import Visible
from ..graph.stored import StoredConstant
from .rules import HOIST, OUT, READ_NO_VALUES, SINK, Relaid, Shares
from .rules.control import RETURN
from .rules.nonlinear import NONLINEAR
from .rules.pointwise import no_shift_of_computed
from .rules.quantization import is_mirrored, is_quantized_bias

Direction = Literal["hoist", "sink"]
Law = Literal["hoist", "sink", "merge"]
Errand = tuple[Literal["hoist", "sink", "return"], gs.Tensor, Affine]  # "return": hoist what a body returns
MOST_NAMED = 3  # nodes that a reason names
FACTORS = {(name, i) for name in ("Mul", "Div") for i in (0, 1)} | {
    ("QuantizeLinear", 1),
    ("DequantizeLinear", 1),
    ("PRelu", 1),
}
MIRRORED = "unsigned integers without an opposite (q) became max - q in some channels, and their zero point (z) max - z"
FLOAT_BIAS = "quantized biases became floating point: the shift has no exact place among their integers"
CODED = {"DequantizeLinear": (0, 2), "Gather": (0,), "QuantizeLinear": (2,)}  # inputs that hold codes
DIGITS = 2.0  # how many roundings of its type a number that multiplies whole tensors may be off
REPEATS = "it repeats along an axis whose length is not known before run time"
REPEATING = {  # operators whose laws hold for coefficients that repeat along an axis, too
    *("Add", "Cast", "CastLike", "Concat", "Dropout", "Flatten", "Identity", "LeakyRelu", "MatMul", "Mean", "Neg"),
    *("Relu", "Reshape", "Split", "Squeeze", "Sub", "Sum", "Transpose", "Unsqueeze"),
}
BECOMES = {"MatMul": "Gemm"}  # what an operator turns into when it is given an input it does not have


@dataclass
class Plan:
    """The edits after which the affine is applied elsewhere, and the nodes it passes on its way."""

    edits: list[Edit] = field(default_factory=list)
    through: list[gs.Node] = field(default_factory=list)
    room: int = 0
    notes: list[str] = field(default_factory=list)
    private: list[gs.Tensor] = field(default_factory=list)  # changes, and has no other reader

    def add(self, edit: Edit) -> None:
        """One more edit. Refuses one that makes numbers which their type cannot hold."""
        require_storable(edit)
        self.edits.append(edit)

    @property
    def targets(self) -> list[gs.Node]:
        """The nodes whose constants change, each once."""
        return list({id(e.node): e.node for e in self.edits}.values())


def make_plan(visible: Visible, direction: Direction, tensor: gs.Tensor, affine: Affine, room: int = 0) -> Plan:
    """Hoist: the edits after which `tensor` holds affine(tensor). Sink: those after which no consumer
    needs the affine on it.

    `room` is how many Add nodes may be made for shifts that no operator on the way has room for. Raises Refused, with
    the reason, when any part of the affine finds no home.
    """
    require(0 not in affine.extent, "VARIES", f"it varies along an axis on which '{tensor.name}' has no elements")
    plan = Plan(room=room)
    agenda: list[Errand] = [(direction, tensor, affine)]
    while agenda:
        way, at, carried = agenda.pop()
        require(way == direction or at is not tensor, "SHARED", f"it would come back to '{at.name}', where it starts")
        if way == "return":
            visible.require_returned_once(at)
        else:
            visible.require_private(at)
        for node, port in consumers(at) if way == "sink" else producer(at):
            onward = move(plan, way, node, port, carried)
            if onward:
                plan.through.append(node)
            agenda += onward
    for changed in plan.private:
        visible.require_private(changed)
    require_once(plan)
    return plan


def move(plan: Plan, way: str, node: gs.Node, port: int, affine: Affine) -> list[Errand]:
    """Move an affine past one node, or into its constants: adds edits to the plan, returns where the search goes on."""
    repeats = is_repeated(affine, node.inputs[port] if way == "sink" else node.outputs[port])
    require(not repeats or operator(node) in REPEATING, "REPEATS", f"{REPEATS}, which is not for {label(node)}")
    if way != "sink" and operator(node) in RETURN:
        with algebra(node):
            return [("return", x, share) for x, share in RETURN[operator(node)](node, port, affine)]
    shares = shares_of("sink" if way == "sink" else "hoist", node, port, affine)
    if repeats:
        require_onward(node, way, shares)
    if way != "sink" and OUT in shares:
        leave(plan, node, shares.pop(OUT))
    return step(plan, node, shares)


def require_onward(node: gs.Node, way: str, shares: Shares) -> None:
    """Refuse where coefficients that repeat reach a constant, or what may not be as long as their repetitions."""
    for index in (index for index, share in shares.items() if not share.is_identity):
        if index <= OUT:
            on = node.outputs[OUT - index] if way == "sink" else None
        else:
            on = node.inputs[index] if has(node, index) and not is_constant(node.inputs[index]) else None
        words = f"{REPEATS}, and {label(node)} has no constant that is as long"
        require(on is not None and fits(shares[index], dims(on)), "REPEATS", words)


def leave(plan: Plan, node: gs.Node, left: Affine) -> None:
    """Put the shift that a hoist rule has no room for into an Add after the node, if one may be made."""
    if left.is_identity:
        return
    plan.room -= 1
    if operator(node) == "Mul" and plan.room < 0:
        no_shift_of_computed(node, left)
    words = f"{label(node)} has no bias to take the shift, and a Gemm, which has one, multiplies matrices only"
    require(plan.room >= 0, "NO_BIAS", words)
    plan.add(InsertAdd(node, left.shift, floating_kind(node, 1)))


def make_split(visible: Visible, source: gs.Tensor, affine: Affine) -> Plan:
    """The edits after which `source` holds affine(source), by an Add in its place for the shift. Raises Refused."""
    plan = make_plan(visible, "hoist", source, affine.scaling)
    maker = source.inputs[0]
    require(maker.outputs[0] is source, "NO_BIAS", f"'{source.name}' is not the first output of {label(maker)}")
    plan.add(InsertAdd(maker, affine.shift, dtype(source)))
    return plan


def producer(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """The node that makes a tensor, and as which output. Refuses unless a single node reads its values."""
    require(not is_constant(tensor), "CONSTANT", f"'{tensor.name}' is a constant, which nothing computes")
    require(tensor.inputs, "GRAPH_INPUT", f"'{tensor.name}' is an input of the graph")
    some = [*islice((reader for reader in tensor.outputs if operator(reader) not in READ_NO_VALUES), 2)]
    require(len(some) < 2, "SHARED", f"'{tensor.name}' is read by {readers(tensor)}")
    node = tensor.inputs[0]
    yield node, next(i for i, x in enumerate(node.outputs) if x is tensor)


def readers(tensor: gs.Tensor) -> str:
    """The nodes that read a tensor, as they are called in sentences, at most MOST_NAMED of them."""
    some = sorted({label(n) for n in islice(tensor.outputs, MOST_NAMED)})
    more = len(tensor.outputs) - MOST_NAMED
    return ", ".join(some) + (f" and {more} more" if more > 0 else "")


def consumers(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """The nodes that read a tensor, and as which input."""
    require(tensor.outputs, "GRAPH_OUTPUT", f"'{tensor.name}' is read by nothing")
    for node in tensor.outputs:
        ports = node.inputs.ports(tensor)
        require(len(ports) == 1, "SHARED", f"{label(node)} reads '{tensor.name}' twice")
        yield node, ports[0]


def shares_of(way: Direction, node: gs.Node, port: int, affine: Affine) -> Shares:
    """The shares that the rule of an operator returns."""
    rule = (HOIST if way == "hoist" else SINK).get(operator(node))
    if is_foreign_quantizer(node):
        raise Refused("INTEGERS", f"{label(node)} of {node.domain} quantizes by rules of its own, and stays as it is")
    if operator(node) in NONLINEAR:
        raise Refused("NONLINEAR", f"{label(node)} is not linear")
    if rule is None:
        raise Refused("NO_RULE", f"it cannot move {'back' if way == 'hoist' else 'on'} through {label(node)}")
    with algebra(node):
        return copy(rule(node, port, affine))


def step(plan: Plan, node: gs.Node, shares: Shares) -> list[Errand]:
    """Turn shares on constants into edits; return the shares on computed tensors, where the search goes on."""
    onward: list[Errand] = []
    settings = shares.settings if isinstance(shares, Relaid) else {}
    if settings:
        plan.add(SetAttributes(node, settings))
    plan.notes += [MIRRORED] * is_mirrored(node, shares)
    if isinstance(shares, Relaid) and shares.of_producer:
        plan.private += [] if shares.of_producer[0].is_positive else [node.inputs[0]]
        onward += step(plan, node.inputs[0].inputs[0], shares.of_producer)
    for index, share in shares.items():
        if share.is_identity and not settings:
            continue
        if index <= OUT:
            onward.append(("sink", node.outputs[OUT - index], share))
        elif is_quantized_bias(node, index) and share.has_shift:
            plan.add(Replace(node, index, share(dequantized(node.inputs[index]))))
            plan.notes.append(FLOAT_BIAS)
        elif has(node, index) and not is_constant(node.inputs[index]):
            onward.append(("hoist", node.inputs[index], onto(share, node.inputs[index])))
        elif has(node, index) or share.has_shift:
            put_into_constant(plan, node, index, share)
    return onward


def put_into_constant(plan: Plan, node: gs.Node, index: int, share: Affine) -> None:
    """A share that has reached a constant, or an omitted input, which stands for a stored zero."""
    require_fitting(node, index, share)
    plan.add(SetConstant(node, index, share))
    if not has(node, index) and operator(node) in BECOMES:
        plan.add(Retype(node, BECOMES[operator(node)]))


def require_fitting(node: gs.Node, index: int, share: Affine) -> None:
    """Refuse a share that cannot be broadcast against a constant, or that would make it too large, as a column does to
    a row."""
    own = tuple(n for n in dims(node.inputs[index]) if isinstance(n, int)) if has(node, index) else ()
    fit = all(1 in (n, m) or n == m for n, m in zip(share.extent[::-1], own[::-1], strict=False))
    require(fit, "MALFORMED", f"input {index} of {label(node)} does not have the shape that the operator needs")
    require_room_to_broadcast(share.extent, own)


def require_storable(edit: Edit) -> None:
    """Refuse numbers that their element type cannot hold: every one that a fold makes comes by here."""
    if isinstance(edit, SetConstant):
        require_representable(edit.node, edit.index, edit.share)
    elif isinstance(edit, Replace) and is_code(edit.node, edit.index):
        require_code(edit.node, edit.index, IDENTITY, edit.value)
    elif isinstance(edit, Replace):
        require_in_range(edit.node, edit.index, edit.value)
    elif isinstance(edit, InsertAdd):
        require_in_range(edit.node, 1, edit.shift, edit.kind)


def require_representable(node: gs.Node, index: int, share: Affine) -> None:
    """Refuse where the new values of a constant exceed its element type (that of the weight, if it is omitted)."""
    if is_code(node, index):
        return require_code(node, index, share, value_of(node.inputs[index]))
    kind, tensor = floating_kind(node, index), node.inputs[index] if has(node, index) else None
    if tensor is None or isinstance(tensor, StoredConstant):
        with np.errstate(over="ignore", invalid="ignore"):
            reach = share.reach(0.0 if tensor is None else tensor.reach)
        most = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
        if (operator(node), index) not in FACTORS and 2 * reach < most:
            return
    require_in_range(node, index, share(np.zeros(()) if tensor is None else value_of(tensor)))


def require_in_range(node: gs.Node, index: int, value: Array, kind: np.dtype[Any] | None = None) -> None:
    """Refuse new values of a constant where one overflows, or one that multiplies whole tensors loses its digits."""
    kind = floating_kind(node, index) if kind is None else kind
    new = rounded(value, kind)[0].astype(np.float64)
    finite = np.isfinite(new).all()
    require(finite, "OVERFLOW", f"the folded constant of {label(node)} would overflow {kind} or is not a number")
    most = DIGITS * float(ml_dtypes.finfo(kind).eps)  # type: ignore[no-untyped-call]
    exact = (operator(node), index) not in FACTORS or np.all(np.abs(new - value) <= most * np.abs(value))
    require(exact, "OVERFLOW", f"the folded constant of {label(node)} would be too small for {kind}")


def is_code(node: gs.Node, index: int) -> bool:
    """Whether an input holds codes: integers, or floating point of few bits."""
    return index in CODED.get(operator(node), ()) and not is_floating(node.inputs[index])


def require_code(node: gs.Node, index: int, share: Affine, codes: Array) -> None:
    """Refuse where a code of a quantized constant has no opposite in its type, as -128 has none in int8."""
    kind = dtype(node.inputs[index])
    kept = keeps_codes(share, codes, kind)
    require(kept, "CODE_RANGE", f"an integer of {label(node)} would change its sign, and so leave the range of {kind}")


def floating_kind(node: gs.Node, index: int) -> np.dtype[Any]:
    """The element type of a constant (that of the weight, if it is omitted). Refuses what is not floating point."""
    kind = dtype(node.inputs[index if has(node, index) else 1])
    if kind not in TINY:
        raise Refused("DTYPE", f"the constant of {label(node)} holds {kind}, which is not floating point")
    return kind


def require_once(plan: Plan) -> None:
    """Refuse a plan that changes one constant twice."""
    targets = [(id(e.node), e.index) for e in plan.edits if isinstance(e, SetConstant)]
    require(len(set(targets)) == len(targets), "SHARED", "it would reach the same constant on two ways")
