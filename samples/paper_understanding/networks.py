"""The networks that are compared: a residual network with BatchNorm nowhere, at one place only, or everywhere.

`bnfold train --arch networks.py:last` trains one too.
"""

from collections import OrderedDict
from functools import partial

from torch import nn
from torch.nn.init import kaiming_uniform_, xavier_uniform_

from bnfold.train.small_networks import resnet

Shape = tuple[int, int, int]
DEPTH, DEEP = 20, 56  # of those that are trained
WIDTH = 0.5  # times the channels of He et al.: one core trains it in minutes
KINDS = ("none", "last", "everywhere")
INITIAL = {  # how weights of convolutions are drawn; "he" is the way of bnfold's resnet
    "glorot": xavier_uniform_,
    "he": lambda weight: weight,
    "pytorch": partial(kaiming_uniform_, a=5**0.5),  # the default of nn.Conv2d
}


def network(
    kind: str, shape: Shape, classes: int, depth: int = DEPTH, width: float = 1, initial: str = "glorot"
) -> nn.Module:
    """A residual network of `depth` layers, normalized as `kind` says."""
    model = resnet(str(depth), shape, classes, batch_norm=kind == "everywhere", width=width)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            INITIAL[initial](layer.weight)
    return normalized_at_last(model) if kind == "last" else model


def normalized_at_last(model: nn.Sequential) -> nn.Sequential:
    """`model` with one BatchNorm: on the output of the last residual block, before the mean over the image."""
    layers = OrderedDict(model.named_children())
    tail = OrderedDict((name, layers.pop(name)) for name in ("pool", "flatten", "output"))
    return nn.Sequential(layers | OrderedDict(norm=nn.BatchNorm2d(tail["output"].in_features)) | tail)


def none(shape: Shape, classes: int) -> nn.Module:
    return network("none", shape, classes, width=WIDTH)


def last(shape: Shape, classes: int) -> nn.Module:
    return network("last", shape, classes, width=WIDTH)


def everywhere(shape: Shape, classes: int) -> nn.Module:
    return network("everywhere", shape, classes, width=WIDTH)


def deep_none(shape: Shape, classes: int) -> nn.Module:
    return network("none", shape, classes, DEEP, WIDTH)


def deep_everywhere(shape: Shape, classes: int) -> nn.Module:
    return network("everywhere", shape, classes, DEEP, WIDTH)
