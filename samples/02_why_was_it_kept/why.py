"""A small model for each reason to keep a BatchNormalization and, where something can be done, doing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper, parser

import bnfold

IMAGE, MAP = "float[N,4,8,8] x", "float[N,4,6,6] y"
FINAL = "nothing: this is final"


def model(body: str, inputs: str = IMAGE, outputs: str = MAP, **stored: np.ndarray) -> ModelProto:
    """A model by its nodes, in ONNX's text format; NORM(t) normalizes t, and `weight` is of a Conv."""
    rng = np.random.default_rng(0)
    shapes = {"scale": 4, "bias": 4, "mean": 4, "var": 4, "weight": (4, 4, 3, 3), "dense": (64, 5)}
    values = {name: (rng.random(shape) + 0.5).astype(np.float32) for name, shape in shapes.items()} | stored
    nodes = body.replace("NORM(", "BatchNormalization(scale, bias, mean, var, ")
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> m ({inputs}) => ({outputs}) {{ {nodes} }}')
    for node in made.graph.node:
        if node.op_type == "BatchNormalization":
            node.input.insert(0, node.input.pop())
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items() if name in used)
    return made


@dataclass(frozen=True)
class Example:
    """A model that keeps its BatchNormalization; `repair` does what `advice` says."""

    kept: ModelProto
    advice: str = FINAL
    repair: Callable[[ModelProto], ModelProto] | None = None
    freeze: bool = False  # the advice is --freeze-initializers


def changed(model: ModelProto, change: Callable[[ModelProto], object]) -> ModelProto:
    """A copy of the model, changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def debug_output() -> Example:
    body = "[conv] c = Conv(x, weight) [norm] n = NORM(c) [relu] y = Relu(n)"
    return Example(
        model(body, outputs=f"{MAP}, float[N,4,6,6] c"),
        "drop the output, if it was left from debugging",
        lambda m: changed(m, lambda m: m.graph.output.pop()),
    )


def overridable() -> Example:
    inputs = f"{IMAGE}, float[4,4,3,3] weight"  # an input that has a stored value, too
    made = model("[conv] c = Conv(x, weight) [norm] n = NORM(c) [relu] y = Relu(n)", inputs)
    return Example(made, "--freeze-initializers, if no caller gives its own weight", freeze=True)


def unknown_size() -> Example:
    def fix(m: ModelProto) -> None:
        for axis in 2, 3:
            m.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 4

    body = "[norm] n = NORM(x) [flat] f = Flatten(n) [dense] y = Gemm(f, dense)"
    advice = "write the size that the model has into the file: image 4 x 4"
    return Example(model(body, "float[N,4,H,W] x", "float[N,5] y"), advice, lambda m: changed(m, fix))


def training_dropout() -> Example:
    def switch_off(m: ModelProto) -> None:
        m.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array(False), "on"))

    body = "[conv] c = Conv(x, weight) [drop] d = Dropout(c, ratio, on) [norm] n = NORM(d) [relu] y = Relu(n)"
    made = model(body, ratio=np.array(0.5, np.float32), on=np.array(True))
    return Example(made, "export in inference mode", lambda m: changed(m, switch_off))


def too_large_for_float16() -> Example:
    made = model("[conv] c = Conv(x, weight) [norm] n = NORM(c) [relu] y = Relu(n)", var=np.full(4, 1e-6, np.float32))
    return Example(halved(made), "fold the float32 model, and leave this layer in float32", lambda m: made)


def halved(model: ModelProto) -> ModelProto:
    """The model in float16, its weights 1,000 times as large."""
    half = changed(model, lambda m: None)
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for t in half.graph.initializer:
        value = numpy_helper.to_array(t) * (1000 if t.name == "weight" else 1)
        t.CopyFrom(numpy_helper.from_array(value.astype(np.float16), t.name))
    return half


def before_a_padded_conv() -> Example:
    after = "[conv] c = Conv<pads=[1,1,1,1]>(x, weight) [norm] n = NORM(c) [relu] y = Relu(n)"
    body, size = "[norm] n = NORM(x) [conv] c = Conv<pads=[1,1,1,1]>(n, weight) [relu] y = Relu(c)", "float[N,4,8,8] y"
    advice = "train with the BatchNormalization after the Conv"
    return Example(model(body, outputs=size), advice, lambda m: model(after, outputs=size))


def after_a_relu() -> Example:
    body = "[conv] c = Conv(x, weight) [relu] r = Relu(c) [norm] n = NORM(r) [sigmoid] y = Sigmoid(n)"
    before = "[conv] c = Conv(x, weight) [norm] n = NORM(c) [relu] r = Relu(n) [sigmoid] y = Sigmoid(r)"
    advice = "in this model nothing; train with the BatchNormalization before the Relu"
    return Example(model(body), advice, lambda m: model(before))


def negative_scale() -> Example:
    body = "[conv] c = Conv(x, weight) [pool] p = MaxPool<kernel_shape=[3,3]>(c) [norm] n = NORM(p) [relu] y = Relu(n)"
    return Example(model(body, outputs="float[N,4,4,4] y", scale=np.float32([1, -1, 1, 1])))


def read_twice() -> Example:
    return Example(model("[conv] c = Conv(x, weight) [norm] n = NORM(c) [gate] s = Sigmoid(c) [mul] y = Mul(n, s)"))


EXAMPLES = (
    *(debug_output, overridable, unknown_size, training_dropout, too_large_for_float16),
    *(before_a_padded_conv, after_a_relu, negative_scale, read_twice),
)


def show(name: str, example: Example) -> None:
    """Print both reasons, what to do, and the result of bnfold after that."""
    onnx.save(example.kept, f"{name}.onnx")
    (kept,) = bnfold.fold(example.kept).kept
    print(f"\n{name}.onnx")
    for where, reason in ("before", kept.not_hoisted), ("after", kept.not_sunk):
        print(f"  not into what is {where + ':':<7} {reason.code:<14} {reason.words}")
    print(f"  what to do: {example.advice}")
    if example.repair or example.freeze:
        repaired = example.repair(example.kept) if example.repair else example.kept
        print(f"  then: {outcome(bnfold.fold(repaired, freeze_initializers=example.freeze))}")


def outcome(result: bnfold.FoldResult) -> str:
    left = [k for k in result.kept if k.operator == "BatchNormalization"]
    return "still kept" if left else f"it folds into {' and '.join(result.folded[-1].into)}"


def main() -> None:
    for make in EXAMPLES:
        show(make.__name__, make())


if __name__ == "__main__":
    main()
