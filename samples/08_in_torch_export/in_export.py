"""Export from PyTorch with every BatchNormalization, and fold with a pass among those of onnx_ir and onnxscript."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import constant_folding
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule
from torch import Tensor, nn

from bnfold.passes import FoldBatchNormalization

SIDE = 32  # of a picture
FUSIONS = [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule]  # of onnxscript: nothing is left for them
KINDS = ("BatchNormalization", "Conv", "Add")


class Dense(nn.Module):
    """A layer of a DenseNet: its BatchNormalization is before the convolution, and reads all that was made so far."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels + 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.cat([x, self.conv(x)], 1)))


class Branches(nn.Module):
    """A block of RepVGG: two convolutions and the tensor itself, each normalized, and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.narrow = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.itself = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.wide(x) + self.narrow(x) + self.itself(x))


def network() -> nn.Module:
    """A small network with statistics as training leaves them."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 10))
    made = nn.Sequential(stem, nn.ReLU(), Dense(16), Branches(24), Dense(24), Branches(32), head)
    for norm in (each for each in made.modules() if isinstance(each, nn.BatchNorm2d | nn.BatchNorm1d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
    return made.eval()


def exported(optimize: bool) -> torch.onnx.ONNXProgram:
    """PyTorch's own call. Its optimization, by onnxscript, fuses what follows a Conv or Gemm; without it, all stays."""
    images = (torch.zeros(2, 3, SIDE, SIDE),)
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.onnx.export(network(), images, dynamo=True, optimize=optimize, dynamic_shapes=shapes, verbose=False)


def row(name: str, model: ir.Model) -> str:
    kinds = Counter(node.op_type for node in model.graph)
    return f"{name:<26}{kinds[KINDS[0]]:4}{kinds[KINDS[1]]:6}{kinds[KINDS[2]]:5}{kinds.total():7}"


def passes(fold: FoldBatchNormalization) -> list[ir.passes.PassBase]:
    """What onnxscript does in an export, pass by pass, with the fold among them."""
    return [
        constant_folding.FoldConstantsPass(shape_inference=True, input_size_limit=8192, output_size_limit=512 * 1024),
        fold,
        RewritePass(FUSIONS),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.CheckerPass(),
    ]


def main() -> None:
    print(f"{'':<26}{'BN':>4}{'Conv':>6}{'Add':>5}{'nodes':>7}")
    print(row("optimized by PyTorch", exported(optimize=True).model))
    program = exported(optimize=False)
    print(row("optimize=False", program.model))
    program.save("original.onnx")
    fold = FoldBatchNormalization()
    done = ir.passes.PassManager(passes(fold), steps=2)(program.model)
    print(row("with the pass of bnfold", program.model))
    (first, *_) = fold.results  # of each step one
    print(f"modified: {done.modified}; {first.verification.in_a_line().split(':')[0]}")
    for kept in first.kept:
        print(f"kept: {kept.node}")
        print(f"  {kept.not_hoisted.code}: {kept.not_hoisted.words}")
        print(f"  {kept.not_sunk.code}: {kept.not_sunk.words}")
    program.save("folded.onnx")


if __name__ == "__main__":
    main()
