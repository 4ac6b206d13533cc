"""The models of the zoo: timm's with random weights, ours written small, and their export with every BatchNormalization."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfold.train.to_onnx import converted
from tests.small_nets import NETS, frozen

_LEFT = """
repvgg_a0 mobileone_s0 repghostnet_050 levit_128s mixnet_s nextvit_small repvit_m0_9 fastvit_t8 visformer_tiny
inception_next_tiny lambda_resnet26t swiftformer_xs pnasnet5large efficientformerv2_s0 efficientvit_m0 shvit_s1
starnet_s1 densenet121 dpn68 resnetv2_50 convmixer_768_32 xcit_nano_12_p8_224 coatnet_nano_rw_224 botnet26t_256
halonet26t haloregnetz_b
"""  # five other tools leave BatchNormalization in these
_MORE = """
resnet18 inception_v3 inception_v4 inception_resnet_v2 xception41 dla34 hrnet_w18_small res2net50_26w_4s
skresnet18 resnest14d ghostnet_100 nasnetalarge rexnet_100 vgg11_bn gernet_s ese_vovnet19b_dw selecsls42b
cspdarknet53 efficientformer_l1 efficientvit_b0 tiny_vit_5m_224 mobilevit_xxs mobilevitv2_050 hgnetv2_b0
lcnet_050 tinynet_a regnety_002 bat_resnext26ts volo_d1_224 cs3darknet_s ecaresnet26t fbnetv3_b
mobilenetv4_conv_small efficientnet_b0 tf_efficientnet_b0 mobilenetv3_small_100 tresnet_m gcresnet33ts
"""
LEFT, MORE = tuple(_LEFT.split()), tuple(_MORE.split())
NAMES = (*LEFT, *MORE, *NETS)
SIZES = {  # where 64 is too small and timm does not say so
    "inception_v3": 96,
    "inception_v4": 96,
    "inception_resnet_v2": 96,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
    "tiny_vit_5m_224": 224,
    "vgg11_bn": 224,
}
SIZE = 64
PIXELS = 1 << 20  # of one training pass
OPSET = 20
NEGATIVE = 0.05  # of the scales


def exported(name: str, folder: Path, side: int | None = None) -> Path:
    """The ONNX file of a model, from the cache in `folder`, or made there; `side` is that of its pictures."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        record = made(name, side)
        draft = path.with_suffix(f".{np.random.randint(1 << 30)}.part")
        draft.write_bytes(record.SerializeToString(deterministic=True))
        draft.replace(path)
    return path


def made(name: str, side: int | None = None) -> onnx.ModelProto:
    """Build, populate, export. The same name and side give the same model."""
    model, shape = populated(name, side)
    record = converted(model, shape, OPSET, {})
    return frozen(record) if name.endswith("_frozen") else record


def populated(name: str, side: int | None = None, negative: float = NEGATIVE) -> tuple[nn.Module, tuple[int, ...]]:
    """A network in eval mode with numbers as after training, and the shape of one input."""
    torch.manual_seed(0)
    model, shape = built(name, side)
    populate(model, shape, torch.Generator().manual_seed(1), negative)
    return model.eval(), shape


def built(name: str, side: int | None = None) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with random weights, and the shape of one input, whose pictures have `side` pixels a side."""
    if name in NETS:
        make, shape = NETS[name]
        return make(), shape
    from timm import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's notes on renamed models
        return create_model(name), (3, *[side or timm_size(name)] * 2)


def timm_size(name: str) -> int:
    """The smallest sensible side of a picture."""
    from timm.models import get_pretrained_cfg

    given = get_pretrained_cfg(name, allow_unregistered=False)
    if name in SIZES or given is None:
        return SIZES.get(name, SIZE)
    fixed, least = given.input_size[-1] if given.fixed_input_size else SIZE, given.min_input_size or (0, 0, 0)
    return int(max(fixed, least[-1]))


def populate(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator, negative: float = NEGATIVE) -> None:
    """Numbers as after training: no zeros or ones left from initialization, statistics taken from data, then moved.

    Scale and shift of each BatchNormalization are drawn first (`negative` is the share below zero), one pass in training
    mode over random data then sets the statistics, which are moved a little, so that activations stay in range.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    with torch.no_grad():
        scatter(model, norms, generator, negative)
        learn_statistics(model, norms, shape, generator)
        for norm in norms:
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.1 * deviation * torch.randn(deviation.shape, generator=generator)
            norm.running_var *= uniform(deviation, 0.8, 1.25, generator)


def scatter(model: nn.Module, norms: list[_BatchNorm], generator: torch.Generator, negative: float) -> None:
    """Parameters that initialization left all equal: zero biases, tiny layer scales, scales of one and shifts of zero."""
    for norm in norms:
        if norm.affine:
            sign = torch.where(torch.rand(norm.weight.shape, generator=generator) < negative, -1.0, 1.0)
            norm.weight.copy_(sign * uniform(norm.weight, 0.5, 1.5, generator))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape, generator=generator))
    for value in model.parameters():
        if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
            value.copy_(drawn_around(float(value.flatten()[0]), value, generator))


def drawn_around(equal: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """0 -> a small bias; a tiny layer scale -> one that is felt; anything else moves by a tenth."""
    if equal == 0:
        return 0.05 * torch.randn(like.shape, generator=generator)
    if abs(equal) < 0.01:
        return uniform(like, 0.1, 0.5, generator)
    return equal * uniform(like, 0.9, 1.1, generator)


def uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(like.shape, generator=generator)


def learn_statistics(
    model: nn.Module, norms: list[_BatchNorm], shape: tuple[int, ...], generator: torch.Generator
) -> None:
    """One pass in training mode, of the normalizations alone: Dropout and its kin stay off."""
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    model(data(max(16, min(64, PIXELS // math.prod(shape))), shape, generator))
    model.eval()


def data(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random inputs that differ as pictures do, in brightness, in contrast, in what is where; every fourth is noise.

    Noise alone looks the same to a network after a few layers: the variances after a global pool, or deep in an
    attention network, come out so small that dividing by them magnifies rounding a thousandfold.
    """
    noise = torch.randn(count, *shape, generator=generator)
    if len(shape) < 2 or math.prod(shape[1:]) == 1:
        return noise
    coarse = torch.randn(count, shape[0], *(min(4, n) for n in shape[1:]), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape) - 1]
    scene = nn.functional.interpolate(coarse, size=shape[1:], mode=mode)
    contrast, brightness = uniform(noise, 0.3, 1.5, generator), torch.randn(count, *shape, generator=generator)
    first = (slice(None), slice(None), *[slice(1)] * (len(shape) - 1))
    pictures = contrast[first] * (scene + 0.3 * noise) + 0.5 * brightness[first]
    pictures[::4] = noise[::4]
    return pictures


def batch_norms(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if n.op_type == "BatchNormalization" and n.domain in ("", "ai.onnx"))
