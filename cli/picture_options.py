"""Options that say how images become what a model takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bnfold.recalibration.feeds.image_options import ImageOptions

Preset = Annotated[
    Literal["imagenet", "clip", "none"] | None,
    typer.Option(help="How the pixels of images are normalized; none: only to numbers between 0 and 1."),
]
Mean = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="Mean of pixels between 0 and 1, as 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Their standard deviation, as 0.229,0.224,0.225.")]
Resize = Annotated[int | None, typer.Option(min=1, metavar="N", help="Pixels of the shorter side, before the crop.")]
Crop = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Pixels of each side.", show_default="as the model takes them")
]
Layout = Annotated[
    Literal["nchw", "nhwc"] | None, typer.Option(help="How the model takes images.", show_default="by its channels")
]
Images = Annotated[int | None, typer.Option(min=1, metavar="N", help="How many images of a folder are taken, at most.")]


@dataclass(frozen=True)
class PictureOptions:
    """How images become what a model takes, where its metadata do not say."""

    preset: Preset = None
    mean: Mean = None
    std: Std = None
    resize: Resize = None
    crop: Crop = None
    layout: Layout = None
    images: Images = None

    def of_functions(self) -> ImageOptions:
        """The same as the functions of the package take it. Raises UsageProblem."""
        from bnfold.recalibration.feeds.image_options import ImageOptions, parse_numbers

        numbers = {"mean": parse_numbers("--mean", self.mean), "std": parse_numbers("--std", self.std)}
        return ImageOptions(**{**asdict(self), **numbers})
