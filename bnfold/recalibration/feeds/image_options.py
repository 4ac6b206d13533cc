"""How images become what a model takes, where its metadata do not say: normalization, size, layout, how many."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageProblem, require_within
from ...train.pixels import LARGEST_SCALE, Normalization

PRESETS = {  # mean and standard deviation of pixels between 0 and 1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0,), (1.0,)),
}
LARGEST_SIDE = 1 << 16  # pixels
FULL_SCALE = 255.0


@dataclass(frozen=True)
class ImageOptions:
    """`mean` and `std` are of pixels between 0 and 1, for each channel or one for all; a `preset` gives both.

    The shorter side of an image becomes `resize` pixels, then `crop` x `crop` are cut from its middle (default: the
    size that the model takes). `layout` is how the model takes images, nchw or nhwc (default: by its channels). Only
    `images` of a folder are taken. Raises UsageProblem for what makes no sense.
    """

    preset: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | None = None
    crop: int | None = None
    layout: str | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.preset and (self.mean or self.std):
            raise UsageProblem("--preset and --mean or --std exclude each other", "Leave out one of them.")
        if len(self.mean) != len(self.std):
            raise UsageProblem("--mean and --std are not of as many channels", "For example: --mean 0.5 --std 0.5.")
        for number in self.mean:
            require_within("--mean", number, -LARGEST_SCALE, LARGEST_SCALE)
        for number in self.std:
            require_within("--std", number, 1 / LARGEST_SCALE, LARGEST_SCALE)
        for name in ("resize", "crop", "images"):
            require_within(f"--{name}", getattr(self, name) or 1, 1, LARGEST_SIDE)

    @property
    def normalization(self) -> Normalization | None:
        """The normalization that is asked for, if any."""
        mean, std = PRESETS[self.preset] if self.preset else (self.mean, self.std)
        return Normalization(FULL_SCALE, mean, std) if mean else None


BY_THE_MODEL = ImageOptions()


def parse_numbers(name: str, text: str | None) -> tuple[float, ...]:
    """`0.485,0.456,0.406` as numbers. Raises UsageProblem."""
    try:
        return tuple(map(float, text.split(","))) if text else ()
    except ValueError as why:
        raise UsageProblem(f"{name} {text!r} is not a list of numbers", f"For example: {name} 0.5,0.5,0.5.") from why
