"""What a model says about its inputs: types, shapes, and in its metadata how `bnfold export` normalized images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ...errors import ModelProblem
from ...runtime.protos import caller_inputs, shape
from ...system.limits import current
from ...train.pixels import Normalization
from .image_options import BY_THE_MODEL, ImageOptions

Array = npt.NDArray[Any]
DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # what reading metadata may raise
SLACK = 0.05  # of the range that pixels can have, for the noise that augmentation adds


@dataclass(frozen=True)
class Input:
    """One input: its type, and its dimensions (None where a size is open; None alone where the rank is)."""

    name: str
    kind: np.dtype[Any]
    dims: tuple[int | None, ...] | None

    @property
    def rows(self) -> int:
        """How many rows one run takes; 0 if any number will do."""
        return (self.dims[0] or 0) if self.dims else 0

    def words(self) -> str:
        return f"[{', '.join(str(n or '?') for n in self.dims)}]" if self.dims is not None else "of any shape"


@dataclass(frozen=True)
class Card:
    """The inputs a caller feeds, and what the metadata say about images; `classes` is empty where they do not."""

    inputs: tuple[Input, ...]
    normalization: Normalization | None
    classes: tuple[str, ...]
    images: ImageOptions = BY_THE_MODEL

    def taking(self, images: ImageOptions) -> Card:
        """The same, with images brought to the model as the options say."""
        return replace(self, normalization=images.normalization or self.normalization, images=images)

    @property
    def names(self) -> list[str]:
        return [value.name for value in self.inputs]

    @staticmethod
    def of(model: onnx.ModelProto) -> Card:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return Card(tuple(map(_input, caller_inputs(model.graph))), _normalization(metadata), _classes(metadata))

    def image(self) -> Input:
        """The only input, if it takes images (N, C, H, W) of a known size. Raises ModelProblem otherwise."""
        if not self.sees_images:
            shapes = "; ".join(f"{value.name} {value.words()}" for value in self.inputs)
            raise ModelProblem(
                f"the model does not take one batch of images of one size, but {shapes}",
                "Give the data as .npz; where only height and width are open, --crop SIZE sets them.",
            )
        return self.inputs[0]

    @property
    def sees_images(self) -> bool:
        if len(self.inputs) != 1 or len(self.inputs[0].dims or ()) != 4:
            return False
        channels, *sides = self._sizes
        return channels is not None and (self.images.crop is not None or None not in sides)

    @property
    def channels_last(self) -> bool:
        """Whether it takes images as (N, H, W, C): as the options say, or by where 1 or 3 channels are."""
        dims = self.inputs[0].dims or ()
        if self.images.layout:
            return self.images.layout == "nhwc"
        return len(dims) == 4 and dims[1] not in (1, 3) and dims[3] in (1, 3)

    @property
    def _sizes(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width, None where one is open; the sides are those of the crop, if one is stated."""
        _, one, two, three = self.inputs[0].dims or (None,) * 4
        channels, height, width = (three, one, two) if self.channels_last else (one, two, three)
        crop = self.images.crop
        return channels, crop or height, crop or width

    def laid_out(self, images: Array) -> Array:
        """Images (N, C, H, W) as the model takes them."""
        return images.transpose(0, 2, 3, 1) if self.channels_last else images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it takes. Raises ModelProblem as `image` does."""
        self.image()
        channels, height, width = (n or 0 for n in self._sizes)
        if channels * height * width > current().elements:
            raise ModelProblem(
                f"the model takes images of {channels} x {height} x {width}; the limit is "
                f"{current().elements} elements",
                "If the file is to be trusted: --limit elements= allows more.",
            )
        return channels, height, width

    def pixels(self, where: object) -> Normalization:
        """How pixels become what the model takes. Raises ModelProblem where the metadata do not say."""
        if self.normalization is None:
            raise ModelProblem(
                f"the model does not say how the pixels of {where} are normalized",
                "Name it: --preset imagenet, clip or none, or --mean and --std; or give normalized arrays, as .npz.",
            )
        return self.normalization

    def range(self) -> tuple[float, float] | None:
        """The smallest and largest value that pixels can become."""
        if self.normalization is None:
            return None
        channels = len(self.normalization.mean)
        ends = np.array([0, self.normalization.full_scale])[:, None, None, None].repeat(channels, 1)
        ends = self.normalization(ends)
        return float(ends.min()), float(ends.max())


def fitting(value: Input, array: Array, where: object) -> Array:
    """The array in the type of the input, between floating types; ModelProblem where type or shape do not fit."""
    kind = value.kind
    if array.dtype != kind and not (array.dtype.kind == "f" and (kind.kind == "f" or kind.name == "bfloat16")):
        raise ModelProblem(f"{where}: '{value.name}' is {array.dtype}", f"The model takes {kind}.")
    wanted = value.dims
    if wanted is not None and (
        len(wanted) != array.ndim or any(n and n != m for n, m in zip(wanted[1:], array.shape[1:], strict=True))
    ):
        raise ModelProblem(
            f"{where}: '{value.name}' has the shape {list(array.shape)}", f"The model takes {value.words()}."
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ModelProblem(f"{where}: '{value.name}' holds NaN", "Repair the data, or leave out what is damaged.")
    return array.astype(np.float32 if kind.name == "bfloat16" else kind, copy=False)


def require_range(card: Card, array: Array, where: object) -> None:
    """Raises ModelProblem for values that no pixel becomes by the normalization in the metadata."""
    ends = card.range()
    if ends is None or not array.size:
        return
    low, high, slack = *ends, SLACK * (ends[1] - ends[0])
    least, most = float(array.min()), float(array.max())
    if least < low - slack or most > high + slack:
        raise ModelProblem(
            f"{where} holds values from {least:.4g} to {most:.4g}; "
            f"by the model's metadata they lie in {low:.4g} to {high:.4g}",
            "Normalize the data as the metadata says (bnfold.normalization); --any-range takes it as it is.",
        )


def _input(value: onnx.ValueInfoProto) -> Input:
    dims = shape(value)
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT)
    sizes = None if dims is None else tuple(n if isinstance(n, int) else None for n in dims)
    return Input(value.name, np.dtype(kind), sizes)


def _normalization(metadata: dict[str, str]) -> Normalization | None:
    if "bnfold.normalization" not in metadata:
        return None
    try:
        return Normalization.from_stored(json.loads(metadata["bnfold.normalization"]))
    except DAMAGE as why:
        raise ModelProblem("the metadata bnfold.normalization of the model is damaged", "Export it again.") from why


def _classes(metadata: dict[str, str]) -> tuple[str, ...]:
    try:
        names: Sequence[object] = json.loads(metadata.get("bnfold.classes", "[]"))
        return tuple(map(str, names))
    except DAMAGE as why:
        raise ModelProblem("the metadata bnfold.classes of the model is damaged", "Export it again.") from why
