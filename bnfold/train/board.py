"""TensorBoard's scalars of a run, in its folder `tensorboard`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..system.installed import need
from .options import Event, Watch

FOLDER = "tensorboard"


def require() -> None:
    """EnvironmentProblem unless TensorBoard is installed."""
    need("tensorboard", extra="tensorboard")


@contextmanager
def writing(run: Path, step: int, watch: Watch) -> Iterator[Watch]:
    """Gives what tells `watch`, and writes the loss, accuracy and learning rate of every evaluation after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run / FOLDER, purge_step=step + 1) as writer:

        def write(event: Event) -> None:
            for name in ("loss", "accuracy", "lr"):
                if (value := getattr(event, name)) is not None:
                    writer.add_scalar(name, value, event.step)
            watch(event)

        yield write
