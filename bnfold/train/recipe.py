"""The settings of a training run: each option is written here once, with its default, its help and its limits.

Besides adding BatchNorm, the paper changes seven things of Inception (section 4.2.1). Each is an option:

| change in the paper                 | baseline                 | with BatchNorm                                  |
|-------------------------------------|--------------------------|-------------------------------------------------|
| increase the learning rate          | --lr R                   | --lr 5R or 30R                                  |
| remove Dropout                      | --dropout 0.4            | --dropout 0, the default                        |
| reduce the L2 weight regularization | --weight-decay W         | --weight-decay W/5                              |
| accelerate the learning rate decay  | --schedule exponential --decay-every S | --decay-every S/6                 |
| remove Local Response Normalization | --lrn                    | without, the default                            |
| shuffle training examples more      | --shuffle batches        | --shuffle images, the default                   |
| reduce the photometric distortions  | --augment distort        | --augment crop-flip                             |

"batches" shuffles mini-batches that always have the same images, like shards that are each read in the same order.
Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ..errors import UsageProblem

EPOCHS = 30
ACTIVATIONS = ("sigmoid", "relu")
METHODS = ("sequential", "alg2", "pooled", "ema")  # of taking population statistics
BY_BATCH = ("alg2", "pooled")  # those that normalize mini-batches as in training


@dataclass(frozen=True)
class OneOf:
    """A limit: the value is one of these names."""

    names: tuple[str, ...]
    kind: str | None = None  # what an unknown name is called, if not by the option

    def require(self, flag: str, value: str) -> None:
        if value not in self.names:
            raise unknown(self.kind or flag, value, self.names)


@dataclass(frozen=True)
class Number:
    """A limit: the value is a number that fits."""

    fits: Callable[[Any], bool]
    hint: str

    def require(self, flag: str, value: float) -> None:
        _require(self.fits(value), f"{flag} is {value}", self.hint)


@dataclass(frozen=True)
class Option:
    """The help of an option on the command line, and the values it takes."""

    help: str
    limit: OneOf | Number | None = None
    shown: str | None = None  # the default in words, where it is None
    flag: str | None = None  # where it is not the name of the field


def option(default: Any, help: str, limit: OneOf | Number | None = None, **others: str) -> Any:
    """The field of a dataclass that is an option of `bnfold train`; `others` are `shown` and `flag` of Option."""
    return field(default=default, metadata={"option": Option(help, limit, **others)})


def flag(option: Field[Any]) -> str:
    """The spelling of this option on the command line."""
    return option.metadata["option"].flag or f"--{option.name.replace('_', '-')}"


COUNT = Number(lambda value: value >= 1, "Give a whole number of at least 1.")
FRACTION = Number(lambda value: 0 <= value < 1, "Give a number from 0 to below 1.")


def above_zero(what: str) -> Number:
    return Number(lambda value: math.isfinite(value) and value > 0, f"Give {what} above 0.")


ARCH = (
    "mlp, convnet, bn-inception, inception, resnet-N (N = 6n + 2), timm:NAME, torchvision:NAME, or "
    "FILE.py:FACTORY, which runs that file; FACTORY(in_shape, classes) gives the network."
)


@dataclass(frozen=True)
class Network:
    """An architecture and how it is varied; None leaves it as the architecture has it."""

    arch: str = option("convnet", ARCH)
    batch_norm: bool = option(True, "Leave BatchNorm out.", flag="--no-bn")
    activation: str | None = option(None, "sigmoid or relu.", OneOf(ACTIVATIONS), shown="the architecture's")
    bn_position: str | None = option(
        None, "BatchNorm before or after the nonlinearity.", OneOf(("before", "after")), shown="before"
    )
    width: float | None = option(None, "Factor on the channels.", above_zero("a factor"), shown="1")
    dropout: float | None = option(None, "Share dropped before the classifier.", FRACTION, shown="0")
    lrn: bool | None = option(None, "Local response normalization, as in GoogLeNet.")
    init_std: float | None = option(
        None,
        "Draw weights from a Gaussian of this standard deviation.",
        above_zero("a standard deviation"),
        shown="the architecture's way",
    )


@dataclass(frozen=True)
class Recipe:
    """How weights are trained. The defaults are those of section 4.1 of the paper where it names one (batches of 60)
    and plain SGD at 0.1 where it does not."""

    batch_size: int = option(60, "Images of a mini-batch.", COUNT)
    shuffle: str = option("images", "images, or batches, which keep their images.", OneOf(("images", "batches")))
    augment: str = option(
        "none", "none, crop-flip, or distort (that, and colours).", OneOf(("none", "crop-flip", "distort"))
    )
    optimizer: str = option("sgd", "sgd or adamw.", OneOf(("sgd", "adamw")))
    lr: float = option(0.1, "Learning rate.", above_zero("a learning rate"))
    momentum: float = option(0.0, "Momentum of SGD.", FRACTION)
    weight_decay: float = option(
        0.0,
        "L2 weight regularization.",
        Number(lambda value: math.isfinite(value) and value >= 0, "Give a number of at least 0."),
    )
    schedule: str = option(
        "constant", "constant, exponential, step or cosine.", OneOf(("constant", "exponential", "step", "cosine"))
    )
    decay: float = option(
        0.1,
        "exponential, step: factor on the learning rate ...",
        Number(lambda value: 0 < value <= 1, "Give a factor above 0 and up to 1."),
    )
    decay_every: int | None = option(None, "... in this many steps.", COUNT)
    clip_norm: float | None = option(None, "Clip gradients to this norm.", above_zero("a norm"), shown="off")
    amp: str | None = option(
        None, "Mixed precision: float16 (CUDA only) or bfloat16.", OneOf(("float16", "bfloat16")), shown="off"
    )
    channels_last: bool = option(False, "Lay out images channels last: faster convolutions.")
    compile: bool = option(False, "Train through torch.compile.")


@dataclass(frozen=True)
class Settings(Network, Recipe):
    """All that decides the numbers of a run; stored in its config.json. UsageProblem for values beyond their limits."""

    data: str = option("digits", "digits, mnist, fashion-mnist, cifar10 or folder:PATH.")
    data_dir: str | None = option(None, "Folder of the data set's files; without it torchvision downloads them.")
    steps: int | None = option(None, "Mini-batches to train on, instead of epochs.", COUNT)
    epochs: int | None = option(None, "Passes over the training images.", COUNT, shown=str(EPOCHS))
    evaluate_every: int | None = option(
        None, "Steps between evaluations.", COUNT, shown="an epoch, or a 20th of the run; of up to 100 steps all"
    )
    seed: int = option(
        0,
        "Decides weights, order of images and augmentation.",
        Number(lambda value: 0 <= value < 2**63, "Give a whole number from 0 to 2**63 - 1."),
    )
    statistics: str = option("sequential", f"{', '.join(METHODS)}.", OneOf(METHODS, "method of statistics"))
    statistics_batch: int | None = option(
        None,
        "Mini-batches of alg2 and pooled.",
        Number(lambda value: value >= 2, "Give a whole number of at least 2."),
        shown="that of training",
    )
    sync_bn: bool = option(False, "Normalize by the batch of all processes (torchrun).")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, limit = getattr(self, setting.name), setting.metadata["option"].limit
            if limit is not None and value is not None:
                limit.require(flag(setting), value)
        _require_together(self)

    @property
    def mini_batch(self) -> int:
        """Images of a mini-batch that statistics are taken of."""
        return self.statistics_batch or self.batch_size

    @property
    def statistics_label(self) -> str:
        """The method of statistics and, where it has them, the size of its mini-batches."""
        sizes = f", mini-batches of {self.mini_batch}" if self.statistics in BY_BATCH else ""
        return f"{self.statistics}{sizes}"

    def total_steps(self, train_images: int) -> int:
        """Steps to take; an epoch is every full batch of `train_images`, a short last batch is left out."""
        return self.steps or (self.epochs or EPOCHS) * (train_images // self.batch_size)


def unknown(kind: str, name: str, known: Collection[str]) -> UsageProblem:
    """The error for an unknown name; its hint has the nearest known ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return UsageProblem(f"unknown {kind} {name!r}", f"Did you mean {' or '.join(near)}?")


