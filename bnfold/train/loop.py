"""Algorithm 2 of the paper from line 6 on: train, freeze, replace the statistics, test.

Where a run has several processes, all of them run this code; what is passed to `Ranks.on_first` is run by one of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from math import isfinite, isnan
from shlex import quote
from statistics import fmean

import torch
from torch import Tensor

from ..errors import CheckFailed
from . import curves, runs
from .descent import StepResult, compiled, learning_rate
from .norms import tracked_norms
from .options import Event, Interrupted, TrainOptions, TrainResult, Watch
from .population import install, population_statistics
from .ranks import Ranks, process_group
from .runs import Checkpoint
from .session import Session, resume, start

TEST_BATCH = 500
LARGEST_LOSS = 1e6  # beyond, a run has diverged, though its numbers may be finite
FEW_VALUES = 60 * 28 * 28  # in a batch: up to here one thread is the fastest


def run_training(options: TrainOptions, watch: Watch) -> TrainResult:
    """See `bnfold.train.train`."""
    with process_group() as ranks, torch.random.fork_rng(range(torch.cuda.device_count())):
        return _train(options, watch, ranks)


def _train(options: TrainOptions, watch: Watch, ranks: Ranks) -> TrainResult:
    if options.tensorboard:
        ranks.on_all(curves.require_tensorboard)
    session, checkpoint = resume(options, ranks) if options.resume else (start(options, ranks), None)
    if checkpoint and checkpoint.step == session.steps and checkpoint.taken == _method(session):
        return _result(session, checkpoint)
    with _threads(session), _resumable(session), _watching(session, options.tensorboard, watch) as notify:
        ranks.on_first(lambda: runs.rewind(session.run, session.step))
        _fit(session, notify)
        return _result(session, _finish(session))


def _watching(session: Session, tensorboard: bool, watch: Watch) -> AbstractContextManager[Watch]:
    """What is called after every step: `watch`, on rank 0, and TensorBoard if that is set."""
    if session.ranks.rank:
        return nullcontext(_ignore)
    return curves.tensorboard(session.run, session.step, watch) if tensorboard else nullcontext(watch)


def _ignore(event: Event) -> None:
    """The Watch of all ranks but 0."""


def _fit(session: Session, notify: Watch) -> None:
    """Line 6: take every step that is left; evaluate and save at every interval and at the end."""
    taken: list[StepResult] = []
    began = time.perf_counter() - session.seconds
    session.model.train()
    network = compiled(session.settings, session.ranks.parallel(session.wrapped))
    for images, labels in session.batches_ahead():
        taken.append(session.descent.take(network, images, labels, session.lr))
        session.step += 1
        notify(Event(session.step, session.steps))
        if session.step % session.interval == 0 or session.step == session.steps:
            session.seconds = time.perf_counter() - began
            notify(replace(_evaluate(session, taken), network=session.model))
            taken = []


def _evaluate(session: Session, taken: list[StepResult]) -> Event:
    """Test with moving averages, log, save. CheckFailed if the run diverged; its last checkpoint then stays."""
    losses, largest = (torch.stack(column).tolist() for column in zip(*taken, strict=True))
    losses = [fmean(step) for step in zip(*session.ranks.gather(losses), strict=True)]
    checkpoint = session.checkpoint()
    return session.ranks.on_first(lambda: _evaluate_on_first(session, checkpoint, losses, largest))


def _evaluate_on_first(session: Session, checkpoint: Checkpoint, losses: list[float], largest: list[float]) -> Event:
    _require_finite(session, losses, largest)
    lr = learning_rate(session.settings, session.step - 1, session.steps)
    loss, accuracy = fmean(losses), _accuracy(session)
    runs.log(session.run, {"step": session.step, "loss": loss, "lr": lr, "accuracy_moving_average": accuracy})
    runs.save_checkpoint(session.run, checkpoint)
    return Event(session.step, session.steps, loss, accuracy, lr)


def _require_finite(session: Session, losses: list[float], largest: list[float]) -> None:
    """CheckFailed unless every loss, every parameter after every step, and the moving averages are finite."""
    for step, (loss, parameter) in enumerate(zip(losses, largest, strict=True), session.step - len(losses) + 1):
        if not isfinite(parameter):
            raise _diverged(f"parameters {'became NaN' if isnan(parameter) else 'reached infinity'} at step {step}")
        if not isfinite(loss):
            raise _diverged(f"the loss {'became NaN' if isnan(loss) else 'reached infinity'} at step {step}")
    if not all(bool(torch.isfinite(average).all()) for average in session.model.buffers()):
        raise _diverged(f"moving averages are not finite by step {session.step}")
    if max(losses) > LARGEST_LOSS:
        raise _diverged(f"the loss reached {max(losses):.2g} by step {session.step}")


def _diverged(what: str) -> CheckFailed:
    return CheckFailed(f"training diverged: {what}", "Use a lower --lr, or BatchNorm if it was left out.")


def _finish(session: Session) -> Checkpoint:
    """Lines 7 to 11: population statistics in place of the moving averages, both tested, logged and saved."""
    last = session.checkpoint()
    last = replace(last, model={name: weights.clone() for name, weights in last.model.items()})
    scores = {"accuracy_moving_average": session.ranks.on_first(lambda: _accuracy(session))}
    settings = session.settings
    install(
        session.model,
        population_statistics(session.model, session.statistics_batches(), settings.statistics, session.ranks),
    )
    scores["accuracy"] = session.ranks.on_first(lambda: _accuracy(session))
    checkpoint = replace(last, statistics=_statistics(session), taken=_method(session), scores=scores)
    session.ranks.on_first(lambda: _save_result(session, checkpoint))
    return checkpoint


def _save_result(session: Session, checkpoint: Checkpoint) -> None:
    runs.log(session.run, {"step": session.step, **checkpoint.scores})
    runs.save_checkpoint(session.run, checkpoint)


def _method(session: Session) -> str:
    """The method of the population statistics, in words."""
    return session.settings.statistics_label if tracked_norms(session.model) else "none"


def _statistics(session: Session) -> dict[str, Tensor]:
    """The statistics that `install` put into the network, by their names in its state."""
    state = session.model.state_dict()
    names = (f"{norm}.running_{kind}" for norm in tracked_norms(session.model) for kind in ("mean", "var"))
    return {name: state[name] for name in names}


def _accuracy(session: Session) -> float:
    """The share of held-out images that are classified right; the network stays in the mode it is in."""
    test, training = session.data.test, session.model.training
    session.model.eval()
    with torch.no_grad():
        right = sum(_count_right(session, slice(i, i + TEST_BATCH)) for i in range(0, len(test), TEST_BATCH))
    session.model.train(training)
    return right / len(test)


def _count_right(session: Session, chosen: slice) -> int:
    images, labels = session.tensors(session.data.test, chosen)
    return int((session.model(images).argmax(1) == labels).sum())


def _result(session: Session, checkpoint: Checkpoint) -> TrainResult:
    return TrainResult(
        run=session.run,
        steps=checkpoint.step,
        test_images=len(session.data.test),
        statistics=checkpoint.taken,
        batch_norms=len(tracked_norms(session.model)),
        seconds=checkpoint.seconds,
        **checkpoint.scores,
    )


@contextmanager
def _threads(session: Session) -> Iterator[None]:
    """Use one thread for small batches, where several would mostly wait for each other."""
    before = torch.get_num_threads()
    if session.settings.batch_size * session.data.train.images[0].size <= FEW_VALUES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _resumable(session: Session) -> Iterator[None]:
    """Turns Ctrl-C into `Interrupted`, which says which step is saved and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = runs.load_checkpoint(session.run).step
        raise Interrupted(
            f"stopped at step {session.step} of {session.steps}; {session.run} keeps step {kept}",
            f"`bnfold train --resume --out {quote(str(session.run))}` goes on from there.",
        ) from None
