"""How far long work is: rooms tell it, and whoever wants to see it listens.

The listener is a property of the context, as the limits are; where there is none, telling costs a look at a variable.
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
def heard(listener: Listener) -> Iterator[None]:
    """Within the block `listener` is told."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(step: str, done: float, total: float, words: str = "") -> None:
    """Of a `step`, say `verify`, so much is `done` of a `total`; `words` are anything beside."""
    listener = _listener.get()
    if listener:
        listener(step, done, total, words)


def each(items: Iterable[T], step: str, total: float, words: str = "") -> Iterator[T]:
    """Items, as they are; that a `total` of them makes a `step` is told before each, and after the last."""
    for done, item in enumerate(items):
        tell(step, done, total, words)
        yield item
    tell(step, total, total, words)


@contextmanager
def notified(person: Callable[[str], None]) -> Iterator[None]:
    """Within the block a `person` is notified of what keeps us."""
    token = _notified.set(person)
    try:
        yield
    finally:
        _notified.reset(token)


def notify(text: str) -> None:
    """Say what keeps us, where there is a person to hear it."""
    person = _notified.get()
    if person:
        person(text)
