"""The small networks in which `referee` plants faults: what their normalization folds into is not where the fault is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto

from bnfold.folding import driver
from tests.build import BN, bn, build, values
from tests.data import DATA

from .edits import tensor

IMAGE, SAME = "float[N,3,8,8] x", "float[N,4,8,8] y"
STEM = f"t = Conv <pads = [1,1,1,1]> (x, w, b) n = {BN('t', 'n')} r = Relu (n)"
STEMS: Mapping[str, Any] = {"w": (4, 3, 3, 3), "b": (4,), **bn("n", 4)}
DENSE = f"t = MatMul (x, w) n = {BN('t', 'n')} r = Relu (n)"
DENSES: Mapping[str, Any] = {"w": (6, 6), **bn("n", 6)}


def net(
    inputs: str, outputs: str, body: str, constants: Mapping[str, Any], opset: int = 18, functions: str = ""
) -> ModelProto:
    """float32; constants are drawn by shape (a tuple), or given."""
    domains = f'"": {opset}' + (', "own": 1' if functions else "")
    text = f"<ir_version: 9, opset_import: [{domains}]> g ({inputs}) => ({outputs}) {{ {body} }} {functions}"
    model = onnx.parser.parse_model(text)
    words = {k: v for k, v in constants.items() if isinstance(v, list)}
    drawn = values({k: v for k, v in constants.items() if k not in words})
    model.graph.initializer.extend(tensor(v, k) for k, v in (drawn | words).items())
    return model


def image(tail: str, outputs: str = SAME, inputs: str = IMAGE, opset: int = 18, **constants: Any) -> ModelProto:
    """Conv, BatchNormalization, Relu `r` [N,4,8,8], and what follows."""
    return net(inputs, outputs, f"{STEM} {tail}", {**STEMS, **constants}, opset)


def rows(tail: str, outputs: str = "float[N,L,6] y", inputs: str = "float[N,L,6] x", **constants: Any) -> ModelProto:
    """MatMul, BatchNormalization over [M,6], Relu `r`, and what follows; over the last axis, whatever the others are."""
    body = f"m = MatMul (x, w) a = Mul (m, s) n = Add (a, c) r = Relu (n) {tail}"
    return net(inputs, outputs, body, {"w": (6, 6), "s": np.full(6, 1.5), "c": (6,), **constants})


def deep(tail: str, outputs: str = "float[N,5] y", inputs: str = "float[N,6] x", **constants: Any) -> ModelProto:
    """MatMul, BatchNormalization, Relu `r` [N,6], and what follows."""
    return net(inputs, outputs, f"{DENSE} {tail}", {**DENSES, **constants})


def out(rank: int, name: str = "y", kind: str = "float") -> str:
    """An output whose dimensions have names of their own."""
    return f"{kind}[{','.join(f'{name}{axis}' for axis in range(rank))}] {name}"


def annotated() -> ModelProto:
    """A file with all that has nothing to do with what it computes."""
    model = onnx.shape_inference.infer_shapes(image("y = Conv (r, w2)", out(4), w2=(5, 4, 3, 3)))
    model.doc_string, model.producer_name, model.model_version, model.domain = "words", "someone", 3, "org.example"
    onnx.helper.set_model_props(model, {"classes": "cat,dog"})
    model.graph.initializer.append(tensor(np.arange(3.0), "unused"))
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node{number}", "words"
    return model


def quantized() -> ModelProto:
    """Activations of 8 bits around a convolution whose weights have 8 bits and a scale for each channel."""
    body = f"""q = QuantizeLinear (x, xs, xz) d = DequantizeLinear (q, xs, xz)
        dw = DequantizeLinear <axis = 0> (w, ws, wz) t = Conv <pads = [1,1,1,1]> (d, dw, b) n = {BN("t", "n")} r = Relu (n)
        p = QuantizeLinear (r, ys, yz) y = DequantizeLinear (p, ys, yz)"""
    random = np.random.default_rng(3)
    weight = random.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
    given = {"w": weight, "ws": np.array([0.01, 0.02, 0.015, 0.012]), "wz": np.zeros(4, np.int8)}
    acts = {"xs": np.array(0.03), "xz": np.array(120, np.uint8), "ys": np.array(0.08), "yz": np.array(3, np.uint8)}
    model = net(IMAGE, SAME, body, {"b": (4,), **bn("n", 4), "ng": np.array([0.5, 1.5, 1.0, 0.8])}, 19)
    model.graph.initializer.extend(tensor(v, k) for k, v in (given | acts).items())
    return model


def eighths() -> ModelProto:
    """A table of words in numbers of 8 bits."""
    body = "q = Gather (table, ids) x = DequantizeLinear (q, ts) m = MatMul (x, w) a = Mul (m, s) y = Tanh (a)"
    model = net(TOKENS, out(3), body, {"w": (6, 6), "s": np.full(6, 1.5), "ts": np.array(0.02)})
    table = np.random.default_rng(3).integers(-100, 100, (5000, 6)).astype(np.int8)
    model.graph.initializer.append(tensor(table, "table"))
    return model


def branched(condition: str, inputs: str = IMAGE, **constants: Any) -> ModelProto:
    """An If with constants in both bodies; `condition` computes `on`, unless it is an input."""
    one, two = (f"Constant <value = float {{{v}}}> ()" for v in ("1.5", "-0.5"))
    tail = f"""{condition} y = If (on) <
        then_branch = yes () => (float[N,4,8,8] a) {{ k = {one} a = Mul (r, k) }},
        else_branch = no () => (float[N,4,8,8] z) {{ j = {two} z = Add (r, j) }}>"""
    return image(tail, inputs=inputs, **constants)


def looped(count: str, **constants: Any) -> ModelProto:
    """A Loop that halves and adds, `count` computes how often: `times`."""
    body = """body (int64 i, bool go, float[N,6] v) => (bool on, float[N,6] u) {
        on = Identity (go) h = Constant <value = float {0.5}> () e = Mul (v, h) f = CastLike (i, v) u = Add (e, f) }"""
    tail = f"yes = Constant <value = bool {{1}}> () {count} y = Loop (times, yes, r) <body = {body}>"
    return deep(tail, "float[N,6] y", **constants)


def scanned() -> ModelProto:
    body = """step (float[N,6] s, float[N,6] v) => (float[N,6] o, float[N,6] u) {
        k = Constant <value = float {0.7}> () d = Mul (s, k) o = Add (d, v) u = Tanh (o) }"""
    tail = f"q = Transpose <perm = [1,0,2]> (r) last, y = Scan (zero, q) <body = {body}, num_scan_inputs = 1>"
    return rows(tail, "float[L,N,6] y", "float[2,5,6] x", zero=np.zeros((2, 6)))


def functional() -> ModelProto:
    """A function of the model's own, that has attributes and constants inside."""
    body = f"{STEM} y = own.act (r)"
    act = """<domain: "own", opset_import: ["": 18]> act (v) => (o) {
        k = Constant <value = float {1.25}> () m = Mul (v, k) s = Sub (m, k) o = LeakyRelu <alpha = 0.2> (s) }"""
    return net(IMAGE, SAME, body, STEMS, functions=act)


