"""Files that want to harm, or that no sound exporter writes: each is a function from an empty folder to a model file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH = 4
SECRET = "secret.bin"  # next to the model's folder, not in it

Change = Callable[[ModelProto], object]


def sound() -> ModelProto:
    """Conv and BatchNormalization: what every attack starts from."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.standard_normal((WIDTH, 3, 3, 3)), **{k: rng.random(WIDTH) + 0.5 for k in "gbmv"}}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", *"gbmv"], ["y"], "norm"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH, 6, 6])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored(model: ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def changed(change: Change) -> Callable[[Path], Path]:
    """The sound model with one change."""

    def make(folder: Path) -> Path:
        model = sound()
        change(model)
        return written(folder, model.SerializeToString())

    return make


def written(folder: Path, content: bytes) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(content)
    return path


def outside(**entries: object) -> Callable[[Path], Path]:
    """The weight lies in a data file, as these entries have it; `m.data` holds 10 kB, as many as the weight takes."""

    def make(folder: Path) -> Path:
        model = sound()
        refer(stored(model, "w"), **{"location": "m.data", **entries})
        (folder / "m.data").write_bytes(bytes(WIDTH * 27 * 4))
        (folder.parent / SECRET).write_bytes(bytes(10_000))
        return written(folder, model.SerializeToString())

    return make


def refer(tensor: TensorProto, **entries: object) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def linked(link: Callable[[Path, Path], None]) -> Callable[[Path], Path]:
    """The data file is a link to a file outside the model's folder."""

    def make(folder: Path) -> Path:
        path = outside()(folder)
        (folder / "m.data").unlink()
        link(folder.parent / SECRET, folder / "m.data")
        return path

    return make


def symbolic(target: Path, link: Path) -> None:
    link.symlink_to(target)


def pipe(target: Path, link: Path) -> None:
    os.mkfifo(link)


def directory(target: Path, link: Path) -> None:
    link.mkdir()


def set_dims(name: str, dims: Iterable[int], data: bytes | None = None) -> Change:
    def change(model: ModelProto) -> None:
        tensor = stored(model, name)
        tensor.dims[:] = dims
        if data is not None:
            tensor.raw_data = data

    return change


def set_values(name: str, values: Iterable[float]) -> Change:
    return lambda model: stored(model, name).CopyFrom(numpy_helper.from_array(np.array(values, np.float32), name))


def computed(*nodes: NodeProto, constants: dict[str, Any]) -> Change:
    """What the Conv reads as its weight is computed in the graph."""

    def change(model: ModelProto) -> None:
        found = [*nodes, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(found)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        node(model, "conv").input[1] = nodes[-1].output[0]

    return change


def nested(depth: int) -> Change:
    """If within If within If, and a BatchNormalization after them."""

    def body(level: int) -> GraphProto:
        inner = helper.make_node("Identity", ["c"], [f"t{level}"])
        if level < depth:
            inner = helper.make_node("If", ["yes"], [f"t{level}"], then_branch=body(level + 1), else_branch=leaf(level))
        return helper.make_graph([inner], f"b{level}", [], [helper.make_tensor_value_info(f"t{level}", 1, None)])

    def leaf(level: int) -> GraphProto:
        made = helper.make_node("Identity", ["c"], [f"e{level}"])
        return helper.make_graph([made], f"e{level}", [], [helper.make_tensor_value_info(f"e{level}", 1, None)])

    def change(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        outer = helper.make_node("If", ["yes"], ["d"], then_branch=body(0), else_branch=leaf(-1))
        model.graph.node.insert(1, outer)
        node(model, "norm").input[0] = "d"

    return change


def functions(*calls: tuple[str, str]) -> Change:
    """Functions that call each other, and a call of the first."""

    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("f", 1))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        for name, called in calls:
            made = helper.make_node(called, ["a"], ["b"], domain="f" if called in dict(calls) else "")
            norm = helper.make_node("BatchNormalization", ["b", *"gbmv"], ["z"])
            function = helper.make_function("f", name, ["a", *"gbmv"], ["z"], [made, norm], opsets)
            model.functions.append(function)
        model.graph.node.append(helper.make_node(calls[0][0], ["y", *"gbmv"], ["q"], "call", domain="f"))
        model.graph.output[0].name = "q"

    return change


def chain(count: int, operator: str = "Relu") -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node.extend(
            helper.make_node(operator, ["y" if i == 0 else f"r{i}"], [f"r{i + 1}"]) for i in range(count)
        )
        model.graph.output[0].name = f"r{count}"

    return change


def cycle(model: ModelProto) -> None:
    node(model, "conv").input[0] = "y"


def sparse(dims: Iterable[int]) -> Change:
    """The weight as a sparse tensor of one value."""

    def change(model: ModelProto) -> None:
        kept = [t for t in model.graph.initializer if t.name != "w"]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        value = numpy_helper.from_array(np.ones(1, np.float32), "w")
        index = numpy_helper.from_array(np.zeros(1, np.int64), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(value, index, list(dims)))

    return change


def attribute(of: str, name: str, **value: object) -> Change:
    """An attribute with fields as they should not be."""
    return lambda model: node(model, of).attribute.append(AttributeProto(name=name, **value))  # type: ignore[arg-type]


def twice(model: ModelProto) -> None:
    tensor = stored(model, "w")
    tensor.float_data.extend(numpy_helper.to_array(tensor).ravel().tolist())


def two_of(field: str) -> Change:
    return lambda model: getattr(model.graph, field).append(getattr(model.graph, field)[0])


def truncated(part: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = sound().SerializeToString()
        return written(folder, content[: int(part * len(content))])

    return make


def raw(content: bytes) -> Callable[[Path], Path]:
    return lambda folder: written(folder, content)
