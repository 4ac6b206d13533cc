"""Graphs in graphs: If, Loop and Scan over outer tensors, with the same names in each, and local functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, helper

from . import affine_layers, linear_layers, moving_layers, other_layers
from .net import BOOL, F32, FLOATS, I64, Scope, Skip, Value, need
from .stores import literal, plain

KEEP_SHAPE: Mapping[Any, int] = {
    **affine_layers.KEEP_SHAPE,
    **moving_layers.KEEP_SHAPE,
    **other_layers.KEEP_SHAPE,
    linear_layers.square: 6,
}
PLAIN = {**KEEP_SHAPE, **linear_layers.LAYERS, **moving_layers.LAYERS, **other_layers.LAYERS}


def step(g: Scope, x: Value, layers: Mapping[Any, int]) -> Value:
    """One layer that fits, after some that perhaps do not."""
    names = list(layers)
    shares = np.array([layers[n] for n in names], float)
    for _ in range(25):
        layer, mark = names[int(g.file.rng.choice(len(names), p=shares / shares.sum()))], g.mark()
        try:
            made: Value = layer(g, x)
            need(made is not x)
        except Skip:
            g.undo(mark)
            continue
        g.live.append(made)
        return made
    raise Skip


def chain(g: Scope, x: Value, length: int, layers: Mapping[Any, int] = PLAIN) -> Value:
    for _ in range(length):
        x = step(g, x, layers)
    return x


def start(g: Scope, x: Value) -> Value:
    """A tensor that a body goes on from: x, or another outer one of a floating-point type."""
    others = [v for v in g.visible if v.kind in FLOATS and not v.constant]
    return g.file.pick(others) if others and g.file.chance(0.25) else x


def body(g: Scope, name: str, inputs: list[Value], outputs: list[Value], shaped: bool = True) -> GraphProto:
    own = [helper.make_tensor_value_info(v.name, v.kind, v.shape) for v in inputs]
    made = [helper.make_tensor_value_info(v.name, v.kind, v.shape if shaped else None) for v in outputs]
    need(len({v.name for v in outputs}) == len(outputs))
    produced = {name for node in g.nodes for name in node.output}
    need(all(v.name in produced for v in outputs))
    return helper.make_graph(g.nodes, name, own, made, g.inits, sparse_initializer=g.sparse)


def within(g: Scope, x: Value, layers: Mapping[Any, int]) -> tuple[Scope, Value]:
    """A body of a few layers."""
    inner = Scope(g.file, g, stem=g.file.pick(["b", "b", "then", "t"]))
    return inner, planned(inner, start(inner, x) if layers is PLAIN else x, layers)


def planned(g: Scope, x: Value, layers: Mapping[Any, int]) -> Value:
    """One affine map of an outer tensor, one operator with weights over it, or any few layers."""
    form = g.file.number(0, 9)
    if form < 4:
        return step(g, x, affine_layers.AFFINE)
    if form < 6 and layers is PLAIN:
        return step(g, x, linear_layers.LAYERS)
    return chain(g, x, g.file.number(1, 3), layers)


def condition(g: Scope, x: Value) -> Value:
    """Given by the caller, constant, or computed."""
    f = g.file
    form = f.number(0, 9)
    if form < 6 and g.depth == 0 and not g.is_function:
        made = Value(g.fresh("cond"), BOOL, ())
        g.inputs.append(helper.make_tensor_value_info(made.name, BOOL, []))
        f.conditions.append(made.name)
        return made
    if form < 7 or f.opset < 9 or x.kind != F32:
        return plain(g, f.chance(0.5), BOOL)
    total = g.emit("Reshape", [x, plain(g, [-1], I64)])[0]
    need(total.shape[0] > 0)
    most = (
        g.emit("ReduceMean", [total], keepdims=0)[0] if f.opset < 18 else g.emit("ReduceMean", [total], keepdims=0)[0]
    )
    return g.emit("Greater", [most, plain(g, 0.0, x.kind)])[0]


def if_(g: Scope, x: Value) -> Value:
    """Both branches: one of any layers, one that ends in the same shape; at times with two outputs."""
    f = g.file
    need(g.depth < 2)
    asked, names = condition(g, x), [g.fresh("if"), g.fresh("if")]
    inner, made = within(g, x, PLAIN if f.chance(0.6) else KEEP_SHAPE)
    need(not made.constant and made.kind in FLOATS)
    other = Scope(f, g, stem=inner.stem)
    ends = [(made, opposite(other, x, made))]
    if f.chance(0.2):
        ends.append((step(inner, made, KEEP_SHAPE), step(other, ends[0][1], KEEP_SHAPE)))
        need(all(v.shape == made.shape and v.kind == made.kind for v in ends[1]))
    sides = [[v[side] for v in ends] for side in (0, 1)]
    parts = [body(inner, "then", [], sides[0], f.chance(0.8)), body(other, "else", [], sides[1], f.chance(0.8))]
    then, orelse = parts[:: f.pick([1, -1])]
    g.add("If", [asked.name], names[: len(ends)], {"then_branch": then, "else_branch": orelse})
    g.live += [Value(name, made.kind, made.shape) for name in names[1 : len(ends)]]
    return Value(names[0], made.kind, made.shape)


def opposite(g: Scope, x: Value, made: Value) -> Value:
    """What the other branch puts out."""
    f = g.file
    fitting = [v for v in g.visible if v.kind == made.kind and v.shape == made.shape]
    if not fitting:
        numbers = f.chance(0.5) and f.opset >= 9
        return literal(g, f.rng.standard_normal(made.shape), made.kind) if numbers else matching(g, x, made)
    end = planned(g, x if x.shape == made.shape and f.chance(0.6) else f.pick(fitting), KEEP_SHAPE)
    need(end.shape == made.shape and end.kind == made.kind)
    return end


def matching(g: Scope, x: Value, wanted: Value) -> Value:
    """The mean of x, laid out in a shape."""
    need(g.file.opset >= 8 and x.kind == wanted.kind)
    flat = g.emit("Reshape", [x, plain(g, [-1], I64)])[0]
    need(flat.shape[0] > 0)
    one = g.emit("ReduceMean", [flat], keepdims=1)[0]
    return g.emit("Expand", [one, plain(g, list(wanted.shape), I64)])[0]


def loop(g: Scope, x: Value) -> Value:
    """One or two carried tensors, and at times what every iteration puts out."""
    f = g.file
    need(g.depth < 2)
    trips, goes = trip_count(g), Value("", BOOL, ()) if f.chance(0.3) else plain(g, True, BOOL)
    starts = [x, affine_layers.twin(g, x)] if f.chance(0.25) else [x]
    names = [*(g.fresh("loop") for _ in starts), g.fresh("scan")]
    inner = Scope(f, g, stem=f.pick(["b", "i"]))
    count, going = Value(inner.fresh(), I64, ()), Value(inner.fresh(), BOOL, ())
    carried = [Value(inner.fresh(), x.kind, x.shape) for _ in starts]
    inner.live += carried
    states = [chain(inner, v, f.number(1, 2), KEEP_SHAPE) for v in carried][:: f.pick([1, -1])]
    need(all(v.shape == x.shape and v.kind == x.kind for v in states))
    outs = [inner.emit("Identity", [going])[0] if f.chance(0.8) else literal(inner, np.asarray(True), BOOL), *states]
    if f.chance(0.5):
        outs.append(step(inner, f.pick([x, *carried, *states]), PLAIN))
        need(not outs[-1].constant and outs[-1].kind in FLOATS)
        g.live.append(Value(names[-1], outs[-1].kind, (2, *outs[-1].shape)))
        f.features["Loop with scan output"] += 1
    graph = body(inner, "body", [count, going, *carried], outs)
    g.add("Loop", [trips.name, goes.name, *(v.name for v in starts)], names[: len(outs) - 1], {"body": graph})
    return Value(names[0], x.kind, x.shape)


def trip_count(g: Scope) -> Value:
    f = g.file
    if g.depth or g.is_function or f.chance(0.5):
        return plain(g, f.pick([np.int64(2), np.array([2])]), I64)
    made = Value(g.fresh("trips"), I64, ())
    g.inputs.append(helper.make_tensor_value_info(made.name, I64, []))
    f.trips.append(made.name)
    return made


def scan(g: Scope, x: Value) -> Value:
    """Over the first axis of x, with a state that starts from its first element."""
    f = g.file
    need(f.opset >= 9 and x.rank >= 2 and min(x.shape) > 0 and g.depth < 2)
    zero = g.emit("Gather", [x, plain(g, 0, I64)], axis=0)[0]
    names = [g.fresh("state"), g.fresh("scan")]
    inner = Scope(f, g, stem="b")
    state, element = (Value(inner.fresh(), x.kind, x.shape[1:]) for _ in range(2))
    inner.live += [state, element]
    end = chain(inner, state, 1, KEEP_SHAPE)
    need(end.shape == state.shape and end.kind == state.kind)
    first = inner.emit("Add", [element, end])[0] if f.chance(0.5) else element
    put = chain(inner, first, f.number(1, 2))
    need(not put.constant and put is not end)
    graph = body(inner, "body", [state, element], [end, put])
    g.add("Scan", [zero.name, x.name], names, {"body": graph, "num_scan_inputs": 1})
    return Value(names[1], put.kind, (x.shape[0], *put.shape))


def function(g: Scope, x: Value) -> Value:
    """A call of a local function, which may be called twice, with constants of its own or given to it."""
    f = g.file
    need(f.ir >= 8 and f.opset >= 13 and not g.is_function and g.depth < 2)
    inner = Scope(f, None, is_function=True, stem="f")
    given = Value(inner.fresh(), x.kind, x.shape)
    inner.live.append(given)
    params, inside, first = parameters(g, inner, given)
    end = chain(inner, first, f.number(1, 2), PLAIN if f.chance(0.4) else KEEP_SHAPE)
    produced = {n for node in inner.nodes for n in node.output}
    need(end.name in produced and end is not given and not end.constant)
    names, said = attribute_of_caller(g, inner)
    called, inputs = f"F{len(f.functions)}", [given.name, *(p.name for p in inside)]
    opsets = [helper.make_opsetid("", f.opset)]
    f.functions.append(helper.make_function("local", called, inputs, [end.name], inner.nodes, opsets, names))
    for _ in range(f.pick([1, 1, 2]) if end.shape == x.shape and end.kind == x.kind else 1):
        result = Value(g.fresh("call"), end.kind, end.shape)
        g.add(called, [x.name, *(p.name for p in params)], [result.name], said, domain="local")
        x = result
    f.features["function"] += 1
    return x


def parameters(g: Scope, inner: Scope, given: Value) -> tuple[list[Value], list[Value], Value]:
    """Constants that the caller gives a BatchNormalization inside: here, there, and what that makes."""
    f = g.file
    if given.rank < 2 or f.chance(0.5):
        return [], [], given
    params = [plain(g, f.rng.uniform(0.5, 2, given.shape[1]), given.kind) for _ in range(f.pick([1, 4]))]
    inside = [Value(inner.fresh(), p.kind, p.shape) for p in params]
    made = inner.emit("BatchNormalization", [given, *(inside * 4)[:4]])[0]
    inner.live.append(made)
    return params, inside, made


def attribute_of_caller(g: Scope, inner: Scope) -> tuple[list[str], dict[str, Any]]:
    """Lets the epsilon of a BatchNormalization be said by the caller, at times."""
    for node in inner.nodes:
        if node.op_type == "BatchNormalization" and g.file.chance(0.3):
            kept = [a for a in node.attribute if a.name != "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
            said = node.attribute.add()
            said.name, said.ref_attr_name, said.type = "epsilon", "eps", said.FLOAT
            return ["eps"], {"eps": 0.01}
    return [], {}


LAYERS = {if_: 5, loop: 3, scan: 2, function: 4}
ALL = {**PLAIN, **LAYERS}
LINEAR = FIRST = linear_layers.LAYERS
AFFINE = affine_layers.AFFINE
CROSSED: Mapping[Any, int] = {
    **moving_layers.LAYERS, affine_layers.residual: 4, affine_layers.variadic: 3, other_layers.pool: 9,
    other_layers.global_pool: 3, other_layers.reduce: 6, other_layers.activation: 3, other_layers.prelu: 2,
    other_layers.clip: 2, other_layers.quantized: 3, other_layers.normalized: 1, **LAYERS,
}  # fmt: skip
CUTS: Mapping[Any, int] = {
    moving_layers.slice_: 5,
    moving_layers.gather: 1,
    moving_layers.pad: 1,
    moving_layers.split: 1,
}
WINDOWS: Mapping[Any, int] = {other_layers.pool: 1}
BOUNDS: Mapping[Any, int] = {other_layers.clip: 2, other_layers.prelu: 1, other_layers.activation: 1}
PRODUCTS: Mapping[Any, int] = {linear_layers.matmul: 1}
MOVES: Mapping[Any, int] = {moving_layers.transpose: 2, moving_layers.reshape: 1, moving_layers.unsqueezed: 1}
NORMS: Mapping[Any, int] = {affine_layers.bn: 1}
HEADS: Mapping[Any, int] = {moving_layers.heads: 1}
PLANS: list[list[Mapping[Any, int]]] = [
    *[[LINEAR, CUTS, AFFINE], [AFFINE, CUTS, AFFINE], [AFFINE, CUTS, LINEAR], [LINEAR, WINDOWS, AFFINE]] * 2,
    *[[LINEAR, WINDOWS, BOUNDS, AFFINE], [AFFINE, WINDOWS, LINEAR], [PRODUCTS, MOVES, NORMS], [PRODUCTS, NORMS]],
    *[
        [LINEAR, CROSSED, AFFINE],
        [LINEAR, CROSSED, CROSSED, AFFINE],
        [AFFINE, CROSSED, LINEAR],
        [AFFINE, CROSSED, CROSSED, LINEAR],
    ]
    * 3,
    *[[LINEAR, AFFINE, LAYERS], [LINEAR, LAYERS], [LINEAR, LAYERS, AFFINE], [AFFINE, LAYERS, LINEAR]] * 2,
    *[
        [AFFINE, AFFINE, AFFINE],
        [AFFINE, CROSSED, AFFINE],
        [LINEAR, AFFINE, CROSSED, AFFINE],
        [AFFINE, CROSSED, AFFINE, CROSSED, LINEAR],
    ],
    *[[LINEAR, HEADS, NORMS], [LINEAR, HEADS, MOVES, AFFINE], [AFFINE, HEADS, CROSSED, LINEAR]],
    *[[LINEAR, AFFINE, LINEAR, AFFINE], [LINEAR, affine_layers.KEEP_SHAPE, affine_layers.KEEP_SHAPE]],
]
