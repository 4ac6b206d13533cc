"""The files that a newcomer has brought along, and those of the test data."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.data import DATA
from tests.samples import folder, module

OF_THE_DATA = {"text.onnx": "ppocr_v3_det.onnx", "faces.onnx": "mesonet_tf2onnx.onnx"}
PICTURES = 24


def own_files(place: Path) -> None:
    """All of them, into `place`."""
    for name, source in OF_THE_DATA.items():
        shutil.copyfile(DATA / "onnx" / source, place / name)
    of_torch(place)
    of_onnx(place)
    (place / "nets/vision").mkdir(parents=True)
    for name, where in (("text.onnx", "nets"), ("branches.onnx", "nets/vision")):
        shutil.copyfile(place / name, place / where / name)
    (place / "nets/notes.txt").write_text("not a model\n")
    pictures(place)


def of_torch(place: Path) -> None:
    """Networks of one's own, as `torch.onnx.export` writes them; resnet18 and densenet121 with every BatchNormalization."""
    import torch
    import torchvision
    from torch import nn

    from bnfold.train.to_onnx import converted
    from tests.zoo_models import exported

    sample = folder("05_reparameterize_repvgg")
    with module(sample / "networks.py") as networks:
        sys.modules["networks"] = networks
        with module(sample / "reparameterize.py") as script:
            script.export(networks.trained(networks.repvgg), place / "branches.onnx")
            torch.manual_seed(0)
            plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            script.export(plain.eval(), place / "finished.onnx")
        del sys.modules["networks"]
    model = converted(torchvision.models.resnet18(weights=None).eval(), (3, 224, 224), 20, {})
    (place / "resnet18.onnx").write_bytes(model.SerializeToString())
    exported("densenet121", place)


def of_onnx(place: Path) -> None:
    """A SiLU after a BatchNormalization, outputs near 1e9, and a model with a data file."""
    import numpy as np
    import onnx

    from tests.build import BN, bn, build
    from tests.test_cli import single

    body = f"r = Relu(X) n = {BN('r', 'p')} s = Sigmoid(n) Y = Mul(n, s)"
    onnx.save(single(build(body, "X[N,3,8,8]", "Y[N,3,8,8]", bn("p", 3))), place / "silu.onnx")
    wide = {"W": np.random.default_rng(0).normal(0, 1e9, (8, 3, 3, 3)), **bn("p", 8)}
    huge = build(f"c = Conv(X, W) n = {BN('c', 'p')} Y = Relu(n)", "X[N,3,8,8]", "Y[N,8,6,6]", wide)
    onnx.save(single(huge), place / "huge.onnx")
    branches = onnx.load(place / "branches.onnx")
    onnx.save(
        branches, place / "large.onnx", save_as_external_data=True, location="large.onnx.data", size_threshold=1024
    )


def pictures(place: Path) -> None:
    """Photographs, so to say, and one input of `branches.onnx`."""
    import numpy as np
    import onnx
    from PIL import Image

    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 255, (260, 320, 3), dtype=np.uint8)).save(place / f"photos/{number}.jpg")
    (place / "inputs").mkdir()
    (value,) = onnx.load(place / "branches.onnx").graph.input
    shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
    np.savez(place / "inputs/one.npz", **{value.name: rng.normal(size=shape).astype(np.float32)})
