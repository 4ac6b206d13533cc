"""Networks of other kinds than timm's, written small: each puts BatchNormalization somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn


def generator() -> nn.Module:
    """DCGAN's: BatchNormalization after every ConvTranspose but the last."""
    widths = (100, 64, 32, 16)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [
            nn.ConvTranspose2d(a, b, 4, *((1, 0) if i == 0 else (2, 1)), bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh())


def double(a: int, b: int) -> nn.Sequential:
    """U-Net's two convolutions."""
    pairs = [(nn.Conv2d(x, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for x in (a, b)]
    return nn.Sequential(*pairs[0], *pairs[1])


class UNet(nn.Module):
    """Skips that are concatenated, and a ConvTranspose with BatchNormalization on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, 8), double(8, 16), double(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.norm2, self.norm1 = nn.BatchNorm2d(32), nn.BatchNorm2d(16)  # of what was concatenated
        self.back2, self.back1, self.head = double(32, 16), double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up2(self.bottom(self.pool(second)))
        x = self.up1(self.back2(self.norm2(torch.cat([x, second], 1))))
        return self.head(self.back1(self.norm1(torch.cat([x, first], 1))))


class Block3d(nn.Module):
    """A residual block over three dimensions, normalized where it steps down as well."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(a, b, 3, stride, 1, bias=False), nn.BatchNorm3d(b), nn.ReLU(),
            nn.Conv3d(b, b, 3, 1, 1, bias=False), nn.BatchNorm3d(b),
        )  # fmt: skip
        same = stride == 1 and a == b
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv3d(a, b, 1, stride, bias=False), nn.BatchNorm3d(b))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet3d() -> nn.Module:
    stem = (nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(8), nn.ReLU())
    blocks = (Block3d(8, 8, 1), Block3d(8, 16, 2), Block3d(16, 32, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 5))


def shared(*widths: int) -> nn.Sequential:
    """PointNet's perceptron, the same for every point: Conv over one position, BatchNormalization, Relu."""
    steps = [(nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*(layer for step in steps for layer in step))


def dense(*widths: int) -> nn.Sequential:
    steps = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*(layer for step in steps for layer in step))


class PointNet(nn.Module):
    """Points that are turned by a predicted matrix, a maximum over them, and normalized dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.decide, self.matrix = shared(3, 16, 64), dense(64, 32), nn.Linear(32, 9)
        self.local, self.glob = shared(3, 32, 32), nn.Sequential(nn.Conv1d(32, 64, 1), nn.BatchNorm1d(64))
        self.head = nn.Sequential(dense(64, 32), nn.Dropout(0.3), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.matrix(self.decide(self.look(x).amax(2))).reshape(-1, 3, 3) + torch.eye(3)
        x = torch.bmm(x.transpose(1, 2), turn).transpose(1, 2)
        return self.head(self.glob(self.local(x)).amax(2))


class Pooled(nn.Module):
    """Mean and deviation over time, as x-vectors pool."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(2)
        return torch.cat([mean, ((x - mean[..., None]) ** 2).mean(2).add(1e-5).sqrt()], 1)


def tdnn() -> nn.Module:
    """x-vectors: BatchNormalization stands after Relu, before the next Conv, whose input is not padded."""
    layers: list[nn.Module] = []
    for a, b, k, d in ((24, 32, 5, 1), (32, 32, 3, 2), (32, 32, 3, 3), (32, 48, 1, 1)):
        layers += [nn.Conv1d(a, b, k, dilation=d), nn.ReLU(), nn.BatchNorm1d(b)]
    return nn.Sequential(*layers, Pooled(), nn.Linear(96, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 10))


def tabular() -> nn.Module:
    """BatchNormalization first, on columns as they come, then after every Relu."""
    hidden = [(nn.Linear(a, b), nn.ReLU(), nn.BatchNorm1d(b), nn.Dropout(0.1)) for a, b in ((20, 64), (64, 32))]
    return nn.Sequential(nn.BatchNorm1d(20), *(layer for step in hidden for layer in step), nn.Linear(32, 2))


class Crnn(nn.Module):
    """Text lines: convolutions, BatchNormalization of their columns, then an LSTM in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d((8, 1)),
        )  # fmt: skip
        self.norm, self.read, self.head = nn.BatchNorm1d(32), nn.LSTM(32, 24, bidirectional=True), nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.norm(self.look(x).squeeze(2)).permute(2, 0, 1)
        return self.head(self.read(columns)[0]).transpose(0, 1)


class DeepLab(nn.Module):
    """Dilated convolutions side by side, one that sees the whole picture, and a Resize back to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.step(3, 16, 3, 2, 1), self.step(16, 32, 3, 2, 1))
        self.sides = nn.ModuleList([self.step(32, 16, 1), *(self.step(32, 16, 3, 1, d) for d in (2, 4))])
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), self.step(32, 16, 1))
        self.join, self.head = self.step(64, 16, 1), nn.Conv2d(16, 5, 1)

    @staticmethod
    def step(a: int, b: int, k: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        pad = dilation * (k // 2)
        return nn.Sequential(nn.Conv2d(a, b, k, stride, pad, dilation, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        seen = self.stem(x)
        whole = self.whole(seen).expand(-1, -1, *seen.shape[2:])
        y = self.head(self.join(torch.cat([*(side(seen) for side in self.sides), whole], 1)))
        return nn.functional.interpolate(y, scale_factor=4.0, mode="bilinear")


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dcgan_generator": (generator, (100, 1, 1)),
    "unet": (UNet, (3, 32, 32)),
    "resnet3d": (resnet3d, (3, 8, 32, 32)),
    "pointnet": (PointNet, (3, 64)),
    "tdnn": (tdnn, (24, 40)),
    "tabular": (tabular, (20,)),
    "crnn": (Crnn, (1, 16, 48)),
    "deeplab_frozen": (DeepLab, (3, 32, 32)),
}


def frozen(model: onnx.ModelProto) -> onnx.ModelProto:
    """BatchNormalization written out as detection models are exported: Mul and Add of constants that are computed."""
    column = numpy_helper.from_array(np.array([1, -1, 1, 1]), "frozen/column")
    nodes = [n for node in model.graph.node for n in written_out(node)]
    epsilons = {x for n in nodes for x in n.input if x.startswith("frozen/epsilon")}
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(column)
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(x.split("=")[1]), x) for x in epsilons)
    return model


def written_out(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """y = x * column(scale / sqrt(var + epsilon)) + column(bias - mean * that)"""
    if node.op_type != "BatchNormalization":
        yield node
        return
    x, scale, bias, mean, var = node.input
    (y,) = node.output
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)

    def make(op: str, *inputs: str, to: str) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [to], name=f"{op}/{to}")

    yield make("Add", var, f"frozen/epsilon={epsilon:g}", to=f"{y}/safe")
    yield make("Sqrt", f"{y}/safe", to=f"{y}/deviation")
    yield make("Div", scale, f"{y}/deviation", to=f"{y}/scale")
    yield make("Mul", mean, f"{y}/scale", to=f"{y}/moved")
    yield make("Sub", bias, f"{y}/moved", to=f"{y}/shift")
    yield make("Reshape", f"{y}/scale", "frozen/column", to=f"{y}/scales")
    yield make("Reshape", f"{y}/shift", "frozen/column", to=f"{y}/shifts")
    yield make("Mul", x, f"{y}/scales", to=f"{y}/scaled")
    yield make("Add", f"{y}/scaled", f"{y}/shifts", to=y)
