"""Population statistics on models of an unusual make, and on those that only look like they could have some."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.errors import ModelProblem, UsageProblem
from bnfold.recalibration import check, recalibrate
from tests.build import BN, bn, build
from tests.test_cli import conv_bn, here, single, written  # noqa: F401
from tests.test_recalibrate import CONV, IMAGE, by_hand, data, in_type, model_of, norms, statistics
from tests.test_recalibrate_cli import drawn, refused, with_metadata

LATE = f"c = Conv(X, W) d = {BN('c', 'p')}"
PAIR = {**CONV, **bn("p", 4), **bn("q", 4), "zero": np.array(0.0)}


def two_levels(between: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A normalization of `e`, which is made of `c` and of `d`, the normalized `c`."""
    return single(build(f"{LATE} {between} Y = {BN('e', 'q')}", IMAGE, "Y[N,4,4,4]", {**PAIR, **constants}))


def test_texts_are_kept_for_the_level_that_reads_them():
    model = two_levels("t = Cast<to = 8>(c) z = Less(d, zero) w = Where(z, t, t) u = Cast<to = 1>(w) e = Add(d, u)")
    x = data(model)
    for memory_limit in (1 << 30, 0):  # in memory, and in a temporary file
        result = recalibrate(model, [x], memory_limit=memory_limit)
        for found, wanted in zip(statistics(result.model), by_hand(model, x), strict=True):
            np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


@pytest.mark.parametrize("method", ["sequential", "alg2"])
def test_sequences_are_not(method):
    between = "s = SequenceConstruct(c) t = SequenceInsert(s, d) e = SequenceAt(t, first)"
    model = two_levels(between, first=np.array(0))
    with pytest.raises(ModelProblem, match="'s', which is needed later on, is not a tensor"):
        recalibrate(model, [data(model)], method=method)


def test_outputs_without_a_name_at_the_end_of_a_node_mean_nothing():
    plain, model = model_of("opset 7"), model_of("opset 7")
    norms(model)[0].output.extend(["", "", "", ""])
    x = data(plain)
    result = recalibrate(model, [x]).model
    np.testing.assert_array_equal(statistics(result), statistics(recalibrate(plain, [x]).model))
    assert norms(result)[0].output == norms(model)[0].output


def test_statistics_that_nobody_can_compute():
    model = model_of("statistics that are computed")
    node = next(n for n in model.graph.node if n.output[0] == "v")
    node.domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ModelProblem, match="onnxruntime cannot compute the statistics that are stored: ") as caught:
        recalibrate(model, [data(model)])
    assert "bnfold doctor" in caught.value.hint


def test_channels_that_are_not_those_of_the_statistics():
    """The file says nothing of its channels: that they are others shows when it runs."""
    model = single(build(f"Y = {BN('X', 'p')}", "X[N,C,6,6]", "Y[N,C,6,6]", bn("p", 3)))
    with pytest.raises(ModelProblem, match="Y normalizes 4 channels and has statistics of 3"):
        recalibrate(model, [np.ones((20, 4, 6, 6), np.float32)])


def test_a_copy_for_any_batch_that_sees_other_values_is_refused():
    """The reshape has 1 in front for another reason than the batch; with two of each it even runs."""
    body = f"t = Transpose<perm=[1,0,2]>(X) f = Reshape(t, S) Y = {BN('f', 'q')}"
    model = single(build(body, "X[1,2,6]", "Y[1,12]", {"S": np.array([1, -1]), **bn("q", 12)}))
    x = data(model, 120)
    with pytest.raises(ModelProblem, match="Y sees other values where the model, made for batches of 1, runs with"):
        recalibrate(model, [x], method="alg2", batch_size=2)
    assert recalibrate(model, [x]).samples == 120


def test_a_name_that_is_taken_is_not_taken_again():
    model = model_of("one tensor as mean of two")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "d.running_mean"))
    x = data(model)
    result = recalibrate(model, [x]).model
    assert [node.input[3] for node in norms(result)] == ["d.running_mean_1", "pm"]
    np.testing.assert_allclose(statistics(result)[0][0], by_hand(model, x)[0][0], rtol=1e-5, atol=1e-6)


