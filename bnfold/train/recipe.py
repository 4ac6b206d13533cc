"""What a network is and how it is trained, as plain numbers; nothing heavy is imported here.

The paper changes seven things beside adding BatchNorm to Inception (section 4.2.1). Each is an option:

| change in the paper                 | baseline                 | with BatchNorm                                  |
|-------------------------------------|--------------------------|-------------------------------------------------|
| increase the learning rate          | --lr R                   | --lr 5R or 30R                                  |
| remove Dropout                      | --dropout 0.4            | --dropout 0, the default                        |
| reduce the L2 weight regularization | --weight-decay W         | --weight-decay W/5                              |
| accelerate the learning rate decay  | --schedule exponential --decay-every S | --decay-every S/6                 |
| remove Local Response Normalization | --lrn                    | without, the default                            |
| shuffle training examples more      | --shuffle batches        | --shuffle images, the default                   |
| reduce the photometric distortions  | --augment distort        | --augment crop-flip                             |

"batches" shuffles mini-batches that always hold the same images, as a shard read in its own order does.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATIONS = ("sigmoid", "relu")
CHOICES = {
    "activation": ACTIVATIONS,
    "bn_position": ("before", "after"),
    "shuffle": ("images", "batches"),
    "augment": ("none", "crop-flip", "distort"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "exponential", "step", "cosine"),
    "amp": ("float16", "bfloat16"),
}


@dataclass(frozen=True)
class Network:
    """An architecture and what it is asked to vary; None leaves it as the architecture has it."""

    arch: str = "convnet"
    batch_norm: bool = True
    activation: str | None = None
    bn_position: str | None = None
    width: float | None = None
    dropout: float | None = None
    lrn: bool | None = None
    init_std: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How the weights move. The defaults are those of section 4.1 of the paper where it names one (batches of 60)
    and plain SGD at 0.1 where it does not."""

    batch_size: int = 60
    shuffle: str = "images"
    augment: str = "none"
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    decay: float = 0.1
    decay_every: int | None = None
    clip_norm: float | None = None
    amp: str | None = None
    channels_last: bool = False
    compile: bool = False
