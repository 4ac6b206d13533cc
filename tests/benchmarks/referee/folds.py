"""What other tools make of real files, and what torch makes of networks when it exports them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from threading import Lock

from tests.benchmarks.children import ROOT
from tests.benchmarks.peers import PEERS, Missing, version
from tests.data import DATA

FILES = (
    "fsanet_1x1", "burn_mnist", "gtcrn_stream_simple", "dnnv_dronet", "polygraphy_residual_block",
    "ultraface_slim320_nopost", "mesonet_tf2onnx", "ort_fuse_conv_bn_no_bias",
)  # fmt: skip
TOOLS = (*PEERS, "onnxruntime_extended")
NETS = ("unet", "pointnet")
SECONDS = 300.0
EXPORTING = Lock()  # torch exports one network at a time


class NoFold(Exception):
    """A tool that stops, in its words."""


def versions(python: str) -> dict[str, str]:
    """Of the tools, and of torch; in words where one is missing, whose folds are then missing, too."""
    return {f"{tool} (peer)": version_of(tool, python) for tool in PEERS} | {"torch": version_of("torch")}


def version_of(tool: str, python: str = sys.executable) -> str:
    try:
        return version(tool, python)
    except Missing:
        return "missing"


def folded(file: str, tool: str, folder: Path, python: str = sys.executable) -> tuple[Path, Path]:
    """A real file and what a tool of the environment of `python` made of it. Raises NoFold."""
    source, target = DATA / "onnx" / f"{file}.onnx", folder / f"{file}.{tool}.onnx"
    command = [python, "-m", "tests.benchmarks.tools", tool, str(source), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode or not target.exists():
        raise NoFold((done.stderr.strip().splitlines() or ["no words"])[-1])
    return source, target


def exported(name: str, folder: Path) -> tuple[Path, Path]:
    """A network as torch exports it, and as it does with its own optimization, which folds what follows a Conv."""
    import torch

    from tests.small_nets import NETS as MAKERS

    torch.manual_seed(0)
    make, shape = MAKERS[name]
    model, x = make().eval(), torch.randn(2, *shape)
    for module in model.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_()
    paths = folder / f"{name}.onnx", folder / f"{name}.optimized.onnx"
    with EXPORTING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, optimize in zip(paths, (False, True), strict=True):
            torch.onnx.export(model, (x,), path, dynamo=True, optimize=optimize, verbose=False, external_data=False)
    return paths