def test_bfloat16_next_to_whole_numbers_and_in_casts():
    body = f"r = Reshape(X, S) f = Cast<to=1>(r) g = Cast<to=16>(f) Y = {BN('g', 'p')} k = Shape(g)"
    model = in_type(single(build(body, "X[N,6,4]", "Y[M,4]", bn("p", 4))), "bfloat16")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4]), "S"))
    model.graph.output.append(helper.make_tensor_value_info("k", onnx.TensorProto.INT64, [2]))
    x = data(model)
    ((mean, var),) = statistics(recalibrate(model, [x]).model)
    rows = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(mean.astype(np.float64), rows.mean(0), rtol=0.02)
    np.testing.assert_allclose(var.astype(np.float64), rows.var(0, ddof=1), rtol=0.02)


def test_rows_that_are_no_whole_number_for_each_sample_are_samples_themselves():
    body = f"r = Reshape(X, S) Y = {BN('r', 'p')}"
    model = single(build(body, "X[N,6,4]", "Y[M,16]", {"S": np.array([-1, 16]), **bn("p", 16)}))
    x = data(model, 2000)
    fitted = recalibrate(model, [x]).model
    assert check(fitted, [x[:1000]]).verdict == "PASS"
    assert check(fitted, [x[:1000] + 3]).verdict == "FAIL"


@pytest.mark.parametrize(
    ("options", "words"), [({"batch_size": 0}, "--batch-size is 0"), ({"memory_limit": -1}, "--memory-limit is -1")]
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(UsageProblem, match=words):
        recalibrate(model_of("first"), [data(model_of("first"))], **options)


def promising(path: str) -> str:
    """An archive whose array says that it has more rows than it has."""
    whole, header = BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (20, 3, 6, 6)}
    np.lib.format.write_array_header_1_0(whole, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", whole.getvalue() + np.ones((7, 3, 6, 6), np.float32).tobytes())
    return path


def test_data_that_are_not_what_they_say(here, capfd):  # noqa: F811
    written(Path("m.onnx"), with_metadata(conv_bn()))
    refused(here, capfd, promising("d.npz"), 3, "d.npz cannot be read: it is cut off")
    refused(here, capfd, "nowhere", 3, "no data at nowhere")


def test_images_of_as_many_channels_as_no_image_has(here, capfd):  # noqa: F811
    model = single(build(f"Y = {BN('X', 'p')}", "X[N,4,6,6]", "Y[N,4,6,6]", bn("p", 4)))
    written(Path("m.onnx"), with_metadata(model))
    drawn(Path("images"), 2)
    refused(here, capfd, "images", 3, "the model takes images of 4 channels, images/a/0.png has 1 or 3")


TIED = {
    "one initializer": f"c = Conv(X, W) d = {BN('c', 'p')} e = Add(d, c) Y = {BN('e', 'p')}",
    "one mean": f"c = Conv(X, W) d = {BN('c', 'p')} e = Add(d, c) Y = BatchNormalization(e, pg, pb, pm, qv)",
    "copies of one": f"m = Identity(pm) n = Identity(m) c = Conv(X, W) d = {BN('c', 'p')} e = Add(d, c) Y = BatchNormalization(e, pg, pb, n, qv)",
}


@pytest.mark.parametrize("case", TIED)
def test_nodes_that_shared_statistics_have_their_own_and_that_is_said(case, here, capfd):  # noqa: F811
    """They may be one after the other, so that no number would be right for both."""
    constants = {**CONV, **bn("p", 4), **bn("q", 4)}
    model = single(build(TIED[case], IMAGE, "Y[N,4,4,4]", constants))
    x = data(model)
    result = recalibrate(model, [x])
    (said,) = result.notes
    assert said == "'d' and 'Y' shared their statistics; now each has those of the data that it sees"
    for found, wanted in zip(statistics(result.model), by_hand(model, x), strict=True):
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)
    assert check(model, [x]).notes == ()
    assert recalibrate(result.model, [x]).notes == ()


def test_nodes_that_share_only_scale_and_bias_stay_as_they_are():
    body = f"c = Conv(X, W) d = {BN('c', 'p')} e = Add(d, c) Y = BatchNormalization(e, pg, pb, qm, qv)"
    model = single(build(body, IMAGE, "Y[N,4,4,4]", {**CONV, **bn("p", 4), **bn("q", 4)}))
    assert recalibrate(model, [data(model)]).notes == ()
