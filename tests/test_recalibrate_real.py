"""Recalibration of models that no one here wrote, and what it is worth on real images"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bnfold.errors import ModelProblem
from bnfold.recalibration import Recalibration, check, recalibrate
from bnfold.recalibration.feeds.card import Card
from bnfold.recalibration.levels import Levels
from bnfold.runtime.dimensions import shapes_of
from bnfold.train import idx
from tests.data import DATA, data_path

SENTENCES = {  # models that cannot be recalibrated, and why
    "backendtest_bn1d_3d_eval_opset6": "opset 6",
    "backendtest_bn2d_eval_opset6": "opset 6",
    "backendtest_bn3d_eval_opset6": "opset 6",
    "backendtest_bn_training_mode_opset15": "training mode",
    "burn_opset01": "opset 1",
    "burn_opset06": "opset 6",
    "burn_opset07": "training mode",
    "finn_unsqueeze_bn": "onnxruntime cannot run",
    "migraphx_bn_optional_outs": "by statistics that it stores",
    "pinto_bn2d_training15": "training mode",
    "qonnx_espcn_subpixel": "onnxruntime cannot run",
}
DEEP = (  # dozens of levels each
    *("caffe2_light_densenet121", "caffe2_light_inception_v2", "caffe2_light_resnet50", "caffe2_light_shufflenet"),
    *("ppocr_cls_opset11", "ppocr_v2_det", "ppocr_v2_det_prune", "ppocr_v3_det", "ppocr_v3_det_opset12"),
    "ultraface_slim320_nopost",
)
NAMES = sorted(p.stem for p in DATA.glob("onnx/*.onnx")) or ["absent"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in NAMES])
def test_a_result_or_a_sentence(name):
    model = onnx.load(data_path("onnx", f"{name}.onnx"))
    if name in SENTENCES:
        with pytest.raises(ModelProblem, match=SENTENCES[name]):
            recalibrated(model)
        return
    result = recalibrated(model)
    stored = {t.name for t in result.model.graph.initializer}
    norms = [n for n in result.model.graph.node if n.op_type == "BatchNormalization"]
    assert len(result.drifts) == len(norms) > 0
    assert {x for n in norms for x in n.input[3:]} <= stored
    data, kept = Levels(model.graph).of, [n.output[0] for n in result.model.graph.node]
    assert [n.output[0] for n in model.graph.node if n.output[0] in data or n.output[0] in kept] == kept
    assert result.model.graph.output == model.graph.output
    ort.InferenceSession(result.model.SerializeToString())


def recalibrated(model: onnx.ModelProto) -> Recalibration:
    """With two random samples, of the smallest size that the model takes."""
    for size in (32, 64):
        try:
            return recalibrate(model, [drawn(model, size, seed) for seed in (0, 1)])
        except ModelProblem as why:
            problem = why
    raise problem


def drawn(model: onnx.ModelProto, size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = shapes_of(model.graph, {"*": size}, 2)
    return {x.name: rng.standard_normal(shapes[x.name]).astype(x.kind) for x in Card.of(model).inputs}


def mnist(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    folder = data_path("mnist")
    images, labels = (idx.read_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return images[:count, None].astype(np.float32) / 255, labels[:count]


def accuracy(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    session = ort.InferenceSession(model.SerializeToString())
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: image[None]})[0].argmax() for image in images]
    return float((np.array(answers) == labels).mean())


DOMAINS = {  # what images became, accuracy before (at most) and after (at least): measured .607 .958, .859 .986, .933 .989
    "not normalized": (lambda x: x, 0.70, 0.93),
    "darkened": (lambda x: (0.4 * x - 0.1307) / 0.3081, 0.90, 0.97),
    "0 to 255": (lambda x: 255 * x, 0.95, 0.98),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_another_domain_by_another_population_alone(name):
    """The paper's outlook: domain adaptation by recomputing means and variances, here for a model of burn's authors."""
    model = onnx.load(data_path("onnx", "burn_mnist.onnx"))
    change, before, after = DOMAINS[name]
    train, (images, labels) = mnist("train", 300)[0], mnist("t10k", 500)
    assert check(model, [change(train)]).verdict == "FAIL"
    result = recalibrate(model, [change(train)])
    assert accuracy(model, change(images), labels) < before
    assert accuracy(result.model, change(images), labels) > after
    assert check(result.model, [change(train)]).verdict == "PASS"


def test_the_domain_it_was_trained_on():
    model = onnx.load(data_path("onnx", "burn_mnist.onnx"))
    train, (images, labels) = mnist("train", 300)[0], mnist("t10k", 500)
    usual = [(x - np.float32(0.1307)) / np.float32(0.3081) for x in (train, images)]
    assert check(model, [usual[0]]).verdict == "PASS"
    result = recalibrate(model, [usual[0]])
    assert accuracy(result.model, usual[1], labels) > accuracy(model, usual[1], labels) - 0.005
