"""The progress of long work: the code that works reports it, and a listener shows it.

The listener is a property of the context, as the limits are; where there is none, a report costs a look at a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Listener = Callable[[str, float, float, str], None]  # a step, how much of it is done, of how much, and more words
T = TypeVar("T")
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_notified: ContextVar[Callable[[str], None] | None] = ContextVar("notified", default=None)


@contextmanager
def reporting_to(listener: Listener) -> Iterator[None]:
    """Within the block reports go to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(step: str, done: float, total: float, words: str = "") -> None:
    """Report that of a `step`, say `verify`, so much is `done` of a `total`; `words` is anything else to show."""
    listener = _listener.get()
    if listener:
        listener(step, done, total, words)


def each(items: Iterable[T], step: str, total: float, words: str = "") -> Iterator[T]:
    """The items; before each, and after the last, how many of a `total` are done is reported."""
    for done, item in enumerate(items):
        report(step, done, total, words)
        yield item
    report(step, total, total, words)


@contextmanager
def notifying(person: Callable[[str], None]) -> Iterator[None]:
    """Within the block notices go to `person`."""
    token = _notified.set(person)
    try:
        yield
    finally:
        _notified.reset(token)


def notify(text: str) -> None:
    """Pass a notice, such as what the work waits for, to the function of `notifying`; without one it is dropped."""
    person = _notified.get()
    if person:
        person(text)
