"""Large graphs: long chains are no deeper than short ones, the time grows with the nodes, and the results are right."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.graph.inference import BODIES_PER_PIECE, infer_shapes, inferred
from bnfold.graph.links import FEW_INPUTS, link
from bnfold.model.messages import arrange, drop
from bnfold_cli.main import run
from tests.benchmarks.scale import branching, joined, mixed, norms, passed_through, read_by_all
from tests.build import BN, bn, build, operators


@pytest.mark.parametrize(("made", "left"), [(mixed, 0), (passed_through, 0), (norms, 16)])
def test_the_networks_of_the_benchmark_compute_what_they_did(made: Callable[[int], onnx.ModelProto], left: int) -> None:
    original = made(32)
    result = driver.fold(original)
    x = {
        "x": np.random.default_rng(0)
        .standard_normal([d.dim_value for d in original.graph.input[0].type.tensor_type.shape.dim])
        .astype(np.float32)
    }
    (before,), (after,) = (ReferenceEvaluator(model).run(None, x) for model in (original, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    assert operators(result.model).count("BatchNormalization") == len(result.batch_norms_kept) == left


def test_an_affine_passes_through_any_number_of_nodes() -> None:
    (folded,) = driver.fold(passed_through(20_000)).folded
    assert folded.into == ("Conv 'Conv0'",)
    assert len(folded.through) == 19_998


def test_a_constant_may_be_computed_by_any_number_of_nodes() -> None:
    rounds = " ".join(f"c{i + 1} = Neg(c{i})" for i in range(3000))
    model = build(f"{rounds} a = Conv(X, W) Y = Mul(a, c3000)", "X[1,3,4,4]", "Y[1,4,4,4]", {"W": (4, 3, 1, 1), "c0": (1, 4, 1, 1)})  # fmt: skip
    assert operators(driver.fold(model).model)[-1] == "Conv"


def test_a_constant_of_doubled_constants_is_computed_once() -> None:
    rounds = " ".join(f"c{i + 1} = Add(c{i}, c{i})" for i in range(60))
    model = build(f"{rounds} Y = Mul(X, c60) ", "X[1,3]", "Y[1,3]", {"c0": (1, 3)})
    assert driver.fold(model).kept[0].not_hoisted.code == "GRAPH_INPUT"


def test_a_circle_of_nodes_is_refused() -> None:
    model = build("a = Neg(b) b = Neg(a) Y = Mul(X, a)", "X[1,3]", "Y[1,3]", {})
    with pytest.raises(ModelProblem, match="reads what is computed from its own output"):
        driver.fold(model)


def test_what_is_omitted_is_no_circle() -> None:
    body = f"c = Conv(X, W) b = {BN('c', 'p')} Y = MaxPool<kernel_shape = [1, 1]>(b)"
    model = build(body, "X[1,4,2,2]", "Y[1,4,2,2]", {**bn("p", 4), "W": (4, 4, 1, 1)})
    model.graph.node[0].input.append("")
    model.graph.node[2].output.append("")
    assert operators(driver.fold(model).model) == ["Conv", "MaxPool"]


def test_the_rank_follows_through_any_number_of_norms() -> None:
    body = " ".join(f"x{i + 1} = {BN(f'x{i}', 'p')}" for i in range(1200))
    model = build(f"x0 = my.unknown(X) {body} Y = Conv(x1200, W)", "X[1,4,2,2]", "Y[1,4,2,2]", {**bn("p", 4), "W": (4, 4, 1, 1)})  # fmt: skip
    model.graph.node[0].domain = "my"
    model.opset_import.append(helper.make_opsetid("my", 1))
    assert operators(driver.fold(model).model) == ["unknown", "Conv"]


def test_new_nodes_stand_after_those_that_made_them_necessary() -> None:
    result = driver.fold(norms(8))
    split = [operators(result.model)[i : i + 2] for i, op in enumerate(operators(result.model)) if op == "MatMul"]
    assert split == [["MatMul", "Add"]] * 2


def test_a_sentence_names_three_readers_at_most() -> None:
    readers = " ".join(f"y{i} = Exp(a)" for i in range(150))
    model = build(f"a = Conv(X, W) Y = {BN('a', 'p')} {readers}", "X[1,4,2,2]", "Y[1,4,2,2]", {**bn("p", 4), "W": (4, 4, 1, 1)})  # fmt: skip
    words = driver.fold(model).kept[0].not_hoisted.words
    assert words.count("Exp") == 2
    assert words.endswith(" and 148 more")


def test_arranged_and_dropped_messages_are_the_very_same_ones() -> None:
    graph = onnx.GraphProto(node=[NodeProto(name=str(i)) for i in range(6)])
    held = list(graph.node)
    arrange(graph.node, [5, 4, 3, 2, 1, 0])
    assert list(map(id, graph.node)) == list(map(id, reversed(held)))
    drop(graph.node, iter([1, 4]))
    assert [node.name for node in graph.node] == ["5", "3", "2", "0"]
    drop(graph.node, [])
    assert len(graph.node) == 4


def test_readers_keep_their_order_and_leave_one_input_at_a_time() -> None:
    x, y = gs.Variable("x"), gs.Variable("y")
    twins = [gs.Node("Add", inputs=[x, x]), gs.Node("Add", inputs=[x, y]), gs.Node("Add", inputs=[x, y])]
    for node in twins:
        link(node)
    twins[1].inputs[0] = y
    assert [id(node) for node in x.outputs] == [id(twins[i]) for i in (0, 0, 2)]
    twins[0].inputs.clear()
    assert len(x.outputs) == 1
    assert x.outputs[0] is twins[2]
    assert [id(node) for node in y.outputs] == [id(twins[i]) for i in (1, 2, 1)]


def steps(call: Callable[[], object]) -> int:
    """How many functions, of Python or not, are called until a call returns: the same number every time."""
    count = 0

    def seen(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def heads(nodes: int) -> onnx.ModelProto:
    """Channels that join a batch whose size is open, by computed sizes, and come back; over and over."""
    round_ = "s{i} = Shape(x{i}) n{i} = Gather(s{i}, first) m{i} = Mul(n{i}, two) t{i} = Concat<axis = 0>(m{i}, rest)"
    round_ += " h{i} = Reshape(x{i}, t{i}) k{i} = Neg(h{i}) o{i} = Reshape(k{i}, back) c{i} = Conv(o{i}, W) b{i} = BN x{j} = Relu(b{i})"
    body = " ".join(round_.replace("BN", BN("c{i}", "p")).format(i=i, j=i + 1) for i in range(nodes // 10))
    sizes = {"first": [0], "two": [2], "rest": [4, 5], "back": [-1, 8, 5]}
    return build(f"{body} Y = Relu(x{nodes // 10})", "x0[N,8,5]", "Y[N,8,5]", {"W": (8, 8, 1), **sizes, **bn("p", 8)})


@pytest.mark.parametrize("made", [mixed, passed_through, norms, read_by_all, joined, branching, heads])
def test_three_times_the_nodes_take_three_times_the_steps(made: Callable[[int], onnx.ModelProto]) -> None:
    few, many = (steps(partial(driver.fold, model)) for model in (made(100), made(300)))
    assert many < 3.6 * few


def test_graphs_with_many_bodies_are_inferred_in_pieces_to_the_same_shapes() -> None:
    model = branching(BODIES_PER_PIECE * 2 + 3)
    pieces, whole = onnx.ModelProto.FromString(inferred(model)), infer_shapes(model)
    assert pieces.graph.node == whole.graph.node
    assert pieces.graph.output == whole.graph.output
    stated = ({value.name: value.type.SerializeToString() for value in m.graph.value_info} for m in (pieces, whole))
    assert next(stated) == next(stated)


def test_the_lengths_that_inference_names_are_not_named_twice_in_pieces() -> None:
    model = branching(2 * BODIES_PER_PIECE)
    for i, node in enumerate(list(model.graph.node)):
        if node.op_type == "If":
            model.graph.node.add(op_type="NonZero", input=node.output, output=[f"n{i}"])
    order = sorted(model.graph.node, key=lambda n: int("".join(filter(str.isdigit, n.output[0]))))
    del model.graph.node[:]
    model.graph.node.extend(order)
    made = [v.type.tensor_type.shape.dim[1].dim_param for v in onnx.ModelProto.FromString(inferred(model)).graph.value_info if v.name[0] == "n"]  # fmt: skip
    assert len(made) == len(set(made)) == 2 * BODIES_PER_PIECE


def test_where_a_node_reads_a_tensor_is_known_of_wide_ones_too() -> None:
    tensors = [gs.Variable(f"x{i}") for i in range(2 * FEW_INPUTS)]
    node = gs.Node("Concat", inputs=tensors)
    link(node)
    assert node.inputs.ports(tensors[7]) == [7]
    node.inputs[9] = node.inputs[3] = tensors[7]
    assert node.inputs.ports(tensors[7]) == [3, 7, 9]
    assert node.inputs.ports(tensors[9]) == []
    node.inputs.insert(0, tensors[9])
    assert node.inputs.ports(tensors[9]) == [0]
    assert node.inputs.ports(tensors[7]) == [4, 8, 10]
    assert len(tensors[7].outputs) == 3


@pytest.mark.slow
@pytest.mark.parametrize("made", [mixed, passed_through, norms])
def test_ten_times_the_nodes_take_some_ten_times_as_long(made: Callable[[int], onnx.ModelProto]) -> None:
    seconds = []
    for size in (2_000, 20_000):
        model = made(size)
        begin = time.perf_counter()
        driver.fold(model)
        seconds.append(time.perf_counter() - begin)
    assert seconds[1] < 16 * seconds[0]


def test_the_table_of_what_is_kept_stays_short(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx.save(norms(206), tmp_path / "m.onnx")
    assert run(["fold", str(tmp_path / "m.onnx"), "--verify", "off"]) == 0
    assert len(capfd.readouterr().out.splitlines()) < 12
