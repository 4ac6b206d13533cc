"""Population statistics on ONNX graphs: equal to what an independent evaluation finds, for any batches, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.errors import ModelProblem, UsageProblem
from bnfold.recalibration import check, recalibrate
from bnfold.recalibration.feeds.card import Card
from bnfold.recalibration.feeds.chunks import Chunks
from bnfold.recalibration.levels import Levels
from tests.build import BN, bn, build
from tests.test_cli import single

RNG = np.random.default_rng(0)
CONV = {"W": (4, 3, 3, 3), "V": (4, 4, 1, 1)}
IMAGE = "X[N,3,6,6]"
POSITIONS = {  # name: body, input, output, constants, opset
    "first": (f"Y = {BN('X', 'p')}", IMAGE, "Y[N,3,6,6]", bn("p", 3), 17),
    "after a Conv": (f"c = Conv(X, W) Y = {BN('c', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 17),
    "after a Relu, in a chain": (f"c = Conv(X, W) r = Relu(c) d = {BN('r', 'p')} e = Conv(d, V) Y = {BN('e', 'q')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p",
     4), **bn("q", 4)}, 17),
    "two of one tensor": (f"c = Conv(X, W) d = {BN('c', 'p')} e = {BN('c', 'q')} Y = Add(d, e)", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4), **bn("q", 4)}, 17),
    "a residual block": (f"c = Conv(X, W) d = {BN('c', 'p')} r = Relu(d) e = Conv(r, V) f = {BN('e', 'q')} s = Add(f, r) g = Conv(s, V) Y = {BN('g', 's')}",
     IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4), **bn("q", 4), **bn("s", 4)}, 17),
    "branches of other depths, joined": (f"c = Conv(X, W) d = {BN('c', 'p')} e = {BN('d', 'q')} k = Concat<axis=1>(e, c) Y = {BN('k', 's')}", IMAGE,
     "Y[N,8,4,4]", {**CONV, **bn("p", 4), **bn("q", 4), **bn("s", 8)}, 17),
    "the input again, late": (f"d = {BN('X', 'p')} e = Relu(d) f = Mul(e, X) Y = {BN('f', 'q')}", IMAGE, "Y[N,3,6,6]", {**bn("p", 3), **bn("q", 3)}, 17),
    "(N, C)": (f"c = MatMul(X, W) d = {BN('c', 'p')} e = Sigmoid(d) Y = {BN('e', 'q')}", "X[N,5]", "Y[N,4]", {"W": (5, 4), **bn("p", 4), **bn("q", 4)}, 17),
    "(N, C, L)": (f"c = Conv(X, W) Y = {BN('c', 'p')}", "X[N,3,9]", "Y[N,4,7]", {"W": (4, 3, 3), **bn("p", 4)}, 17),
    "(N, C, D, H, W)": (f"c = Conv(X, W) Y = {BN('c', 'p')}", "X[N,2,4,4,4]", "Y[N,3,2,2,2]", {"W": (3, 2, 3, 3, 3), **bn("p", 3)}, 17),
    "after Shape and Reshape": (f"c = Conv(X, W) s = Shape(c) f = Flatten(c) r = Reshape(f, s) Y = {BN('r', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p",
     4)}, 17),
    "time folded into the batch": (f"r = Reshape(X, S) d = {BN('r', 'p')} e = Relu(d) Y = {BN('e', 'q')}", "X[N,6,4]", "Y[M,4]", {"S": np.array([-1, 4]),
     **bn("p", 4), **bn("q", 4)}, 17),
    "statistics that are computed": ("c = Conv(X, W) m = Identity(pm) v = Mul(pv, two) Y = BatchNormalization(c, pg, pb, m, v)", IMAGE, "Y[N,4,4,4]", {**CONV,
     **bn("p", 4), "two": np.array(2.0)}, 17),
    "one tensor as mean of two": (f"c = Conv(X, W) d = {BN('c', 'p')} Y = BatchNormalization(d, pg, pb, pm, pv)", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)},
     17),
    "mean and B alike": ("c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pb, pv)", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 17),
    "opset 7": (f"c = Conv(X, W) d = {BN('c', 'p')} r = Relu(d) Y = {BN('r', 'q')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4), **bn("q", 4)}, 7),
    "opset 9": (f"c = Conv(X, W) Y = {BN('c', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 9),
    "opset 14": (f"c = Conv(X, W) Y = {BN('c', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 14),
    "the newest opset": (f"c = Conv(X, W) Y = {BN('c', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 21),
    "a dead end next to it": (f"c = Conv(X, W) d = {BN('c', 'p')} Y = Relu(d)", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4)}, 17),
}  # fmt: skip


def model_of(name: str, ir: int = 8) -> onnx.ModelProto:
    body, inputs, outputs, constants, opset = POSITIONS[name]
    return single(build(body, inputs, outputs, constants, opset, ir))


def data(model: onnx.ModelProto, samples: int = 150) -> np.ndarray:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(1).normal(0.5, 2, (samples, *shape)).astype(np.float32)


def norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "BatchNormalization"]


def run(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=n) for n in names if n not in {o.name for o in model.graph.output}
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(copy.SerializeToString(), options)
    return session.run(names, {copy.graph.input[0].name: x})


def by_hand(model: onnx.ModelProto, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """One BatchNormalization after the other in the order of the file: the whole model on all data, then its numbers."""
    copy, found = onnx.ModelProto(), []
    copy.CopyFrom(model)
    for i, node in enumerate(norms(copy)):
        (seen,) = run(copy, [node.input[0]], x) if node.input[0] != "X" else (x,)
        axes = (0, *range(2, seen.ndim))
        wide = seen.astype(np.float64)
        found.append((wide.mean(axes), wide.var(axes, ddof=1)))
        for index, value in zip((3, 4), found[-1], strict=True):
            name = f"by_hand_{i}_{index}"
            copy.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
            node.input[index] = name
    return found


def statistics(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray]]:
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [(known[n.input[3]], known[n.input[4]]) for n in norms(model)]


def bits(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", POSITIONS)
def test_sequential_is_what_an_evaluation_layer_by_layer_finds(name):
    model = model_of(name)
    before, x = bits(model), data(model)
    result = recalibrate(model, [x])
    onnx.checker.check_model(result.model, full_check=True)
    assert bits(model) == before
    for (mean, var), (wanted_mean, wanted_var) in zip(statistics(result.model), by_hand(model, x), strict=True):
        np.testing.assert_allclose(mean, wanted_mean, rtol=1e-6, atol=1e-6 * np.sqrt(wanted_var.max()))
        np.testing.assert_allclose(var, wanted_var, rtol=1e-6)
    assert result.samples == len(x)


@pytest.mark.parametrize("name", POSITIONS)
def test_the_same_bits_for_any_batches_and_order_and_again(name):
    model = model_of(name)
    x = data(model, 1000)
    first = recalibrate(model, [x]).model
    ways = [dict(batch_size=size) for size in (7, 64, 999, 1000)] + [dict(memory_limit=0)]
    for way in ways:
        assert bits(recalibrate(model, [x], **way).model) == bits(first), way
    assert bits(recalibrate(model, [RNG.permutation(x)]).model) == bits(first)
    assert bits(recalibrate(model, (x[i : i + 13] for i in range(0, 1000, 13))).model) == bits(first)
    assert bits(recalibrate(first, [x]).model) == bits(first)


@pytest.mark.parametrize("name", POSITIONS)
def test_nothing_but_the_statistics_changes(name):
    model = model_of(name)
    model.doc_string, model.graph.node[0].doc_string = "kept", "kept as well"
    after = recalibrate(model, [data(model)]).model
    read = {x for n in norms(model) for x in n.input[3:]}
    for old, new in zip(norms(model), norms(after), strict=True):
        new.input[3:5] = old.input[3:5]
    fresh = {t.name for t in after.graph.initializer} - {t.name for t in model.graph.initializer}
    kept = [t for t in after.graph.initializer if t.name not in fresh | read]
    stored = {t.name: t for t in model.graph.initializer}
    assert all(stored[t.name] == t for t in kept)
    gone = {x for n in model.graph.node for x in n.output} - {x for n in after.graph.node for x in n.output}
    assert [n for n in model.graph.node if not gone & set(n.output)] == list(after.graph.node)
    assert gone <= read
    for field in ("input", "output", "value_info", "doc_string", "name"):
        assert getattr(after.graph, field) == getattr(model.graph, field)
    for part in (model, after):
        part.ClearField("graph")
    assert after == model


@pytest.mark.parametrize(
    "name", ["a residual block", "(N, C)", "time folded into the batch", "after a Relu, in a chain"]
)
def test_alg2_is_the_pass_in_training_mode(name):
    model = model_of(name)
    x, size = data(model, 150), 20
    training = onnx.ModelProto()
    training.CopyFrom(model)
    for node in norms(training):
        node.attribute.append(helper.make_attribute("training_mode", 1))
        node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_var"])
    taps = [n.input[0] for n in norms(training)]
    seen = [run(training, taps, x[i : i + size]) for i in range(0, 140, size)]
    found = statistics(recalibrate(model, [x], method="alg2", batch_size=size).model)
    pooled = statistics(recalibrate(model, [x], method="pooled", batch_size=size).model)
    for k, (mean, var) in enumerate(found):
        parts = [batch[k].astype(np.float64) for batch in seen]
        axes = (0, *range(2, parts[0].ndim))
        np.testing.assert_allclose(mean, np.mean([p.mean(axes) for p in parts], axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(var, np.mean([p.var(axes, ddof=1) for p in parts], axis=0), rtol=1e-5)
        np.testing.assert_allclose(pooled[k][1], np.concatenate(parts).var(axes, ddof=1), rtol=1e-5)


def test_a_short_last_batch_counts_in_sequential_and_is_left_out_of_alg2():
    model = model_of("after a Conv")
    x = data(model, 130)
    assert recalibrate(model, [x]).samples == 130
    left = recalibrate(model, [x], method="alg2", batch_size=60)
    assert (left.samples, left.batch_size, left.notes) == (120, 60, ("10 samples, less than a batch, were left out",))


def test_a_tensor_that_two_levels_need_is_computed_once():
    model = model_of("a residual block")
    made = [name for segment in Levels(model.graph).segments() for node in segment.nodes for name in node.output]
    assert len(made) == len(set(made)) == len(model.graph.node) - 1  # all but the last normalization


def per_activation() -> onnx.ModelProto:
    body = "Y = BatchNormalization<spatial=0>(X, pg, pb, pm, pv)"
    return single(build(body, IMAGE, "Y[N,3,6,6]", {k: (3, 6, 6) for k in bn("p", 3)}, 7))


def test_each_place_is_a_channel_where_a_file_says_so():
    model = per_activation()
    x = data(model)
    ((mean, var),) = statistics(recalibrate(model, [x]).model)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, x.astype(np.float64).var(0, ddof=1), rtol=1e-6)


def listed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    stored = {t.name: t for t in model.graph.initializer}
    model.graph.input.extend(helper.make_tensor_value_info(n, 1, stored[n].dims) for n in names)
    return model


def test_a_statistic_that_callers_may_override_gets_an_initializer_of_its_own():
    model = listed(model_of("after a Conv"), ["pm"])
    after = recalibrate(model, [data(model)]).model
    assert after.graph.input == model.graph.input
    assert norms(after)[0].input[3] == "Y.running_mean"
    assert next(t for t in after.graph.initializer if t.name == "pm") == next(
        t for t in model.graph.initializer if t.name == "pm"
    )


def test_ir_version_3_lists_every_initializer_also_the_new_ones():
    model = model_of("one tensor as mean of two", ir=3)
    listed(model, [t.name for t in model.graph.initializer])
    after = recalibrate(model, [data(model)]).model
    assert {t.name for t in after.graph.initializer} <= {v.name for v in after.graph.input}
    onnx.checker.check_model(after)


def with_constants(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The same model with these initializers as Constant nodes, as Paddle writes them."""
    stored = {t.name: t for t in model.graph.initializer}
    nodes = [helper.make_node("Constant", [], [n], value=stored[n]) for n in names] + list(model.graph.node)
    kept = [t for t in model.graph.initializer if t.name not in names]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return model


