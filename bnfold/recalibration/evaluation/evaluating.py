"""`evaluate`: top-1 and top-5 of models, each alone and all together (section 4.2.3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...display.display import Shown, Table, counted
from ...errors import ModelProblem, UsageProblem
from ...runtime.host import Host
from ...runtime.providers import DEFAULT, ways
from ...system.installed import require_runtime
from ...system.progress import report
from ..feeds.image_options import BY_THE_MODEL, ImageOptions
from .classifier import Classifier, Probabilities
from .crops import preparation, require_possible
from .labelled import Labelled, labelled, require_labels

TOP = 5
SCHEMA = "bnfold.evaluate/1"


@dataclass(frozen=True)
class Score:
    """Shares of the samples whose class is the likeliest, and among the five likeliest."""

    model: str
    top1: float
    top5: float


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """`models` each alone; `ensemble` is the mean of their class probabilities, None for a single one."""

    data: str
    samples: int
    crops: int
    models: tuple[Score, ...]
    ensemble: Score | None
    notes: tuple[str, ...]
    provider: str = "cpu"  # that ran the models

    COLUMNS: ClassVar = ("model", "top-1", "top-5")

    @property
    def scores(self) -> tuple[Score, ...]:
        """The score of each model, and last that of all together."""
        return (*self.models, *([self.ensemble] if self.ensemble else []))

    @property
    def basis(self) -> str:
        """`10000 samples of mnist, 10 crops of each`"""
        crops = f", {self.crops} crops of each" if self.crops > 1 else ""
        return f"{counted(self.samples, 'sample')} of {self.data}{crops}"

    def rows(self) -> list[tuple[str, ...]]:
        """One line per score for a table."""
        return [(score.model, f"{score.top1:.4f}", f"{score.top5:.4f}") for score in self.scores]

    def in_a_line(self) -> str:
        last = self.scores[-1]
        return f"top-1 {last.top1:.4f}, top-5 {last.top5:.4f} ({last.model}; {self.basis})"

    def tables(self) -> tuple[Table, ...]:
        notes = Table("Notes", ("",), [(note,) for note in self.notes])
        return Table(f"Accuracy on {self.basis}", self.COLUMNS, self.rows()), notes

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.evaluate/1`."""
        return {"schema": SCHEMA, **asdict(self), "notes": list(self.notes)}


def evaluate(
    models: Sequence[str | PathLike[str]],
    data: str | PathLike[str],
    *,
    crops: int = 1,
    data_dir: Path | None = None,
    provider: str = "cpu",
    images: ImageOptions = BY_THE_MODEL,
) -> Evaluation:
    """Accuracy of `models`, paths of classifiers, each alone and together.

    `data` is the name of a data set (its test part, from `data_dir`, or downloaded), a file .npz with arrays by input
    name and `labels`, or a folder of class folders. Probabilities are averaged over `crops` of each image: 1, 5, 10 or
    144. Outputs that are no probabilities already go through a softmax. `images` say how images are prepared for models
    whose metadata do not. The models run on `provider` (cpu, cuda,
    tensorrt) as it serves: at onnxruntime's default optimization and with the provider's default arithmetic, TF32 on a
    GPU. Raises BnfoldError for models or data that do not go together, and for a provider that does not run here.
    """
    if not models:
        raise UsageProblem("no model was given", "Name one or more ONNX files.")
    if crops > 1 and images.resize:
        raise UsageProblem("--resize is for one crop of each image", "Leave out --resize or --crops.")
    host = Host.ready(ways([provider], [DEFAULT])[0])
    require_runtime("evaluation")
    networks = [Classifier.of(Path(path), host, images) for path in models]
    _require_alike(networks)
    notes = _croppable(networks[0], crops)
    samples = labelled(str(data), data_dir, networks[0].card)
    _require_normalization(networks, samples)
    ranks = _ranks(networks, samples, crops)
    scores = [Score(str(n.path), *_tops(r)) for n, r in zip(networks, ranks, strict=False)]
    together = Score("ensemble", *_tops(ranks[-1])) if len(networks) > 1 else None
    notes += [note for network in networks for note in _notes(network, samples)]
    words = tuple(dict.fromkeys([*notes, *host.notes()]))
    return Evaluation(samples.name, len(samples.labels), crops, tuple(scores), together, words, provider)


