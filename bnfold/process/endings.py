"""Errors that say how a child process or a fork ended that gave no answer."""

from __future__ import annotations

import signal


class Failed(Exception):
    """A child process gave no answer; the text says what it was doing and how it ended, in one line."""


class Stopped(Failed):
    """It exceeded a limit of time or memory, which says nothing about the model."""


def ending(doing: str, status: int, noise: str = "") -> Failed:
    """The error for an exit status other than 0, with the last line of what the process printed."""
    if status == -getattr(signal, "SIGKILL", 0):
        return Stopped(f"{doing} was killed: most often memory was short")
    if status < 0:
        return Failed(f"{doing} crashed ({signal.Signals(-status).name})")
    lines = noise.strip().splitlines()
    return Failed(f"{doing} failed: {lines[-1] if lines else f'exit status {status}'}")
