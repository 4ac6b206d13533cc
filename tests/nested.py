"""Random models of nested bodies: If, Loop and Scan in each other and in functions, names used again, shared weights.

`python -m tests.nested 0 2000` folds those of 2000 seeds, and compares each with its original on onnxruntime.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 4, 3, 3)
NAMES = [f"t{i}" for i in range(200)]
STORED = [f"k{i}" for i in range(40)]
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]


@dataclass
class Scope:
    """One graph in the making: what it sees of the graphs around it, and what is its own."""

    around: Scope | None = None
    tensors: list[str] = field(default_factory=list)  # of SHAPE, in the order in which they are made
    weights: dict[str, list[str]] = field(default_factory=lambda: {"W": [], "v": []})
    taken: set[str] = field(default_factory=set)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)  # names of the graphs around that mean something else here

    below: set[str] = field(default_factory=set)  # what nodes in its bodies make: onnxruntime looks at all at once

    def sees(self, name: str) -> bool:
        return name in self.taken or (self.around is not None and self.around.sees(name))

    def make(self, name: str) -> None:
        if self.around:
            self.around.below.add(name)
            self.around.make(name)

    def listed(self, pick) -> list[str]:
        outer = [n for n in self.around.listed(pick) if n not in self.hidden] if self.around else []
        return [*outer, *pick(self)]


class Maker:
    """Draws one model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.functions: list[onnx.FunctionProto] = []
        self.used: set[str] = set()
        self.outputs = 0

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def among(self, names: list):
        return names[int(self.rng.integers(len(names)))]

    def name(self, scope: Scope, stored: bool = False) -> str:
        """One that nothing around has made yet; what a body stores may have one that is stored around it."""
        inner = scope.around is not None
        if stored and inner and self.chance(0.3):
            free = [n for n in NAMES if n not in self.used]  # a graph around may make it later
        elif stored:
            free = [n for n in STORED if n not in scope.taken and (inner or n not in self.used)]
        else:
            free = [n for n in NAMES if not scope.sees(n) and n not in scope.below]
        name = self.among(free[:8])
        if not stored:
            scope.make(name)
        if scope.sees(name):
            scope.hidden.add(name)
        scope.taken.add(name)
        self.used.add(name)
        return name

    def returned(self, scope: Scope, old: str) -> str:
        """Another name for what a graph returns: for those onnx's shape inference would mix graphs up."""
        self.outputs += 1
        new = f"y{self.outputs}"
        rename(scope.nodes, old, new)
        scope.tensors = [new if n == old else n for n in scope.tensors]
        scope.taken.add(new)
        return new

    def weight(self, scope: Scope, kind: str, inside: bool) -> str:
        """A weight that is there already, or a new one: an initializer or, in functions always, a Constant."""
        known = scope.listed(lambda s: s.weights[kind])
        if known and self.chance(0.4):
            return self.among(known)
        shape = (4, 4, 1, 1) if kind == "W" else (4,)
        value = self.rng.uniform(0.5, 1.5, shape).astype(np.float32) * (0.3 if kind == "W" else 1)
        literal = inside or self.chance(0.2)
        name = self.name(scope, stored=not literal)
        tensor = numpy_helper.from_array(value, name)
        if literal:
            scope.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            scope.stored.append(tensor)
        scope.weights[kind].append(name)
        return name

    def add(self, scope: Scope, operator: str, inputs: list[str], **attributes) -> str:
        name = self.name(scope)
        scope.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        scope.tensors.append(name)
        return name

    def source(self, scope: Scope) -> str:
        """Mostly the newest tensor of this graph."""
        own, known = scope.tensors, scope.listed(lambda s: s.tensors)
        return own[-1] if own and self.chance(0.75) else self.among(known)

    def step(self, scope: Scope, depth: int, inside: bool) -> None:
        kinds = ["conv"] * 4 + ["norm"] * 4 + ["relu", "add", "mul", "identity", "sum", "turn"]
        kinds += ["if"] * 3 + ["loop", "loop", "scan"] if depth else []
        kinds += ["call"] if depth and not inside else []
        getattr(self, f"make_{self.among(kinds)}")(scope, depth, inside)

    def make_conv(self, scope: Scope, depth: int, inside: bool) -> None:
        self.add(scope, "Conv", [self.source(scope), self.weight(scope, "W", inside)])

    def make_norm(self, scope: Scope, depth: int, inside: bool) -> None:
        statistics = [self.weight(scope, "v", inside) for _ in range(4)]
        self.add(scope, "BatchNormalization", [self.source(scope), *statistics])

    def make_relu(self, scope: Scope, depth: int, inside: bool) -> None:
        self.add(scope, "Relu", [self.source(scope)])

    def make_identity(self, scope: Scope, depth: int, inside: bool) -> None:
        self.add(scope, "Identity", [self.source(scope)])

    def make_add(self, scope: Scope, depth: int, inside: bool) -> None:
        self.add(scope, "Add", [self.source(scope), self.source(scope)])

    def make_turn(self, scope: Scope, depth: int, inside: bool) -> None:
        turned = self.add(scope, "Transpose", [self.source(scope)], perm=[0, 1, 3, 2])
        if self.chance(0.5):
            self.make_norm(scope, depth, inside)
        self.add(scope, "Transpose", [self.source(scope) if self.chance(0.5) else turned], perm=[0, 1, 3, 2])

    def make_mul(self, scope: Scope, depth: int, inside: bool) -> None:
        row = self.weight(scope, "W", inside)  # (4, 4, 1, 1): only its sum is of use
        axes = numpy_helper.from_array(np.array([0]), "")
        names = [self.name(scope), self.name(scope)]
        scope.nodes.append(helper.make_node("Constant", [], [names[0]], value=axes))
        scope.nodes.append(helper.make_node("ReduceMean", [row, names[0]], [names[1]]))
        self.add(scope, "Mul", [self.source(scope), names[1]])

    def make_sum(self, scope: Scope, depth: int, inside: bool) -> None:
        """Parallel branches, maybe from different graphs."""
        x = self.source(scope)
        left = self.add(scope, "Conv", [x, self.weight(scope, "W", inside)])
        self.add(scope, "Add", [left, self.add(scope, "Conv", [x, self.weight(scope, "W", inside)])])

    def body(self, scope: Scope, depth: int, inside: bool, inputs=(), also=(), returns: int = 1) -> onnx.GraphProto:
        """A graph that reads what is around; `inputs` are of SHAPE, `also` come before them."""
        inner = Scope(scope)
        heads = [(self.name(inner), kind) for kind in also]
        fed = [self.name(inner) for _ in inputs]
        inner.tensors += fed
        for _ in range(int(self.rng.integers(1, 5))):
            self.step(inner, depth - 1, inside)
        made = [x for n in inner.nodes for x in n.output if x in inner.tensors]
        made = made or [self.add(inner, "Identity", [self.source(inner)])]
        ends = [made[-1], *(self.among(made) for _ in range(returns - 1))]
        info = helper.make_tensor_value_info
        entering = [info(n, k, []) for n, k in heads] + [info(n, TensorProto.FLOAT, SHAPE) for n in fed]
        ends = [self.returned(inner, n) for n in dict.fromkeys(ends)]
        leaving = [info(n, TensorProto.FLOAT, SHAPE) for n in ends]
        while len(leaving) < returns:
            same = self.returned(inner, self.add(inner, "Identity", [ends[0]]))
            leaving.append(info(same, TensorProto.FLOAT, SHAPE))
        if heads:
            go = self.returned(inner, self.add(inner, "Identity", [heads[1][0]]))
            leaving.insert(0, info(go, TensorProto.BOOL, []))
        return helper.make_graph(inner.nodes, "body", entering, leaving, inner.stored)

    def make_if(self, scope: Scope, depth: int, inside: bool) -> None:
        branches = {k: self.body(scope, depth, inside) for k in ("then_branch", "else_branch")}
        self.add(scope, "If", [self.among(["c0", "c1"])], **branches)
        if self.chance(0.5):
            self.make_norm(scope, depth, inside)

    def make_loop(self, scope: Scope, depth: int, inside: bool) -> None:
        """One value goes round, another is collected."""
        start = self.source(scope)
        also = (TensorProto.INT64, TensorProto.BOOL)
        inner = self.body(scope, depth, inside, [start], also, returns=2)
        last, stacked = self.name(scope), self.name(scope)
        scope.nodes.append(helper.make_node("Loop", [self.among(["n0", "n1"]), "", start], [last, stacked], body=inner))
        self.collected(scope, stacked, inside)
        if self.chance(0.5):
            scope.tensors.append(last)

    def make_scan(self, scope: Scope, depth: int, inside: bool) -> None:
        """Over two tensors, one on the other."""
        axes, joined, whole, stacked = (self.name(scope) for _ in range(4))
        scope.nodes.append(helper.make_node("Constant", [], [axes], value_ints=[0]))
        scope.nodes.append(helper.make_node("Unsqueeze", [self.source(scope), axes], [joined]))
        scope.nodes.append(helper.make_node("Concat", [joined, joined], [whole], axis=0))
        inner = self.body(scope, depth, inside, [whole])
        scope.nodes.append(helper.make_node("Scan", [whole], [stacked], body=inner, num_scan_inputs=1))
        self.collected(scope, stacked, inside)

    def collected(self, scope: Scope, stacked: str, inside: bool) -> None:
        """What a loop collects, maybe scaled, summed over the steps."""
        axes = self.name(scope)
        scope.nodes.append(helper.make_node("Constant", [], [axes], value_ints=[0]))
        if self.chance(0.6):
            row, scaled = self.weight(scope, "W", inside), self.name(scope)
            names = [self.name(scope), self.name(scope)]
            scope.nodes.append(helper.make_node("ReduceMean", [row, axes], [names[0]]))
            scope.nodes.append(helper.make_node("Unsqueeze", [names[0], axes], [names[1]]))
            scope.nodes.append(helper.make_node(self.among(["Mul", "Add"]), [stacked, names[1]], [scaled]))
            stacked = scaled
        self.add(scope, "ReduceSum", [stacked, axes], keepdims=0)

    def make_call(self, scope: Scope, depth: int, inside: bool) -> None:
        if not self.functions or self.chance(0.5):
            inner = Scope(taken={"x", "c0", "c1", "n0", "n1"}, tensors=["x"])
            for _ in range(int(self.rng.integers(2, 6))):
                self.step(inner, depth, inside=True)
            last = self.add(inner, "Identity", [self.source(inner)])
            name, inputs = f"F{len(self.functions)}", ["x", "c0", "c1", "n0", "n1"]
            self.functions.append(helper.make_function("my", name, inputs, [last], inner.nodes, OPSETS))
        self.add(scope, self.among(self.functions).name, [self.source(scope), "c0", "c1", "n0", "n1"], domain="my")

    def model(self) -> onnx.ModelProto:
        inputs = {"x": (TensorProto.FLOAT, SHAPE), **{k: (TensorProto.BOOL, []) for k in ("c0", "c1")}}
        inputs |= {k: (TensorProto.INT64, []) for k in ("n0", "n1")}
        scope = Scope(taken={*inputs}, tensors=["x"])
        for _ in range(int(self.rng.integers(3, 9))):
            self.step(scope, 2, inside=False)
        ends = dict.fromkeys([scope.tensors[-1], self.among(scope.tensors[1:])])
        info = helper.make_tensor_value_info
        outputs = [info(self.returned(scope, n), TensorProto.FLOAT, SHAPE) for n in ends]
        entering = [info(n, kind, shape) for n, (kind, shape) in inputs.items()]
        graph = helper.make_graph(scope.nodes, "main", entering, outputs, scope.stored)
        return helper.make_model(graph, opset_imports=OPSETS, functions=self.functions, ir_version=10)