def test_constant_nodes_give_way_to_initializers():
    plain = model_of("after a Relu, in a chain")
    x = data(plain)
    wanted = statistics(recalibrate(plain, [x]).model)
    after = recalibrate(with_constants(plain, ["pm", "pv", "qm", "qv", "pg"]), [x]).model
    assert [n.output[0] for n in after.graph.node if n.op_type == "Constant"] == ["pg"]
    np.testing.assert_array_equal(np.ravel(statistics(after)), np.ravel(wanted))


def test_a_body_reads_what_is_around_it():
    then, other = (
        helper.make_graph([helper.make_node(op, ["c"], [f"{op}_out"])], op, [], [onnx.ValueInfoProto(name=f"{op}_out")])
        for op in ("Relu", "Neg")
    )
    model = single(
        build(f"c = Conv(X, W) Y = {BN('c', 'p')}", IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4), **bn("q", 4)})
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[-1].output[0] = "d"
    model.graph.node.extend([
        helper.make_node("If", ["yes"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["i", "d"], ["s"]),
        helper.make_node("BatchNormalization", ["s", "qg", "qb", "qm", "qv"], ["Y"]),
    ])  # fmt: skip
    x = data(model)
    for found, wanted in zip(statistics(recalibrate(model, [x]).model), by_hand(model, x), strict=True):
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


def in_type(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind)) if kind == "float16" else onnx.TensorProto.BFLOAT16
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(number))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = number
    return model


