"""Faults in bodies and functions, in what callers see, and in data files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from .edits import Change, Edit, become, dimension, image, insert, of_input, other_branches, put, swap, values


def extra_output(model: ModelProto) -> None:
    value = model.graph.output.add()
    value.CopyFrom(helper.make_tensor_value_info("n", TensorProto.FLOAT, ["N", 4, 8, 8]))


def reverse(field: str) -> Change:
    """The inputs or outputs of the model in another order."""

    def change(model: ModelProto) -> None:
        values = [*getattr(model.graph, field)][::-1]
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(values)

    return change


def remove(field: str, name: str) -> Change:
    def change(model: ModelProto) -> None:
        values = getattr(model.graph, field)
        values.remove(next(v for v in values if v.name == name))

    return change


def rename_output(model: ModelProto) -> None:
    maker = next(n for n in model.graph.node if "y" in n.output)
    maker.output[:] = ["why" if n == "y" else n for n in maker.output]
    model.graph.output[0].name = "why"


def more_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def exchange(model: ModelProto) -> None:
    """The outputs `y` and `z` under each other's name."""
    for node in model.graph.node:
        node.output[:] = [{"y": "z", "z": "y"}.get(name, name) for name in node.output]


OVERRIDE = image(1.0) | {"gain": np.array([3], np.float32)}
BODIES = (
    Edit("bodies", "constant of the then-branch", "if input", values("k", lambda k: k * 1.01), image(1.0) | {"on": np.array(True)}),
    Edit("bodies", "constant of the else-branch", "if input", values("j", lambda k: k * 1.01), image(1.0) | {"on": np.array(False)}),
    Edit("bodies", "branches swapped", "if usual", other_branches),
    Edit("bodies", "constant of the usual branch", "if usual", values("k", lambda k: k * 1.001)),
    Edit("bodies", "operator of a branch", "if usual", become("Mul", "Add")),
    Edit("bodies", "constant in a Loop", "loop", values("h", lambda h: h * 1.001)),
    Edit("bodies", "rounds of a Loop", "loop", of_input("Loop", 0, lambda times: times + 1)),
    Edit("bodies", "operands in a Loop", "loop", become("Add", "Sub", 0)),
    Edit("bodies", "constant in a Scan", "scan", values("k", lambda k: k * 1.001)),
    Edit("bodies", "direction of a Scan", "scan", put("Scan", scan_input_directions=[1])),
    Edit("bodies", "activation in a Scan", "scan", become("Tanh", "Sigmoid")),
    Edit("bodies", "constant in a function", "function", values("k", lambda k: k * 1.001)),
    Edit("bodies", "attribute in a function", "function", put("LeakyRelu", alpha=0.21)),
    Edit("bodies", "operands in a function", "function", swap("Sub")),
)  # fmt: skip
INTERFACE = (
    Edit("interface", "an extra output", "plain", extra_output, "one output more"),
    Edit("interface", "an output less", "two outputs", remove("output", "z"), "one output less"),
    Edit("interface", "an output of another name", "plain", rename_output, "another name"),
    Edit("interface", "outputs reordered", "two outputs", reverse("output"), "another order"),
    Edit("interface", "names of outputs swapped", "two outputs", exchange),
    Edit("interface", "an unused input removed", "two inputs", remove("input", "idle"), "an input less"),
    Edit("interface", "inputs reordered", "two inputs", reverse("input"), "another order"),
    Edit("interface", "an input more", "plain", more_input, "an input more"),
    Edit("interface", "the batch fixed", "plain", dimension("x", 0, 1), "a batch of 2 is refused"),
    Edit("interface", "the batch of the output fixed", "plain", dimension("y", 0, 1), "a size that is not so"),
    Edit("interface", "equality of sizes lost", "two sizes", dimension("u", 0, "M"), "two batches may differ"),
    Edit("interface", "equality of sizes gained", "two sizes", dimension("u", 1, "L"), "sizes may not differ any more"),
    Edit("interface", "equality with the output lost", "two sizes", dimension("y", 0, "M"), "the batch of the output is another"),
    Edit("interface", "an overridable default", "override", values("gain", lambda g: g * 1.1)),
    Edit("interface", "an override that is gone", "override", remove("input", "gain"), "callers cannot give `gain` any more"),
    Edit("interface", "an override without effect", "override", insert("gain", "out = Identity (k)", k=np.array([1.5])), OVERRIDE),
)  # fmt: skip


Bytes = Callable[[bytearray, ModelProto], Any]


def external(change: Bytes, original: ModelProto, folded: ModelProto, folder: Path) -> tuple[Path, Path]:
    """Both models with their weights in data files; that of the second, or what refers to it, is changed."""
    paths = folder / "a.onnx", folder / "b.onnx"
    for path, model in zip(paths, (original, folded), strict=True):
        own = ModelProto()
        own.CopyFrom(model)
        onnx.save(own, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)
    data, model = bytearray(paths[1].with_suffix(".bin").read_bytes()), onnx.load(paths[1], load_external_data=False)
    change(data, model)
    paths[1].with_suffix(".bin").write_bytes(data)
    paths[1].write_bytes(model.SerializeToString())
    return paths


def place(model: ModelProto, name: str) -> Any:
    """Where the bytes of a constant begin."""
    return next(e for t in model.graph.initializer if t.name == name for e in t.external_data if e.key == "offset")


def one_bit(bit: int) -> Bytes:
    """A bit of the first number of the last Conv's weights."""

    def change(data: bytearray, model: ModelProto) -> None:
        data[int(place(model, "w2").value) + bit // 8] ^= 1 << bit % 8

    return change


def another_place(data: bytearray, model: ModelProto) -> None:
    place(model, "w2").value = str(int(place(model, "w").value))


def cut_short(data: bytearray, model: ModelProto) -> None:
    del data[-64:]


EXTERNAL: dict[str, Bytes] = {
    "sign of a weight": one_bit(31), "lowest bit of an exponent": one_bit(23), "weights of another constant": another_place,
    "a file cut short": cut_short, "all bytes zero": lambda data, model: data.__setitem__(slice(None), bytes(len(data))),
}  # fmt: skip