def overridable() -> ModelProto:
    """An initializer that is also an input, whose value a caller may replace."""
    return image("y = Mul (r, gain)", inputs=f"{IMAGE}, float[1] gain", gain=np.array([1.5]))


TOKENS = "int64[N,L] ids"
POOL = "float[N,3,H,W] x"
LSTM = {"lw": (1, 20, 6), "lr": (1, 20, 5), "lb": (1, 40)}
GRU = {"lw": (1, 15, 6), "lr": (1, 15, 5), "lb": (1, 30)}
_NETS: Mapping[str, Any] = {
    "plain": lambda: image("y = Conv (r, w2)", out(4), w2=(5, 4, 3, 3)),
    "annotated": annotated,
    "resize twice": lambda: image(
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"> (r, , k)',
        out(4), k=np.array([1.0, 1, 2, 2]),
    ),
    "pad": lambda: image(
        "y = Pad <mode = 'constant'> (r, p, v)".replace("'", '"'), out(4), p=np.array([0, 0, 1, 2, 0, 0, 2, 1]), v=np.array(0.0)
    ),
    "resize linear": lambda: image(
        'y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (r, , k)', out(4), k=np.array([1, 1, 1.5, 1.5])
    ),
    "resize nearest": lambda: image(
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"> (r, , k)',
        out(4), k=np.array([1, 1, 1.5, 1.75]),
    ),
    "resize cubic": lambda: image('y = Resize <mode = "cubic", cubic_coeff_a = -0.75> (r, , k)', out(4), k=np.array([1, 1, 1.5, 1.5])),
    "resize down": lambda: image('y = Resize <mode = "linear", antialias = 1> (r, , k)', out(4), k=np.array([1, 1, 0.5, 0.5])),
    "max pool": lambda: image("y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (r)", out(4)),
    "max pool of any size": lambda: image("y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)", out(4), POOL),
    "mean pool": lambda: image("y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)", out(4)),
    "mean pool without pads": lambda: image("y = AveragePool <kernel_shape = [3,3]> (r)", out(4)),
    "same": lambda: image('y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (r, w2)', out(4), w2=(5, 4, 3, 3)),
    "same, step 1": lambda: image('y = Conv <auto_pad = "SAME_UPPER"> (r, w2)', out(4), w2=(5, 4, 3, 3)),
    "same of any size": lambda: image('y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (r, w2)', out(4), POOL, w2=(5, 4, 3, 3)),
    "wide": lambda: image("y = Conv <pads = [1,1,1,1]> (r, w2, b2)", out(4), w2=(5, 4, 3, 3), b2=(5,)),
    "groups": lambda: image("y = Conv <group = 2> (r, w2)", out(4), w2=(4, 2, 3, 3)),
    "up": lambda: image("y = ConvTranspose <strides = [2,2]> (r, w2)", out(4), w2=(4, 3, 2, 2)),
    "clip": lambda: image("y = Clip (n, low, high)", low=np.array(0.0), high=np.array(6.0)),
    "rare clip": lambda: image("y = Clip (n, low, high)", low=np.array(-1e6), high=np.array(1e6)),
    "if rare body": lambda: image("""s = ReduceSum <keepdims = 0> (x) on = Greater (s, big) y = If (on) <
        then_branch = yes () => (float[N,4,8,8] a) { a = Softsign (r) }, else_branch = no () => (float[N,4,8,8] z) { z = Tanh (r) }>""", big=np.array(2e4)),
    "clip after sigmoid": lambda: image("s = Sigmoid (n) y = Clip (s, low, high)", low=np.array(0.0), high=np.array(1.0)),
    "twice relu": lambda: image("y = Relu (r)"),
    "residual": lambda: image("c = Conv <pads = [1,1,1,1]> (r, w2) e = Tanh (c) a = Add (e, r) y = Relu (a)", w2=(4, 4, 3, 3)),
    "difference": lambda: image("c = Conv <pads = [1,1,1,1]> (r, w2) e = Tanh (c) a = Sub (e, r) y = Tanh (a)", w2=(4, 4, 3, 3)),
    "quotient": lambda: image("e = Exp (n) f = Add (e, k) g = Sigmoid (n) y = Div (g, f)", k=np.array(1.0)),
    "mostly positive": lambda: image("h = Tanh (n) i = Add (h, k) y = Relu (i)", k=np.array(0.999)),
    "leaky": lambda: image("y = LeakyRelu <alpha = 0.1> (n)"),
    "elu": lambda: image("y = Elu <alpha = 1.0> (n)"),
    "hard": lambda: image("y = HardSigmoid <alpha = 0.2, beta = 0.5> (n)"),
    "prelu": lambda: image("y = PRelu (n, k)", k=np.array([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1)),
    "gelu": lambda: image("y = Gelu (n)", opset=20),
    "quantized": quantized,
    "if input": lambda: branched("", f"{IMAGE}, bool on"),
    "if rare": lambda: branched("s = ReduceSum <keepdims = 0> (x) on = Greater (s, big)", big=np.array(2e4)),
    "if usual": lambda: branched("s = ReduceSum <keepdims = 0> (x) on = Less (s, big)", big=np.array(2e4)),
    "loop": lambda: looped("times = Constant <value = int64 {3}> ()"),
    "loop over rows": lambda: looped("shape = Shape (x) times = Gather (shape, zero)", zero=np.array(0)),
    "loop until": lambda: deep(
        """yes = Constant <value = bool {1}> () times = Constant <value = int64 {4}> () y = Loop (times, yes, r) <
        body = body (int64 i, bool go, float[N,6] v) => (bool on, float[N,6] u) {
        m = ReduceMax <keepdims = 0> (v) most = Constant <value = float {1000000.0}> () on = Less (m, most) u = Tanh (v) }>""", "float[N,6] y"),
    "scan": scanned,
    "function": functional,
    "override": overridable,
    "two outputs": lambda: image("y = Sigmoid (n) z = Tanh (n)", f"{SAME}, float[N,4,8,8] z"),
    "two inputs": lambda: image("y = Sub (r, u)", inputs=f"{IMAGE}, float[N,4,8,8] u, float[N,2] idle"),
    "two names of one size": lambda: net("float[N,6] x, float[M,6] u", out(2), f"{DENSE} h = Add (r, u) y = Tanh (h)", DENSES),
    "two sizes": lambda: net(
        "float[N,L,6] x, float[N,K,6] u", "float[N,L,K] y", "m = MatMul (x, w) a = Mul (m, s) v = Transpose <perm = [0,2,1]> (u) y = MatMul (a, v)",
        {"w": (6, 6), "s": np.full(6, 1.5)},
    ),
    "layer norm": lambda: rows("y = LayerNormalization <epsilon = 0.00001> (r, k, j)", inputs="float[N,6,6] x", k=(6,), j=(6,)),
    "instance norm": lambda: image("y = InstanceNormalization <epsilon = 0.00001> (r, k, j)", k=(4,), j=(4,)),
    "kept norm": lambda: image(f"p = Tanh (r) y = {BN('p', 'k')}", **bn("k", 4)),
    "softmax": lambda: rows("y = Softmax <axis = 2> (n)", inputs="float[N,6,6] x"),
    "square": lambda: deep("g = Gemm (r, w2, c2) y = Tanh (g)", out(2), w2=(6, 6), c2=(6,)),
    "kernel": lambda: image("y = Conv (r, w2)", out(4), w2=(5, 4, 3, 3)),
    "perm": lambda: rows("p = Transpose <perm = [0,2,1]> (r) y = Mul (p, k)", inputs="float[N,6,6] x", k=(6, 6)),
    "einsum": lambda: rows('y = Einsum <equation = "nij,jk->nik"> (r, k)', inputs="float[N,6,6] x", k=(6, 6)),
    "concat": lambda: image("s = Sigmoid (n) h = Tanh (n) y = Concat <axis = 1> (s, h)", out(4)),
    "split": lambda: image("f, g = Split <axis = 1, num_outputs = 2> (n) s = Sigmoid (f) h = Tanh (g) y = Sub (s, h)", out(4)),
    "mean": lambda: rows("y = ReduceMean <keepdims = 0> (r, axes)", out(2), "float[N,6,6] x", axes=np.array([1])),
    "depth": lambda: image('y = DepthToSpace <blocksize = 2, mode = "DCR"> (r)', out(4)),
    "depth of 8": lambda: image('c = Concat <axis = 1> (r, n) y = DepthToSpace <blocksize = 2, mode = "DCR"> (c)', out(4)),
    "sample": lambda: image(
        'h = Tanh (g) y = GridSample <align_corners = 0, padding_mode = "zeros"> (r, h)', out(4), f"{IMAGE}, float[N,5,5,2] g"
    ),
    "cast": lambda: image("d = Cast <to = 11> (r) y = Cast <to = 1> (d)"),
    "dropout": lambda: image("y, mask = Dropout (r, half, no)", half=np.array(0.5), no=np.array(False)),
    "lrn": lambda: image("y = LRN <size = 3, alpha = 0.1> (r)"),
    "lstm": lambda: rows('q = Transpose <perm = [1,0,2]> (r) y, h, c2 = LSTM <hidden_size = 5, direction = "forward"> (q, lw, lr, lb)', out(4), **LSTM),
    "gru": lambda: rows("q = Transpose <perm = [1,0,2]> (r) y, h = GRU <hidden_size = 5, linear_before_reset = 1> (q, lw, lr, lb)", out(4), **GRU),
    "cumsum": lambda: rows("y = CumSum (r, k)", k=np.array(1)),
    "trilu": lambda: rows("y = Trilu <upper = 1> (n)", inputs="float[N,6,6] x"),
    "topk": lambda: deep("y, i = TopK <axis = 1> (n, k)", f"{out(2)}, {out(2, 'i', 'int64')}", k=np.array([2])),
    "argmax": lambda: rows("y = ArgMax <axis = 1, keepdims = 0> (n)", out(2, kind="int64"), "float[N,6,6] x"),
    "argmax of ties": lambda: rows("h = Relu (n) l = Sign (h) y = ArgMax <axis = 2, keepdims = 0> (l)", out(2, kind="int64")),
    "argmax of scores": lambda: rows("y = ArgMax <axis = 2, keepdims = 0> (n)", out(2, kind="int64")),
    "take": lambda: image("y = Gather <axis = 1> (r, k)", out(4), k=np.array([2, 0])),
    "slice": lambda: image("y = Slice (r, k, l, m)", out(4), k=np.array([1]), l=np.array([7]), m=np.array([3])),
    "words": lambda: net(
        TOKENS, out(3), "x = Gather (table, ids) m = MatMul (x, w) a = Mul (m, s) n = Add (a, c) y = Tanh (n)",
        {"table": (5000, 6), "w": (6, 6), "s": np.full(6, 1.5), "c": (6,)},
    ),
    "words of 8 bits": eighths,
    "words by numbers": lambda: net(
        TOKENS, out(3), "k = Gather (hashes, ids) x = Gather (table, k) m = MatMul (x, w) a = Mul (m, s) y = Tanh (a)",
        {"hashes": np.arange(5000) % 50, "table": (50, 6), "w": (6, 6), "s": np.full(6, 1.5)},
    ),
    "classes": lambda: deep("y = Softmax <axis = 1> (n)", out(2)),
    "softplus": lambda: deep("y = Softplus (n)", out(2)),
    "sigmoid": lambda: deep("y = Sigmoid (n)", out(2)),
    "small epsilon": lambda: image("y = InstanceNormalization <epsilon = 0.000000000001> (r, k, j)", k=(4,), j=(4,)),
    "indices": lambda: net("float[N,6] x, int64[N,6] i", "float[N,6] y, int64[N,6] z", f"{DENSE} y = Tanh (r) z = Mul (i, i)", DENSES),
    "whole numbers": lambda: net(
        "float[N,6] x, int64[N,6] i", "float[N,6] y, int64[N,6] z", f"{DENSE} y = Tanh (r) z = Mod (i, k)", {**DENSES, "k": np.array(3)}
    ),
    "threshold": lambda: net(
        "float[N,6] x, int64[N,6] i", "float[N,6] y, bool[N,6] z", f"{DENSE} y = Tanh (r) z = Greater (i, k)", {**DENSES, "k": np.array(3)}
    ),
    "narrow": lambda: net(
        "float[N,6] x, int64[N,6] i", "float[N,6] y, int64[N,6] z", f"{DENSE} y = Tanh (r) j = Cast <to = 6> (i) z = Cast <to = 7> (j)", DENSES
    ),
    "same type": lambda: image("y = Cast <to = 1> (r)"),
    "labels": lambda: deep("i = ArgMax <axis = 1, keepdims = 0> (n) y = Gather (names, i)", out(1, kind="string"), names=[*"abcdef"]),
    "parts": lambda: deep("s = SplitToSequence <axis = 1> (r, k) y = SequenceAt (s, i)", out(2), k=np.array([2, 2, 2]), i=np.array(1)),
    "list": lambda: deep("f = Tanh (n) g = Sigmoid (n) y = SequenceConstruct (f, g)", "seq(float[N,6]) y"),
    "float64": lambda: build(f"{DENSE} y = MatMul (r, w2)", "x[N,6]", "y[N,5]", {**DENSES, "w2": (6, 5)}, 18),
    "dense": lambda: deep("y = Tanh (r)", out(2)),
    "one bound": lambda: image("y = Clip (n, low, high)", low=np.array(0.0), high=np.array(1e6)),
    "two conditions": lambda: image(
        "s = ReduceSum <keepdims = 0> (x) f = Greater (n, k) g = Less (s, big) h = And (f, g) y = Where (h, n, k)", k=np.array(0.1), big=np.array(2e4)
    ),
    "boxes": lambda: net(
        "float[N,6] x, float[1,9,4] at, float[1,2,9] scores", f"{out(2)}, {out(2, 'z', 'int64')}",
        f"{DENSE} y = Tanh (r) z = NonMaxSuppression (at, scores, most, overlap, score)",
        {**DENSES, "most": np.array([100]), "overlap": np.array([0.9]), "score": np.array([-9.0])},
    ),
    "any length": lambda: rows("y = Tanh (r)"),
    "positions": lambda: rows("s2 = Shape <start = 1, end = 2> (r) p = Slice (pos, k, s2) y = Add (r, p)", pos=(512, 6), k=np.array([0])),
    "softmax 12": lambda: net(
        "float[N,4,6] x", out(3), "m = MatMul (x, w) a = Mul (m, s) y = Softmax <axis = 1> (a)", {"w": (6, 6), "s": np.full(6, 1.5)}, 12
    ),
    "rounded": lambda: image("h = Round (x) i = ReduceSum <keepdims = 1> (h, m) y = Mul (r, i)", m=np.array([1])),
    "tie of bounds": lambda: image(
        "g = Greater (x, k) i = Where (g, x, l) j = ReduceSum <keepdims = 1> (i, m) y = Mul (r, j)", k=np.array(0.5), l=np.array(2.0), m=np.array([1])
    ),
    "tie of classes": lambda: image("y2 = Tanh (r) y = ArgMax <axis = 1, keepdims = 0> (x)", f"{out(3, kind='int64')}, {out(4, 'y2')}"),
}  # fmt: skip


@cache
def _made(name: str) -> tuple[ModelProto, ModelProto]:
    kind, _, file = name.partition(" ")
    original = onnx.load(DATA / "onnx" / f"{file}.onnx") if kind == "file" else _NETS[name]()
    return original, driver.fold(original).model


def pair(name: str) -> tuple[ModelProto, ModelProto]:
    """A network (or a real file, as `file NAME`) and its faultless fold, each a copy to change."""
    copies = ModelProto(), ModelProto()
    for copy, model in zip(copies, _made(name), strict=True):
        copy.CopyFrom(model)
    return copies


NAMES = tuple(_NETS)
