"""The same of networks that timm defines, next to timm's own `reparameterize_model`, which needs the Python classes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import onnxruntime
from reparameterize import SIDE, counts, export, speed
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.utils.model import reparameterize_model
from torch import nn

import bnfold

WIDTHS = 32, 64, 128


def repvgg() -> nn.Module:
    """timm's RepVGG, with two blocks on each of three levels."""
    blocks = tuple(ByoBlockCfg("rep", d=2, c=width) for width in WIDTHS)
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="rep", stem_chs=32), num_classes=10)


def mobileone() -> nn.Module:
    """timm's MobileOne, with four branches and two blocks on each of three levels."""
    kwargs = {"num_conv_branches": 4}
    blocks = tuple(ByoBlockCfg("one", d=2, c=width, gs=1, block_kwargs=kwargs) for width in WIDTHS)
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="one", stem_chs=32), num_classes=10)


def outputs(path: Path) -> np.ndarray:
    """Of 16 random pictures, one at a time."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((16, 1, 3, SIDE, SIDE)).astype(np.float32)
    return np.stack([session.run(None, {session.get_inputs()[0].name: image})[0] for image in images])


def compare(name: str, make: Callable[[], nn.Module], out: Path) -> None:
    """The network as exported, folded by bnfold, and re-parameterized by timm before its export: three rows."""
    network = networks.trained(make)
    original, folded, timms = (out / f"timm_{name}.{kind}.onnx" for kind in ("exported", "folded", "timm"))
    export(network, original)
    bnfold.save(bnfold.fold(original).model, folded)
    export(reparameterize_model(network).eval(), timms)
    want = outputs(original)
    print(f"{name:<10} exported {counts(original)}   outputs up to {np.abs(want).max():.2f}")
    for title, path in ("timm's", timms), ("bnfold's", folded):
        print(f"{'':<10} {title:<9}{counts(path)}   differ by up to {np.abs(outputs(path) - want).max():.0e}")
    print(f"{'':<10} bnfold's is {speed(timms, folded)} as timm's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written")
    out = parser.parse_args().out
    print(f"{'':<20}{'BN':>4}{'Conv':>6}{'Add':>5}{'nodes':>7}")
    for make in (repvgg, mobileone):
        compare(make.__name__, make, out)


if __name__ == "__main__":
    main()