@pytest.mark.parametrize(("kind", "error"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_narrow_statistics_are_rounded_once(kind, error):
    model = model_of("after a Relu, in a chain")
    x = data(model)
    wanted = by_hand(model, x)
    result = recalibrate(in_type(model, kind), [x])
    for found, exact in zip(statistics(result.model), wanted, strict=True):
        assert str(found[1].dtype) == kind
        np.testing.assert_allclose(found[1].astype(np.float64), exact[1], rtol=4 * error)
    if kind == "float16":
        with pytest.raises(ModelProblem, match=r"the variance of d reaches .*, more than float16 can hold"):
            recalibrate(model, [x * 200])


def fixed(shape: str, target: list[int]) -> onnx.ModelProto:
    body = f"f = Reshape(X, S) d = {BN('f', 'p')} m = MatMul(d, W) Y = {BN('m', 'q')}"
    return single(build(body, shape, "Y[1,2]", {"S": np.array(target), "W": (8, 2), **bn("p", 8), **bn("q", 2)}))


@pytest.mark.parametrize("target", [[1, -1], [1, 8], [-1, 8]])
def test_a_model_with_a_fixed_batch(target):
    model, free = fixed("X[1,2,4]", target), fixed("X[N,2,4]", [-1, 8])
    x = data(model, 120)
    result = recalibrate(model, [x])
    assert result.model.graph.input == model.graph.input
    np.testing.assert_allclose(
        statistics(result.model)[1][1], statistics(recalibrate(free, [x]).model)[1][1], rtol=1e-6
    )
    found, wanted = (recalibrate(m, [x], method="alg2", batch_size=20) for m in (model, free))
    np.testing.assert_allclose(statistics(found.model)[1][1], statistics(wanted.model)[1][1], rtol=1e-6)
    assert found.notes == ("run with batches of 20, not 1 as the model states",)
    assert found.model.graph.node == model.graph.node


def test_a_copy_for_any_batch_that_would_compute_something_else_is_refused():
    """The reshape has 1 in front for another reason than the batch: where it stands, time is in front."""
    body = f"t = Transpose<perm=[1,0,2]>(X) f = Reshape(t, S) m = MatMul(f, W) Y = {BN('m', 'q')}"
    model = single(build(body, "X[1,1,4]", "Y[1,2]", {"S": np.array([1, -1]), "W": (4, 2), **bn("q", 2)}))
    x = data(model, 120)
    with pytest.raises(ModelProblem, match="Y sees other values|onnxruntime cannot run"):
        recalibrate(model, [x], method="alg2", batch_size=20)
    assert recalibrate(model, [x]).samples == 120


def test_two_inputs_have_as_many_samples():
    body = f"c = Add(X, Z) Y = {BN('c', 'p')}"
    model = single(build(body, "X[N,4]; Z[N,4]", "Y[N,4]", bn("p", 4)))
    x = RNG.normal(size=(700, 4)).astype(np.float32)
    assert recalibrate(model, [{"X": x, "Z": x}]).samples == 700
    with pytest.raises(ModelProblem, match="the inputs have different numbers of samples: 500 more of X, 0 more of Z"):
        recalibrate(model, [{"X": x, "Z": x[:200]}])


def test_what_a_fixed_batch_does_not_divide_is_left_out():
    model = fixed("X[4,2,4]", [4, 8])
    result = recalibrate(model, [data(model, 30)])
    assert (result.samples, result.notes) == (7, ("1 samples, less than a batch, were left out",))


REFUSED = {
    "no data": (lambda: recalibrate(model_of("first"), []), ModelProblem, "the data hold no samples"),
    "one sample": (lambda: recalibrate(model_of("(N, C)"), [np.ones((1, 5), "f4")]), UsageProblem, "sees 1 value.* per channel"),
    "not a number": (lambda: recalibrate(model_of("first"), [np.full((9, 3, 6, 6), np.nan, "f4")]), ModelProblem, "batch 0: 'X' holds NaN"),
    "overflow on the way": (lambda: recalibrate(model_of("after a Conv"), [np.full((9, 3, 6, 6), 3e38, "f4")]), ModelProblem,
     "the mean of Y is not a number in . channels"),
    "another shape": (lambda: recalibrate(model_of("first"), [np.ones((9, 3, 6, 5), "f4")]), ModelProblem, r"batch 0: 'X' has the shape \[9, 3, 6, 5\]"),
    "another type": (lambda: recalibrate(model_of("first"), [np.ones((9, 3, 6, 6), "i8")]), ModelProblem, "batch 0: 'X' is int64"),
    "another name": (lambda: recalibrate(model_of("first"), [{"Z": np.ones((9, 3, 6, 6), "f4")}]), UsageProblem, "batch 0 is for Z"),
    "alg2 of single values": (lambda: recalibrate(model_of("(N, C)"), [data(model_of("(N, C)"))], method="alg2", batch_size=1), UsageProblem,
     "which has no variance"),
    "less than a batch": (lambda: recalibrate(model_of("(N, C)"), [np.ones((9, 5), "f4")], method="alg2"), UsageProblem,
     "9 samples are less than one mini-batch of 60"),
    "unknown method": (lambda: recalibrate(model_of("first"), [], method="ema"), UsageProblem, "unknown choice 'ema' for --method"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call()


def test_check_says_whether_the_statistics_fit():
    model = recalibrate(model_of("a residual block"), [data(model_of("a residual block"), 2000)]).model
    x = np.random.default_rng(5).normal(0.5, 2, (400, 3, 6, 6)).astype(np.float32)
    assert check(model, [x]).verdict == "PASS"
    assert check(model, [x[:2]]).verdict == "INCONCLUSIVE"
    shifted = check(model, [x + 3])
    assert (shifted.verdict, shifted.fits[0].off > 0) == ("FAIL", True)
    assert check(model, [x * 3]).verdict == "FAIL"


def test_sampling_error_is_no_drift():
    """Images that differ much as wholes and little within: their places are not so many samples."""
    model = recalibrate(model_of("first"), [clouds(4000, 1)]).model
    verdicts = [check(model, [clouds(30, seed)], threshold=0.05).verdict for seed in range(2, 22)]
    assert "FAIL" not in verdicts


def clouds(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (samples, 3, 1, 1)) + rng.normal(0, 0.1, (samples, 3, 6, 6))).astype(np.float32)


def test_dead_and_constant_channels_are_counted():
    model = model_of("first")
    x = data(model)
    x[:, 0], x[:, 1] = 0.25, 0.25 + 1e-5 * x[:, 1]
    (drift,) = recalibrate(model, [x]).drifts
    assert (drift.dead, drift.constant, drift.values) == (2, 1, 150 * 36)


def test_runs_are_cut_anew():
    card = Card.of(model_of("(N, C)"))
    rows = [{"X": np.full((n, 5), n, np.float32)} for n in (1, 5, 2, 8, 1)]
    assert [len(run["X"]) for run in Chunks(card, 4).of(rows)] == [4, 4, 4, 5]
    assert [len(run["X"]) for run in Chunks(card, 4, exact=True).of(rows)] == [4, 4, 4, 4]
    assert [len(run["X"]) for run in Chunks(card, 100).of(rows)] == [17]


def test_the_public_name():
    model = model_of("first")
    assert bits(bnfold.recalibrate(model, [data(model)]).model) == bits(recalibrate(model, [data(model)]).model)
