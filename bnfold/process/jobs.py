"""Which functions a child may run: the objects that a room has registered, never a name in a string."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

Job = Callable[[dict[str, Any]], dict[str, Any]]  # plain data in, plain data out: both travel as JSON
_registered: dict[str, tuple[Job, Callable[[], object]]] = {}


def job(function: Job, prepare: Callable[[], object] = lambda: None) -> Job:
    """Let children run `function`, which lies at the top of its module; `prepare` is run before there is a request."""
    _registered[name(function)] = function, prepare
    return function


def name(function: Job) -> str:
    """The name of a job, by which a child finds the same function."""
    return f"{function.__module__}:{function.__qualname__}"


def find(named: str) -> Job:
    """The job of that name, prepared; importing its module registers it. Raises KeyError for any other function."""
    import_module(named.partition(":")[0])
    function, prepare = _registered[named]
    prepare()
    return function
