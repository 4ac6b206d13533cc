"""A small convolutional network, as `bnfold train --arch lenet.py:lenet` takes it."""

from collections import OrderedDict

from torch import nn


def lenet(shape, classes):
    """Two convolutions and a hidden layer, each normalized before its ReLU; images (N, *shape) to logits."""
    channels, height, width = shape
    pixels = -(-height // 4) * -(-width // 4)
    layers = OrderedDict(
        **{"conv1": nn.Conv2d(channels, 8, 5, 2, 2, bias=False), "norm1": nn.BatchNorm2d(8), "act1": nn.ReLU()},
        **{"conv2": nn.Conv2d(8, 16, 3, 2, 1, bias=False), "norm2": nn.BatchNorm2d(16), "act2": nn.ReLU()},
        flatten=nn.Flatten(),
        **{"linear": nn.Linear(16 * pixels, 64, bias=False), "norm3": nn.BatchNorm1d(64), "act3": nn.ReLU()},
        output=nn.Linear(64, classes),
    )
    return nn.Sequential(layers)