def _croppable(network: Classifier, crops: int) -> list[str]:
    """Notes about the crops. Raises UsageProblem where they cannot be cut."""
    if crops == 1 and not network.card.sees_images:
        return []
    _, height, width = network.card.image_shape
    require_possible(crops, height, width)
    return [preparation(crops, height, width)] if crops > 1 else []


def _ranks(networks: list[Classifier], data: Labelled, crops: int) -> list[Any]:
    """For each model, and last for their mean: of every sample, how many classes are likelier than the right one."""
    ranks: list[list[Any]] = [[] for _ in range(len(networks) + 1)]
    done = 0
    for batch in data.batches():
        each = [network.probabilities(batch, data, crops) for network in networks]
        if not done:
            _require_classes(networks, each, data)
        labels = data.labels[done : done + len(each[0])]
        for place, probabilities in zip(ranks, [*each, np.mean(each, axis=0)], strict=True):
            place.append(_rank(probabilities, labels))
        done += len(labels)
        report("evaluate", done, len(data.labels))
    return [np.concatenate(place) for place in ranks]


def _rank(probabilities: Probabilities, labels: Any) -> Any:
    """For each sample, how many classes are likelier than its own; of equal ones the first counts, as in argmax."""
    own = probabilities[np.arange(len(labels)), labels][:, None]
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > own) | ((probabilities == own) & before)).sum(axis=1)


def _tops(ranks: Any) -> tuple[float, float]:
    return float((ranks < 1).mean()), float((ranks < TOP).mean())


def _require_alike(networks: list[Classifier]) -> None:
    first = networks[0]
    for other in networks[1:]:
        if first.card.classes and other.card.classes and first.card.classes != other.card.classes:
            raise ModelProblem(f"{first.path} and {other.path} have different classes", "Give models for one task.")
        shapes = [[(x.kind, (x.dims or ())[1:]) for x in n.card.inputs] for n in (first, other)]
        if shapes[0] != shapes[1] or (len(shapes[0]) > 1 and first.card.names != other.card.names):
            words = [", ".join(f"{x.name} {x.words()} {x.kind}" for x in n.card.inputs) for n in (first, other)]
            raise ModelProblem(
                f"{first.path} and {other.path} take different inputs: {words[0]}; {words[1]}",
                "Give models for one task.",
            )


def named_first(names: Sequence[str]) -> str:
    """The first five of many names."""
    return ", ".join([*names[:5], *["and more"] * (len(names) > 5)])


def _require_normalization(networks: list[Classifier], data: Labelled) -> None:
    for network in networks:
        if data.pixels and data.normalization is None:
            network.card.pixels(data.name)


def _require_classes(networks: list[Classifier], each: list[Probabilities], data: Labelled) -> None:
    widths = [probabilities.shape[1] for probabilities in each]
    if len(set(widths)) > 1:
        raise ModelProblem(f"the models have different numbers of classes: {widths}", "Give models for one task.")
    require_labels(data, widths[0])
    named = next((n for n in networks if n.card.classes and data.classes and n.card.classes != data.classes), None)
    if named:
        raise ModelProblem(
            f"{named.path} knows the classes {named_first(named.card.classes)}; "
            f"{data.name} has {named_first(data.classes)}",
            "Are model and data for the same classes?",
        )


def _notes(network: Classifier, data: Labelled) -> list[str]:
    answers = "logits: softmax was applied" if network.softmax else "probabilities"
    notes = [f"{network.path.name} answers with {answers}"]
    if data.pixels and network.normalization is None:
        notes.append(f"{network.path.name} says nothing of normalization: that of {data.name} was used")
    return notes