def _require_together(settings: Settings) -> None:
    """No setting makes another one meaningless."""
    _require(settings.steps is None or settings.epochs is None, "steps and epochs were both given", "Give one of them.")
    _require_decay(settings)
    _require(
        settings.batch_norm or settings.bn_position is None,
        "--no-bn leaves no BatchNorm for --bn-position",
        "Give one of them.",
    )
    _require(
        settings.optimizer == "sgd" or settings.momentum == 0, "AdamW has no --momentum", "Leave it out, or use sgd."
    )
    _require(
        settings.statistics_batch is None or settings.statistics in BY_BATCH,
        f"--statistics {settings.statistics} has no mini-batches",
        f"--statistics-batch goes with {' or '.join(BY_BATCH)}.",
    )


def _require_decay(settings: Settings) -> None:
    decays = settings.schedule in ("exponential", "step")
    _require(
        decays == (settings.decay_every is not None),
        f"--schedule {settings.schedule} {'needs' if decays else 'has no'} --decay-every",
        "--schedule exponential and step multiply the learning rate by --decay every --decay-every steps.",
    )
    _require(
        decays or settings.decay == Recipe.decay,
        f"--schedule {settings.schedule} has no --decay",
        "--schedule exponential and step have one.",
    )


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise UsageProblem(message, hint)
