"""A classifier on onnxruntime: it makes class probabilities of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ModelProblem
from ...model import onnx_io
from ...runtime import sessions
from ...runtime.host import Host
from ...train.pixels import Normalization
from ..feeds.card import Array, Card, fitting
from ..feeds.image_options import BY_THE_MODEL, ImageOptions
from .crops import crops
from .labelled import Labelled, SampleBatch, ready

Probabilities = npt.NDArray[np.float64]  # (samples, classes)
CROPS_AT_ONCE = 64  # crops in one run
SUM = 1e-3  # by which probabilities may miss 1


@dataclass(eq=False)
class Classifier:
    """`softmax` says whether outputs are logits; known once there were some."""

    path: Path
    card: Card
    normalization: Normalization | None
    session: Any = field(repr=False)
    softmax: bool | None = None

    @staticmethod
    def of(path: Path, host: Host, images: ImageOptions = BY_THE_MODEL) -> Classifier:
        card = Card.of(onnx_io.detached(path)[0]).taking(images)
        try:
            running = host.session(str(path), "default")
        except sessions.CannotRun as why:
            raise ModelProblem(
                f"onnxruntime cannot load {path}: {why}", "`bnfold doctor` shows what runs here."
            ) from why
        return Classifier(path, card, card.normalization, running)

    def probabilities(self, batch: SampleBatch, data: Labelled, number: int) -> Probabilities:
        """The mean over the crops of each sample."""
        if number == 1 and not self.card.sees_images:
            feeds = {x.name: fitting(x, np.asarray(batch[x.name]), data.name) for x in self.card.inputs}
            return self._classified(feeds)
        value, (_, height, width) = self.card.image(), self.card.image_shape
        cut = [crops(np.asarray(image), number, height, width) for image in next(iter(batch.values()))]
        images = ready(cut, (self.normalization or data.normalization) if data.pixels else None)
        every_crop = self._classified({value.name: fitting(value, self.card.laid_out(images), data.name)})
        return np.asarray(every_crop.reshape(len(cut), number, -1).mean(axis=1))

    def _classified(self, feeds: dict[str, Array]) -> Probabilities:
        rows = len(next(iter(feeds.values())))
        fixed = max((value.rows for value in self.card.inputs), default=0)
        size = fixed or CROPS_AT_ONCE
        parts = [self._run({k: v[i : i + size] for k, v in feeds.items()}, fixed) for i in range(0, rows, size)]
        return self._as_probabilities(np.concatenate(parts).astype(np.float64))

    def _run(self, feeds: dict[str, Array], fixed: int) -> Array:
        """Run the model once; where it states a batch size, copies of the last row fill the batch."""
        rows = len(next(iter(feeds.values())))
        filled = {
            k: np.concatenate([v, v[-1:].repeat(fixed - rows, 0)]) if fixed > rows else v for k, v in feeds.items()
        }
        first = self.session.get_outputs()[0].name
        try:
            (output,) = sessions.outputs(self.session, [first], filled)
        except sessions.CannotRun as why:
            raise ModelProblem(
                f"{self.path} cannot run on this data: {why}",
                "Check that its arrays have the names, types and shapes of the inputs of the model.",
            ) from why
        values = np.asarray(output)
        if values.ndim < 2 or values.size != values.shape[0] * values.shape[1] or len(values) < rows:
            raise ModelProblem(
                f"the first output of {self.path} has the shape {list(values.shape)}, not [samples, classes]",
                "Give classifiers: one output with a number for each class.",
            )
        return values.reshape(values.shape[:2])[:rows]

    def _as_probabilities(self, values: Probabilities) -> Probabilities:
        if not np.isfinite(values).all():
            raise ModelProblem(
                f"{self.path} answers with NaN or infinity", "Is the data normalized as the model expects it?"
            )
        if self.softmax is None:
            sums = values.sum(axis=1)
            self.softmax = bool((values < 0).any() or (np.abs(sums - 1) > SUM).any())
        if not self.softmax:
            return values
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