def rename(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    """In nodes and in the bodies that do not store something of their own by that name."""
    for node in nodes:
        for listed in (node.input, node.output):
            listed[:] = [new if n == old else n for n in listed]
        for graph in (a.g for a in node.attribute if a.HasField("g")):
            if old not in {x.name for x in [*graph.initializer, *graph.input]} | {
                x for n in graph.node for x in n.output
            }:
                rename(graph.node, old, new)


def feeds() -> list[dict[str, np.ndarray]]:
    """Each branch, and loops of no step, one and several."""
    rng = np.random.default_rng(7)
    cases = [(False, False, 0, 3), (True, False, 2, 0), (False, True, 1, 1), (True, True, 3, 2)]
    return [
        {
            "x": rng.standard_normal(SHAPE).astype(np.float32),
            **{f"c{i}": np.array(c) for i, c in enumerate((a, b))},
            **{f"n{i}": np.array(n) for i, n in enumerate((n, m))},
        }
        for a, b, n, m in cases
    ]


def distinct(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with one name for each tensor: onnxruntime mixes up what nested bodies store under one name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    numbers = count()
    for part in (copy.graph, *copy.functions):
        apart(part, {}, numbers)
    return copy


def apart(graph: onnx.GraphProto | onnx.FunctionProto, known: dict[str, str], numbers: Iterator[int]) -> None:
    """New names for what a graph defines, its interface left alone where no graph is around it."""
    own = {x for n in graph.node for x in n.output if x}
    values: list = []
    if isinstance(graph, onnx.GraphProto):
        values = [*graph.initializer, *graph.input, *graph.output, *graph.value_info]
        own |= {x.name for x in [*graph.initializer, *graph.input]}
    if not known:
        own -= {getattr(x, "name", x) for x in [*graph.input, *graph.output]}
    known = {**known, **{name: f"u{next(numbers)}" for name in sorted(own)}, "": ""}
    for value in values:
        value.name = known.get(value.name, value.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [known.get(name, name) for name in listed]
        for attribute in (a for a in node.attribute if a.HasField("g")):
            apart(attribute.g, known, numbers)


def session(model: onnx.ModelProto):
    """onnxruntime over it, not optimized."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def results(model: onnx.ModelProto) -> list[np.ndarray]:
    """What onnxruntime makes of it in every case."""
    opened = session(distinct(model))
    return [value for case in feeds() for value in opened.run(None, case)]


def is_consistent(model: onnx.ModelProto) -> bool:
    """Whether onnx's shape inference copes with it, too: it mixes up what bodies store under a name of another graph."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def outcome(seed: int) -> tuple[str, onnx.ModelProto, onnx.ModelProto | None, int]:
    """What became of one model in a word, the model, its fold, and how many nodes were folded."""
    from bnfold.errors import BnfoldError
    from bnfold.folding import driver

    model = Maker(seed).model()
    try:
        onnx.checker.check_model(model)
        before = results(model)
    except Exception as why:
        return f"not valid: {str(why)[:60]}", model, None, 0
    try:
        result = driver.fold(model)
    except BnfoldError as why:
        return f"refused: {str(why)[:60]}", model, None, 0
    try:
        onnx.checker.check_model(result.model, full_check=is_consistent(model))
        after = results(result.model)
    except Exception as why:
        return f"INVALID: {str(why)[:300]}", model, result.model, len(result.folded)
    for a, b in zip(before, after, strict=True):
        if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(a).max(initial=0)))):
            return "WRONG", model, result.model, len(result.folded)
    if driver.fold(result.model).model != result.model:
        return "not the same twice", model, result.model, len(result.folded)
    return "right", model, result.model, len(result.folded)


def main() -> None:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    found: Counter[str] = Counter()
    folded = 0
    for seed in range(first, last):
        try:
            words, model, _, n = outcome(seed)
        except Exception as why:
            words, n = f"RAISED {type(why).__name__}: {why}"[:200], 0
        found[words] += 1
        folded += n
        if words not in ("right",) and not words.startswith("not valid"):
            print(seed, words, flush=True)
    print(folded, "folded", found.most_common(12))


if __name__ == "__main__":
    main()
