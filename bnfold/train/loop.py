"""Algorithm 2 of the paper from line 6 on: train by SGD, freeze, replace the statistics, test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import CheckFailed
from . import runs
from .options import Event, Interrupted, TrainOptions, TrainResult, Watch
from .runs import Checkpoint
from .session import Session, resume, start
from .statistics import install, population_statistics, tracked_norms

TEST_BATCH = 500
FEW_VALUES = 60 * 28 * 28  # in a batch: up to here one thread is the fastest


def train(options: TrainOptions, watch: Watch) -> TrainResult:
    """What `bnfold.train.train` promises."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        session, checkpoint = resume(options) if options.resume else (start(options), None)
        if checkpoint and checkpoint.scores and checkpoint.step == session.steps:
            return _result(session, checkpoint)
        with _threads(session), _resumable(session):
            runs.rewind(session.run, session.step)
            _fit(session, watch)
            return _result(session, _finish(session))


def _fit(session: Session, watch: Watch) -> None:
    """Line 6: take every step that is left; evaluate and save at every interval and at the end."""
    losses: list[Tensor] = []
    began = time.perf_counter() - session.seconds
    session.model.train()
    for images, labels in session.batches_ahead():
        losses.append(_descend(session, images, labels))
        session.step += 1
        watch(Event(session.step, session.steps))
        if session.step % session.interval == 0 or session.step == session.steps:
            session.seconds = time.perf_counter() - began
            watch(_keep(session, float(torch.stack(losses).mean())))
            losses = []


def _descend(session: Session, images: Tensor, labels: Tensor) -> Tensor:
    """One step against the gradient; the loss before it."""
    loss = cross_entropy(session.model(images), labels)
    session.optimizer.zero_grad()
    torch.autograd.backward(loss)
    session.optimizer.step()
    return loss.detach()


def _keep(session: Session, loss: float) -> Event:
    """Test by the moving averages, log, save; CheckFailed, with the last checkpoint kept, if the run diverged."""
    if not all(bool(torch.isfinite(weights).all()) for weights in session.model.state_dict().values()):
        raise CheckFailed(
            f"Training diverged: parameters reached infinity by step {session.step}.",
            "Use a lower --lr, or BatchNorm if it was left out.",
        )
    accuracy = _accuracy(session)
    runs.log(session.run, {"step": session.step, "loss": loss, "accuracy_moving_average": accuracy})
    runs.save(session.run, session.checkpoint())
    return Event(session.step, session.steps, loss, accuracy)


def _finish(session: Session) -> Checkpoint:
    """Lines 7 to 11: population statistics in place of the moving averages, both tested, logged and saved."""
    scores = {"accuracy_moving_average": _accuracy(session)}
    last = session.checkpoint()
    last = replace(last, model={name: weights.clone() for name, weights in last.model.items()})
    install(session.model, population_statistics(session.model, session.population()))
    scores["accuracy"] = _accuracy(session)
    checkpoint = replace(last, statistics=_statistics(session), scores=scores)
    runs.log(session.run, {"step": session.step, **scores})
    runs.save(session.run, checkpoint)
    return checkpoint


def _statistics(session: Session) -> dict[str, Tensor]:
    """What `install` put into the network, under the names of its state."""
    state = session.model.state_dict()
    names = (f"{norm}.running_{kind}" for norm in tracked_norms(session.model) for kind in ("mean", "var"))
    return {name: state[name] for name in names}


def _accuracy(session: Session) -> float:
    """The share of held-out images whose class is given; the mode of the network is left as it was."""
    test, training = session.data.test, session.model.training
    session.model.eval()
    with torch.no_grad():
        right = sum(_right(session, slice(i, i + TEST_BATCH)) for i in range(0, len(test), TEST_BATCH))
    session.model.train(training)
    return right / len(test)


def _right(session: Session, chosen: slice) -> int:
    images, labels = session.tensors(session.data.test, chosen)
    return int((session.model(images).argmax(1) == labels).sum())


def _result(session: Session, checkpoint: Checkpoint) -> TrainResult:
    return TrainResult(
        run=session.run,
        steps=checkpoint.step,
        test_images=len(session.data.test),
        batch_norms=len(tracked_norms(session.model)),
        seconds=checkpoint.seconds,
        **checkpoint.scores,
    )


@contextmanager
def _threads(session: Session) -> Iterator[None]:
    """One thread for small batches, where more of them only wait for each other."""
    before = torch.get_num_threads()
    if session.settings.batch_size * session.data.train.images[0].size <= FEW_VALUES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _resumable(session: Session) -> Iterator[None]:
    """Turns Ctrl-C into `Interrupted`, which says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = runs.load(session.run).step
        raise Interrupted(
            f"Stopped at step {session.step} of {session.steps}; {session.run} keeps step {kept}.",
            f"`bnfold train --resume --out {session.run}` goes on from there.",
        ) from None
