"""The graph number `index`: drawn from a seed alone, valid, and small."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, helper

from . import bodies
from .net import F16, F32, F64, FLOATS, File, Scope, Skip, Value
from .shadows import shadow

NEWEST = 26  # the last operator set that onnxruntime 1.31 serves
SHAPES = [
    *[(2, 4, 5, 5), (2, 3, 4, 4), (1, 4, 4, 4), (2, 2, 5, 3), (1, 2, 3, 4)] * 4,
    *[(2, 4, 6), (1, 3, 5), (3, 4), (2, 6), (4, 4), (2, 3, 4)] * 3,
    *[(2, 2, 3, 3, 3), (1, 2, 2, 3, 2), (4,), (1,), (), (2, 1), (3, 1, 1)],
]


class Drawn(NamedTuple):
    """A graph, the names of its inputs that are conditions and trip counts, and what is in it."""

    model: ModelProto
    conditions: list[str]
    trips: list[str]
    features: Counter[str]


def draw(seed: int, index: int) -> Drawn:
    """The same graph at every call."""
    rng = np.random.default_rng([seed, index])
    while True:
        try:
            return drawn(rng)
        except Skip:
            continue


def drawn(rng: np.random.Generator) -> Drawn:
    opset = int(rng.choice([*range(7, NEWEST + 1), *[13, 17, 19, 21, 21, 22, 23] * 2]))
    ir = int(rng.choice([3, 7, 8])) if opset < 9 else int(rng.choice([4, 8, 8, 9, 10, 10, 11, 12, 13]))
    f = File(rng, opset, ir, str(rng.choice(["plain", "natural", "odd"], p=[0.5, 0.3, 0.2])))
    g = Scope(f)
    for _ in range(2 if f.chance(0.2) else 1):
        entry(g)
    plan = list(f.pick(bodies.PLANS)) if f.chance(0.85) else [bodies.FIRST]
    rest = f.number(2, 6) if len(plan) == 1 else f.number(0, 2) if f.chance(0.4) else 0
    for layers in plan + [bodies.ALL] * rest:
        floats = [v for v in g.live if v.kind in FLOATS]
        x = floats[-1] if f.chance(0.96 if rest < 3 else 0.8) else f.pick(floats)
        try:
            bodies.step(g, x, layers)
        except Skip:
            continue
    return finished(g)


def entry(g: Scope) -> None:
    """An input, of batch size 0 or with an empty axis at times."""
    f = g.file
    shape = list(f.pick(SHAPES))
    if shape and f.chance(0.04):
        shape[f.number(0, len(shape) - 1)] = 0
        f.features["input without elements"] += 1
    kind = f.pick([F32, F32, F32, F32, F32, F16, F16, F64])
    made = Value(g.fresh("x"), kind, tuple(shape))
    g.live.append(made)
    said: list[int | str | None] = list(shape)
    if shape and shape[0] == 2 and f.chance(0.4):
        said[0] = "N"
        f.features["symbolic batch"] += 1
    g.inputs.append(helper.make_tensor_value_info(made.name, kind, said))


def finished(g: Scope) -> Drawn:
    f = g.file
    if not g.nodes:
        raise Skip
    graph = helper.make_graph(g.nodes, f.pick(["g", "main graph"]), [], [], g.inits, sparse_initializer=g.sparse)
    graph.output.extend(outputs(g))
    graph.input.extend(g.inputs)
    listed(g, graph)
    imports = [helper.make_opsetid("", f.opset)]
    if f.functions:
        imports.append(helper.make_opsetid("local", 1))
    model = helper.make_model(graph, opset_imports=imports, ir_version=f.ir, functions=f.functions)
    notes(f, model)
    shadow(f, model)
    told(f, model)
    known = {i.name for i in graph.input}
    f.features[f"opset {f.opset}"] += 1
    return Drawn(model, [c for c in f.conditions if c in known], [t for t in f.trips if t in known], f.features)


def outputs(g: Scope) -> list[onnx.ValueInfoProto]:
    """What nobody reads, and at times what stands in the middle; with the whole shape, its rank, or neither."""
    f = g.file
    read = {name for node in g.nodes for name in everything_read(node)}
    produced = {name for node in g.nodes for name in node.output}
    own = [v for v in g.live if v.name in produced]
    ends = [v for v in own if v.name not in read]
    middle = [v for v in own if v.name in read and f.chance(0.05)]
    f.features["output in the middle"] += len(middle)
    chosen = ends[-4:] + middle
    if not chosen:
        raise Skip
    return [helper.make_tensor_value_info(v.name, v.kind, [None] * v.rank) for v in chosen]


def everything_read(node: onnx.NodeProto) -> list[str]:
    """The names a node reads, those in its bodies included."""
    inner = [n for a in node.attribute if a.type == a.GRAPH for each in a.g.node for n in everything_read(each)]
    return [*node.input, *inner, *(o.name for a in node.attribute if a.type == a.GRAPH for o in a.g.output)]


def listed(g: Scope, graph: onnx.GraphProto) -> None:
    """Initializers that are also inputs: all of them up to IR 3, and now and then some after it."""
    f = g.file
    share = 1.0 if f.ir < 4 else f.pick([0, 0, 0, 0, 0, 0.3, 1.0]) if f.chance(0.4) else 0
    chosen = [t for t in graph.initializer if f.chance(share)]
    f.features["initializers that are inputs"] += bool(chosen)
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in chosen)


def told(f: File, model: ModelProto) -> None:
    """The types that inference finds, for all tensors, some, or none."""
    share = f.pick([0, 0, 0.5, 1])
    if not share:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # of onnx: whatever inference cannot do
        return
    model.graph.value_info.extend(v for v in inferred.graph.value_info if v.HasField("type") and f.chance(share))
    stated = {o.name: o for o in inferred.graph.output}
    for output in model.graph.output:
        if f.chance(0.5):
            output.CopyFrom(stated[output.name])


def notes(f: File, model: ModelProto) -> None:
    """Documentation and metadata, which a fold must keep."""
    if f.chance(0.3):
        model.producer_name, model.doc_string, model.domain, model.model_version = "fuzz", "a note\n", "d", 7
        helper.set_model_props(model, {"classes": "a, b"})
    if f.chance(0.15):
        model.graph.doc_string = "the graph"
    if f.ir >= 10 and f.chance(0.2):
        model.graph.node[0].metadata_props.add(key="k", value="v")
        model.graph.metadata_props.add(key="g", value="v")
    if f.chance(0.05) and model.graph.initializer:
        note = model.graph.quantization_annotation.add(tensor_name=model.graph.initializer[0].name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=model.graph.initializer[0].name)
    if f.chance(0.06):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), f"unused{f.number(0, 9)}"))
