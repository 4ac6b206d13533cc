"""The networks: shape, BatchNorm where it belongs, options that an architecture cannot honour, and other people's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bnfold.errors import ModelProblem, UsageProblem
from bnfold.folding.pipeline import Options, fold_file
from bnfold.train import TrainOptions, train
from bnfold.train.architectures import ARCHITECTURES, build
from bnfold.train.export import export
from bnfold.train.inception import LocalResponseNorm
from bnfold.train.recipe import Network

SHAPES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 5, 7), (1, 1, 1)]
SMALL = {"bn-inception": 1 / 16, "inception": 1 / 16}
NORMALIZED = [name for name in ARCHITECTURES if name != "inception"]
THREE_LAYERS = ["mlp", "convnet"]
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def made(arch: str, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10, **options: Any) -> nn.Module:
    return build(Network(arch, **{"width": SMALL.get(arch)} | options), shape, classes)


def leaves(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if not list(layer.children())]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("arch", [*ARCHITECTURES, "resnet-8"])
def test_images_of_any_shape_to_logits(arch: str, shape: tuple[int, int, int]) -> None:
    assert made(arch, shape, 7).eval()(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("arch", [*NORMALIZED, "resnet-8"])
def test_normalized_between_weights_without_bias_and_nonlinearity(arch: str) -> None:
    layers = leaves(made(arch))
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, NORMS)]
    assert len(norms) == {"bn-inception": 69, "resnet-8": 7}.get(arch, 3)
    for i in norms:
        assert layers[i - 1].bias is None
        assert isinstance(layers[i + 1], nn.Sigmoid | nn.ReLU)


@pytest.mark.parametrize("arch", NORMALIZED)
def test_normalized_after_the_nonlinearity_which_needs_the_bias(arch: str) -> None:
    layers = leaves(made(arch, bn_position="after"))
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, NORMS)]
    assert len(norms) == {"bn-inception": 69}.get(arch, 3)
    for i in norms:
        assert isinstance(layers[i - 1], nn.Sigmoid | nn.ReLU)
        assert layers[i - 2].bias is not None


@pytest.mark.parametrize("arch", [*NORMALIZED, "resnet-8"])
def test_without_batch_norm_the_biases_are_back(arch: str) -> None:
    layers = leaves(made(arch, (3, 8, 8), batch_norm=False))
    assert not any(isinstance(layer, NORMS) for layer in layers)
    weights = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert all(layer.bias is not None for layer in weights if getattr(layer, "groups", 1) == 1)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "resnet-8"])
@pytest.mark.parametrize(
    ("activation", "kind", "other"), [("sigmoid", nn.Sigmoid, nn.ReLU), ("relu", nn.ReLU, nn.Sigmoid)]
)
def test_the_nonlinearity_is_that_of_the_options(
    arch: str, activation: str, kind: type[nn.Module], other: type[nn.Module]
) -> None:
    layers = leaves(made(arch, activation=activation))
    assert any(isinstance(layer, kind) for layer in layers)
    assert not any(isinstance(layer, other) for layer in layers)


def test_mlp_is_the_network_of_section_4_1() -> None:
    net = made("mlp", (1, 28, 28))
    weights = [layer.weight for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(w.shape) for w in weights] == [(100, 784), (100, 100), (100, 100), (10, 100)]
    assert sum(isinstance(layer, nn.Sigmoid) for layer in net.modules()) == 3
    everything = torch.cat([w.detach().ravel() for w in weights])
    assert abs(float(everything.std()) - 0.1) < 0.001
    assert abs(float(everything.mean())) < 0.001


@pytest.mark.parametrize("arch", ["convnet", "bn-inception", "torchvision:squeezenet1_1"])
def test_weights_have_the_standard_deviation_of_the_options(arch: str) -> None:
    net = made(arch, (3, 64, 64), init_std=0.02)
    weights = torch.cat([p.detach().ravel() for p in net.parameters() if p.ndim > 1])
    assert abs(float(weights.std()) - 0.02) < 0.0005
    biases = [p for layer in leaves(net) if not isinstance(layer, NORMS) for p in layer.parameters() if p.ndim == 1]
    assert all(not bool(p.any()) for p in biases)


def shapes(arch: str, shape: tuple[int, int, int], **options: Any) -> dict[str, tuple[int, ...]]:
    """What each part of the network gives for one image."""
    x, sizes = torch.zeros(1, *shape), {}
    with torch.no_grad():
        for name, layer in made(arch, shape, 1000, **options).eval().named_children():
            x = layer(x)
            sizes[name] = tuple(x.shape[1:])
    return sizes


def test_bn_inception_is_the_table_of_the_appendix() -> None:
    sizes = shapes("bn-inception", (3, 224, 224), width=1)
    assert sizes["1"] == (64, 112, 112)
    assert sizes["pool1"] == (64, 56, 56)
    assert sizes["2"] == (192, 56, 56)
    channels = {
        "3a": 256,
        "3b": 320,
        "3c": 576,
        "4a": 576,
        "4b": 576,
        "4c": 608,
        "4d": 608,
        "4e": 1056,
        "5a": 1024,
        "5b": 1024,
    }
    sides = {"3a": 28, "3b": 28, "3c": 14, "4a": 14, "4b": 14, "4c": 14, "4d": 14, "4e": 7, "5a": 7, "5b": 7}
    assert {name: sizes[name] for name in channels} == {name: (channels[name], s, s) for name, s in sides.items()}
    net = made("bn-inception", (3, 224, 224), 1000, width=1)
    assert round(sum(p.numel() for p in net.parameters()), -5) == 11.3e6
    assert net.get_submodule("1.depthwise").weight.shape == (3 * 8, 1, 7, 7)


def test_bn_inception_takes_small_images_with_a_small_first_layer() -> None:
    sizes = shapes("bn-inception", (3, 32, 32))
    assert sizes["1"][1:] == (32, 32)
    assert sizes["3a"][1:] == (16, 16)
    assert sizes["5b"][1:] == (4, 4)


def test_inception_is_the_same_without_batch_norm() -> None:
    plain, bare = made("inception"), made("bn-inception", batch_norm=False)
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in bare.named_parameters()}
    kinds = [type(layer) for layer in leaves(made("inception", lrn=True, dropout=0.4))]
    assert kinds.count(LocalResponseNorm) == 2
    assert kinds.count(nn.Dropout) == 1


def test_resnet_has_as_many_layers_of_weights_as_its_name_says() -> None:
    net = made("resnet-20", (3, 32, 32))
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net.modules()) == 20
    assert round(sum(p.numel() for p in net.parameters()), -4) == 270_000, "as table 6 of He et al. 2016 has it"


def test_outside_networks_take_the_channels_and_classes_of_the_data() -> None:
    assert made("timm:resnet10t", (1, 32, 32), 7).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert made("torchvision:squeezenet1_1", (3, 32, 32), 7).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert isinstance(made("torchvision:googlenet", (3, 64, 64), 7).train()(torch.zeros(2, 3, 64, 64)), torch.Tensor)


def test_a_network_from_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Sizes:\n    hidden: int = 5\n"
        "def tiny(shape, classes):\n    size = shape[0] * shape[1] * shape[2]\n    h = Sizes().hidden\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, h, bias=False), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, classes))\n"
    )
    result = train(TrainOptions(arch=f"{tmp_path}/nets.py:tiny", steps=2, out=tmp_path / "run"))
    assert result.batch_norms == 1
    export(result.run, tmp_path / "tiny.onnx")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "tiny.onnx").metadata_props}
    assert '"arch": "nets.py:tiny"' in properties["bnfold.training"], "no path of this machine"
    monkeypatch.chdir(tmp_path)
    assert train(TrainOptions(arch="nets.py:tiny", steps=1)).run == Path("runs/digits-nets.py-tiny")


USERS = {
    "no file": ("", "nowhere.py:f", "no file nowhere.py"),
    "syntax": ("def f(:", "net.py:f", "failed: SyntaxError"),
    "no function": ("f = 1", "net.py:f", "has no function f"),
    "raises": ("def f(shape, classes): raise OSError('disk')", "net.py:f", "failed: OSError: disk"),
    "no network": ("def f(shape, classes): return 3", "net.py:f", "gave a int, not an nn.Module"),
}


@pytest.mark.parametrize(("source", "arch", "words"), USERS.values(), ids=USERS.keys())
def test_a_file_that_gives_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, arch: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(source)
    with pytest.raises(ModelProblem, match=words):
        train(TrainOptions(arch=arch, steps=1))
    assert not (tmp_path / "runs").exists()


TROUBLE = {
    "tuple": "return (x, x)",
    "fewer classes": "return x.flatten(1)[:, :3]",
    "fails": "raise RuntimeError('no such layer')",
}


@pytest.mark.parametrize("body", TROUBLE.values(), ids=TROUBLE.keys())
def test_a_network_that_cannot_be_trained_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.layer = nn.Linear(8, 8)\n    def forward(self, x):\n        x = self.layer(x)\n        {body}\n"
        "def f(shape, classes): return Net()\n"
    )
    with pytest.raises(UsageProblem, match=r"cannot be trained on batches of \(60, 1, 8, 8\)|not 10 logits each"):
        train(TrainOptions(arch="net.py:f", steps=1))
    assert not (tmp_path / "runs").exists()


UNHONOURED: dict[str, tuple[str, dict[str, Any], str]] = {
    "width": ("mlp", {"width": 0.5}, "mlp cannot honour --width"),
    "two": ("convnet", {"lrn": True, "dropout": 0.1}, "cannot honour --dropout, --lrn"),
    "no-bn": ("timm:resnet18", {"batch_norm": False}, "timm:resnet18 cannot honour --no-bn"),
    "position": ("resnet-20", {"bn_position": "after"}, "resnet-20 cannot honour --bn-position"),
    "inception": ("inception", {"bn_position": "after"}, "inception cannot honour --bn-position"),
    "depth": ("resnet-21", {}, "6n"),
    "shallow": ("resnet-2", {}, "6n"),
}


@pytest.mark.parametrize(("arch", "options", "words"), UNHONOURED.values(), ids=UNHONOURED.keys())
def test_an_option_that_an_architecture_cannot_honour_is_refused(
    arch: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageProblem, match=words):
        build(Network(arch, **options), (3, 32, 32), 10)


UNKNOWN = {
    "convent": "convnet",
    "bn_inception": "bn-inception",
    "resnet": "resnet-N",
    "timm:resnet_18": "resnet18",
    "torchvision:resnet-18": "resnet18",
}


@pytest.mark.parametrize(("arch", "near"), UNKNOWN.items())
def test_an_unknown_architecture_has_its_nearest_in_the_hint(arch: str, near: str) -> None:
    with pytest.raises(UsageProblem, match="unknown") as caught:
        build(Network(arch), (1, 8, 8), 10)
    assert near in caught.value.hint


def trained(folder: Path, **options: Any) -> Path:
    return export(train(TrainOptions(**{"steps": 3, "out": folder / "run"} | options)).run, folder / "m.onnx").path


@pytest.mark.parametrize("arch", ["bn-inception", "resnet-8"])
def test_every_batch_norm_folds_and_the_result_is_verified(tmp_path: Path, arch: str) -> None:
    options = {"width": 1 / 16, "lrn": True, "dropout": 0.4} if arch == "bn-inception" else {"width": 0.25}
    source = trained(tmp_path, arch=arch, batch_size=8, **options)
    kinds = [node.op_type for node in onnx.load(source).graph.node]
    assert kinds.count("BatchNormalization") == (69 if arch == "bn-inception" else 7)
    assert kinds.count("LRN") == (2 if arch == "bn-inception" else 0)
    folded_to_nothing(source)


def folded_to_nothing(source: Path) -> None:
    """No BatchNormalization is left, and the verification says PASS."""
    report = fold_file(source, None, Options())
    assert report.verification is not None
    assert report.verification.verdict == "PASS"
    left = onnx.load(source.with_suffix(".folded.onnx")).graph.node
    assert not any(node.op_type == "BatchNormalization" for node in left)


@pytest.mark.slow
def test_bn_inception_at_full_width_and_size(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (224, 224, 3), np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    folded_to_nothing(trained(tmp_path, arch="bn-inception", data=f"folder:{tmp_path / 'pets'}", batch_size=4, lr=0.01))
