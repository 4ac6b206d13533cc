"""Verification: branches that are added up are one kernel, or the short way refuses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.process import launcher
from bnfold.verification.proof import algebra
from bnfold.verification.proof.claims import Cuts, piece
from bnfold.verification.proof.examples import examples
from bnfold.verification.proof.indexed_model import IndexedModel
from bnfold.verification.proof.merged import branches_as_one
from bnfold.verification.proof.roundoffs import Comparison
from bnfold.verification.proof.scale_and_shift import NotOneLayer
from bnfold.verification.proof.weights import Layer, compare_layers, layer
from bnfold.verification.verifying import verify

RIGHT = 1 + 2.0**-10
CHANNELS = 4


@dataclass(frozen=True)
class Branch:
    """A Conv with a BatchNormalization after it; without a kernel the BatchNormalization alone."""

    kernel: int = 0
    pads: tuple[int, int] = (0, 0)
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    sign: float = 1.0
    auto_pad: str = "NOTSET"


REPVGG = (Branch(3, (1, 1)), Branch(1), Branch())
NETS = {
    "3x3, 1x1 and nothing": REPVGG,
    "strides": (Branch(3, (1, 1), 2), Branch(1, stride=2)),
    "two kernels of one size": (Branch(3, (1, 1)), Branch(3, (1, 1)), Branch(1)),
    "depthwise": (Branch(5, (2, 2), groups=4), Branch(3, (1, 1), groups=4), Branch()),
    "groups": (Branch(3, (1, 1), groups=2), Branch(1, groups=2), Branch()),
    "a dilated branch": (Branch(5, (2, 2)), Branch(3, (2, 2), dilation=2), Branch(1)),
    "both dilated": (Branch(3, (2, 2), dilation=2), Branch(1)),
    "pads on one side": (Branch(2, (1, 0)), Branch(1)),
    "a difference": (Branch(3, (1, 1)), Branch(sign=-1.0)),
}
APART = {  # whose branches are no one kernel of the size of the first
    "a tap before the first": (Branch(3, (0, 2)), Branch(3, (1, 1))),
    "a tap after the last": (Branch(1), Branch(3, (1, 1))),
    "between taps": (Branch(3, (2, 2), dilation=2), Branch(3, (1, 1))),
    "pads that the size decides": (Branch(3, auto_pad="SAME_UPPER"), Branch(1)),
    "other groups": (Branch(3, (1, 1)), Branch(1, groups=2)),
}


def original(branches: Sequence[Branch], seed: int = 0, after: bool = False) -> onnx.ModelProto:
    """x, through every branch, added up, and through another BatchNormalization if that comes `after`."""
    random, nodes, stored = np.random.default_rng(seed), [], list[onnx.TensorProto]()

    def constant(*shape: int, least: float = -1.0) -> str:
        stored.append(numpy_helper.from_array(random.uniform(least, 1.5, shape).astype(np.float32), f"c{len(stored)}"))
        return stored[-1].name

    def normalized(source: str, name: str) -> str:
        numbers = [constant(CHANNELS), constant(CHANNELS), constant(CHANNELS), constant(CHANNELS, least=0.5)]
        nodes.append(helper.make_node("BatchNormalization", [source, *numbers], [name]))
        return name

    total = ""
    for i, branch in enumerate(branches):
        source = "x"
        if branch.kernel:
            weight = constant(CHANNELS, CHANNELS // branch.groups, branch.kernel, branch.kernel)
            nodes.append(helper.make_node("Conv", ["x", weight], [f"conv{i}"], **geometry(branch)))
            source = f"conv{i}"
        made = normalized(source, f"branch{i}")
        if total:
            operator = "Add" if branch.sign > 0 else "Sub"
            nodes.append(helper.make_node(operator, [total, made], [f"sum{i}"]))
        total = f"sum{i}" if total else made
    nodes.append(helper.make_node("Identity", [normalized(total, "normalized") if after else total], ["y"]))
    return model(nodes, stored)


def geometry(branch: Branch) -> dict[str, object]:
    stated = {"strides": [branch.stride] * 2, "dilations": [branch.dilation] * 2, "group": branch.groups}
    if branch.auto_pad != "NOTSET":
        return {**stated, "auto_pad": branch.auto_pad}
    return {**stated, "pads": [branch.pads[0]] * 2 + [branch.pads[1]] * 2}


def model(nodes: Sequence[onnx.NodeProto], stored: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", CHANNELS, "h", "w"]) for n in ("x", "y")]
    graph = helper.make_graph(list(nodes), "branches", value[:1], value[1:], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def one_conv(branch: Branch, weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """A Conv in the place of all branches, which lies as `branch` does."""
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in (("w", weight), ("b", bias))]
    conv = helper.make_node("Conv", ["x", "w", "b"], ["sum"], **geometry(branch))
    return model([conv, helper.make_node("Identity", ["sum"], ["y"])], stored)


def merged_of(first: onnx.ModelProto, branch: Branch, size: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias that the branches of a model are, in float64."""
    nothing = np.zeros((CHANNELS, CHANNELS // branch.groups, *[branch.kernel] * 2))
    mine, _ = layers(first, one_conv(branch, nothing, np.zeros(CHANNELS)), size)
    return mine.weight.reshape(nothing.shape), mine.rest()


def layers(first: onnx.ModelProto, second: onnx.ModelProto, size: int = 9) -> tuple[Layer, Layer]:
    """Both models as layers, seen with images of this size."""
    known = examples(first, {"x": np.zeros((1, CHANNELS, size, size), np.float32)})
    pieces = [piece(Cuts(IndexedModel(each), {"x": "x"}), "y") for each in (first, second)]
    folded = layer(second, pieces[1], "y", known, known["y"].shape, np.float32)
    return branches_as_one(first, pieces[0], "y", known, (folded, pieces[1]), np.float32), folded


def compared(first: onnx.ModelProto, second: onnx.ModelProto) -> Comparison:
    return compare_layers(*layers(first, second))


def folded(branches: Sequence[Branch], first: onnx.ModelProto) -> onnx.ModelProto:
    return one_conv(branches[0], *merged_of(first, branches[0]))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("branches", NETS.values(), ids=list(NETS))
def test_branches_are_the_kernel_that_makes_the_same_outputs(branches: Sequence[Branch], after: bool) -> None:
    first = original(branches, after=after)
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, 9, 8)).astype(np.float32)
    made = [
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for each in (first, folded(branches, first))
    ]
    np.testing.assert_allclose(made[1], made[0], atol=1e-4)


