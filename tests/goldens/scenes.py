"""The commands that are looked at, and the files that they are run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.build import BN, bn, build
from tests.goldens.capture import WAYS
from tests.test_cli import conv_bn, single, without_bn

LONG = "/backbone/stages.3/blocks.11/depthwise/BatchNormalization"


def kept() -> onnx.ModelProto:
    """Three BatchNormalization, of which two are kept, with the long names that exporters give."""
    body = (
        f"c = Conv(X, W) d = {BN('c', 'p')} r = Relu(d) e = {BN('r', 'q')} s = Relu(e) f = {BN('s', 't')} Y = Relu(f)"
    )
    weights = {"W": (4, 3, 3, 3), **bn("p", 4), **bn("q", 4), **bn("t", 4)}
    model = single(build(body, "X[N,3,6,6]", "Y[N,4,4,4]", weights))
    for number, node in enumerate(model.graph.node):
        node.name = LONG.replace("11", str(number)).replace("BatchNormalization", node.op_type)
    return model


def wrong() -> onnx.ModelProto:
    """What `m.onnx` is not folded to."""
    model = conv_bn()
    model.graph.node.pop()
    model.graph.node[0].output[0] = "Y"
    return model


def classifier() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 10)).astype(np.float32), "W")
    nodes = [
        helper.make_node("GlobalAveragePool", ["X"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "W"], ["Y"]),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("X", ["N", 4, 4, 4]), ("Y", ["N", 10]))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def files(folder: Path) -> None:
    """What every scene finds."""
    rng = np.random.default_rng(0)
    for name, model in {
        "m": conv_bn(),
        "kept": kept(),
        "plain": without_bn(),
        "wrong": wrong(),
        "a": classifier(),
        "b": classifier(),
    }.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "text.onnx").write_text("hello, this is a text file\n")
    np.savez(folder / "data.npz", X=rng.normal(size=(200, 3, 6, 6)).astype(np.float32))
    np.savez(folder / "few.npz", X=rng.normal(size=(2, 3, 6, 6)).astype(np.float32))
    np.savez(folder / "labelled.npz", X=rng.normal(size=(50, 4, 4, 4)).astype(np.float32), labels=np.arange(50) % 10)
    (folder / "models").mkdir()
    for name in ("one", "two"):
        (folder / "models" / f"{name}.onnx").write_bytes(conv_bn().SerializeToString(deterministic=True))


@dataclass(frozen=True)
class Scene:
    """Commands that are run one after another; `masks` say what of it is measured, `slow` ones run by hand."""

    commands: tuple[str, ...]
    masks: str = ""
    slow: bool = False
    ways: tuple[str, ...] = WAYS


HELP = ("explain", "verify", "bench", "recalibrate", "evaluate", "train", "export", "doctor", "demo")
DRAWN = ("pipe",)  # by Typer, which colours every word
FOLDED = "fold m.onnx --verify off -q"
CHECK = "recalibrate m.onnx --data data.npz --check"

SCENES = {
    "help": Scene(("--help", "fold --help"), "help", ways=DRAWN),
    "help-of-the-others": Scene(tuple(f"{name} --help" for name in HELP), "help", True, ways=DRAWN),
    "explain": Scene(("explain m.onnx", "explain kept.onnx", "explain kept.onnx -v", "explain kept.onnx -q")),
    "fold": Scene(
        ("fold kept.onnx --verify off", "fold m.onnx --verify off -v", "fold m.onnx --verify off -q --force")
    ),
    "fold-verified": Scene(("fold m.onnx", "fold kept.onnx -v"), "decimals", slow=True),
    "fold-many": Scene(("fold models text.onnx --out-dir out --jobs 1 --verify off",)),
    "verify": Scene(
        (FOLDED, "verify m.onnx m.folded.onnx", "verify m.onnx wrong.onnx", "verify m.onnx kept.onnx"), "decimals", True
    ),
    "verify-detail": Scene((FOLDED, "verify m.onnx m.folded.onnx -v --self-test"), "decimals", True),
    "bench": Scene((FOLDED, "bench m.onnx m.folded.onnx --quick --fail-if speedup<1000"), "all", True),
    "recalibrate": Scene(
        (
            CHECK,
            "recalibrate m.onnx --data data.npz",
            "recalibrate m.recalibrated.onnx --data data.npz --check",
            "recalibrate m.recalibrated.onnx --data few.npz --check",
            f"{CHECK} -v",
        ),
        slow=True,
    ),
    "evaluate": Scene(("evaluate a.onnx --data labelled.npz", "evaluate a.onnx b.onnx --data labelled.npz"), slow=True),
    "train": Scene(("train --arch mlp --steps 20", "export digits.onnx", "export digits.onnx"), "decimals", True),
    "errors": Scene(
        (
            "fold",
            "fold missing.onnx",
            "fold text.onnx",
            "fold plain.onnx",
            "fold m.onnx m.onnx",
            "fold m.onnx --verify perhaps",
            "fold m.onnx --verfy off",
            "fold m.onnx -q -v",
            "bend m.onnx",
            "recalibrate m.onnx",
        ),
    ),
}
