"""Models that no one here wrote: what is folded, and that the rest of each file stays as it was, message by message."""

from __future__ import annotations

import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.folding.driver import FoldResult, fold
from bnfold.folding.pipeline import fold_file
from bnfold.model.onnx_io import load
from tests.data import DATA, data_path

LEFT = {  # BatchNormalization before and after
    "burn_mnist": (2, 0),
    "caffe2_light_inception_v2": (69, 0),
    "caffe2_light_resnet50": (53, 0),
    "caffe2_light_shufflenet": (49, 0),
    "caml_vae": (1, 0),
    "customvision_celebrity": (1, 0),
    "customvision_planes": (1, 0),
    "fsanet_1x1": (14, 0),
    "gtcrn_stream": (11, 0),
    "gtcrn_stream_simple": (11, 0),
    "linknet": (5, 0),
    "marabou_gemm_bn": (1, 0),
    "onnc_single_bn": (1, 0),
    "ort_fuse_conv_bn_fp16": (1, 0),
    "ort_fuse_conv_bn_mul_add_unsqueeze": (1, 0),
    "ort_fuse_matmul_bn_directly": (1, 0),
    "ort_fuse_matmul_bn_nonignorable": (1, 0),
    "ort_fuse_matmul_bn_with_reshape": (1, 0),
    "polygraphy_residual_block": (5, 0),
    "ppocr_cls_opset11": (35, 0),
    "ppocr_v2_cls": (35, 0),
    "ppocr_v2_det": (49, 0),
    "ppocr_v2_det_prune": (51, 0),
    "ppocr_v3_det": (49, 0),
    "ppocr_v3_det_opset12": (49, 0),
    "ultraface_rfb320": (35, 0),
    "ultraface_slim320_nopost": (25, 0),
    "winml_squeezenet_onnxmltools01": (1, 0),
}
TRAINING = (
    "backendtest_bn_training_mode_opset15",
    "burn_opset01",
    "burn_opset06",
    "burn_opset07",
    "pinto_bn2d_training15",
)
PROVED = ("fsanet_1x1", "linknet", "ppocr_v2_cls", "ultraface_rfb320")
NAMES = sorted(p.stem for p in DATA.glob("onnx/*.onnx")) or ["absent"]


def batch_norms(model: onnx.ModelProto) -> int:
    return sum(n.op_type == "BatchNormalization" for n in model.graph.node)


def assert_only_the_edits_show(before: onnx.ModelProto, result: FoldResult) -> None:
    after = result.model
    edited = {"graph"}
    for field, value in before.ListFields():
        assert field.name in edited or getattr(after, field.name) == value, field.name
    parts = ("node", "initializer", "value_info", "input", "quantization_annotation")
    for field, value in before.graph.ListFields():
        assert field.name in parts or getattr(after.graph, field.name) == value, field.name
    stored = {t.name for t in before.graph.initializer}
    assert [i for i in before.graph.input if i.name not in stored] == [
        i for i in after.graph.input if i.name not in {t.name for t in after.graph.initializer}
    ]
    assert_in_order(before.graph.value_info, after.graph.value_info)
    old = {n.SerializeToString(deterministic=True) for n in before.graph.node}
    new = [n for n in after.graph.node if n.SerializeToString(deterministic=True) not in old]
    assert len(new) <= 3 * len(result.folded), "more nodes changed than were folded into, handed a name or redirected"
    named = {place.split("'")[1] for f in result.folded for place in f.into}
    takers = [n for n in after.graph.node if n.name in named or n.output[0] in named]
    touched = {x for n in [*new, *takers] for x in n.input}
    known = {t.name: t for t in before.graph.initializer}
    for tensor in after.graph.initializer:
        assert tensor.name in touched or tensor == known[tensor.name], tensor.name


def assert_in_order(before, after) -> None:
    """What is left is a subsequence of what there was, each message as it was."""
    rest = iter(before)
    assert all(any(old == new for old in rest) for new in after)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_model(name):
    path = data_path("onnx", f"{name}.onnx")
    before = load(path)
    if name in TRAINING:
        with pytest.raises(ModelProblem, match="is in training mode"):
            fold(path)
        return
    result = fold(path)
    assert_only_the_edits_show(before, result)
    again = fold(result.model)
    assert again.folded == ()
    assert again.model == result.model
    if name in LEFT:
        assert (batch_norms(before), batch_norms(result.model)) == LEFT[name]


@pytest.mark.parametrize("name", PROVED)
def test_a_real_model_is_folded_and_verified(name, tmp_path):
    report = fold_file(data_path("onnx", f"{name}.onnx"), tmp_path / "out.onnx")
    assert report.after.batch_normalizations == 0
    assert report.verification is not None
    assert report.verification.passed
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LEFT))
def test_every_real_model_is_verified(name, tmp_path):
    report = fold_file(data_path("onnx", f"{name}.onnx"), tmp_path / "out.onnx")
    assert report.verification is not None
    assert report.verification.passed