@pytest.mark.parametrize("branches", NETS.values(), ids=list(NETS))
def test_the_rounded_kernel_is_the_right_one_for_any_size(branches: Sequence[Branch]) -> None:
    first = original(branches)
    found = compared(first, folded(branches, first))
    assert max(found.ratio, found.at_rest) <= RIGHT
    assert found.for_any_size
    assert found.share == 1


@pytest.mark.parametrize("branches", NETS.values(), ids=list(NETS))
@pytest.mark.parametrize("constant", ["w", "b"])
def test_every_stored_number_counts(branches: Sequence[Branch], constant: str) -> None:
    first = original(branches)
    right = folded(branches, first)
    place = [tensor.name for tensor in right.graph.initializer].index(constant)
    value = numpy_helper.to_array(right.graph.initializer[place])
    for number in range(value.size):
        wrong = value.copy()
        wrong.reshape(-1)[number] += 1e-3
        right.graph.initializer[place].CopyFrom(numpy_helper.from_array(wrong, constant))
        found = compared(first, right)
        assert max(found.ratio, found.at_rest) > 100, number


@pytest.mark.parametrize("branches", APART.values(), ids=list(APART))
def test_branches_that_are_no_one_kernel_are_refused(branches: Sequence[Branch]) -> None:
    with pytest.raises(NotOneLayer):
        merged_of(original(branches), branches[0])


@pytest.mark.parametrize("other", [Branch(), Branch(1), Branch(3, (0, 0))])
def test_branches_that_fit_together_for_images_of_one_size_only_are_refused(other: Branch) -> None:
    """Of images of one element a stride of 2 makes one, too; of images of three a kernel without pads."""
    branches, size = (Branch(3, (1, 1), 2), other), 3 if other.kernel == 3 else 1
    branches = (Branch(3, (0, 1), 3), other) if size == 3 else branches
    with pytest.raises(NotOneLayer, match="sizes"):
        merged_of(original(branches), branches[0], size)


def test_the_folded_model_may_pad_otherwise_only_if_its_images_are_as_large() -> None:
    first = original(REPVGG)
    weight, bias = merged_of(first, REPVGG[0])
    with pytest.raises(NotOneLayer):
        compared(first, one_conv(replace(REPVGG[0], pads=(0, 2)), weight, bias))


def test_verify_needs_no_impulses_for_branches(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    first = original(REPVGG, after=True)
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, each in zip(paths, (first, folded(REPVGG, first)), strict=True):
        onnx.save(each, path)
    with monkeypatch.context() as patch:
        patch.setattr(algebra, "ImpulseComparison", None)
        patch.setattr(launcher, "run", lambda job, request, **_: job(request))
        found = verify(*paths)
    assert (found.verdict, found.grade) == ("PASS", "proved")
