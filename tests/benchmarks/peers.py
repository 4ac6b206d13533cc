"""The tools that are compared, each with its version and the Python that runs it: of this environment and of others.

Two versions of a tool stand side by side with `--also onnxruntime=OTHER/bin/python`, of an environment that needs
nothing but the tool (made with `python -m venv OTHER; OTHER/bin/pip install onnxruntime==1.32.0`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

PEERS = ["onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript"]


class Tool(NamedTuple):
    """A tool as one environment has it; what belongs to this project has no version."""

    name: str
    version: str = ""
    python: str = sys.executable

    @property
    def label(self) -> str:
        """`onnxruntime 1.32.0`"""
        return f"{self.name} {self.version}".strip()


class Missing(Exception):
    """A tool that an environment does not have, in words."""


def tools(names: Sequence[str], also: Sequence[tuple[str, str]] = (), peers: str = sys.executable) -> list[Tool]:
    """Those of this environment, peers of that of `peers`, and after each the same of those in `also`: (name, Python)."""
    own = {name: peers if name in PEERS else sys.executable for name in names}
    pairs = [(name, python) for name in names for python in (own[name], *(p for n, p in also if n == name))]
    found = [Tool(name, version(name, python) if name in PEERS else "", python) for name, python in pairs]
    labels = [tool.label for tool in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise Missing(f"{sorted(twice)[0]} is in both environments: only other versions stand beside it")
    return found


@cache
def version(name: str, python: str = sys.executable) -> str:
    """What the module says of itself in the environment of `python`."""
    code = f"import {name}; print({name}.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as problem:
        raise Missing(f"{python} cannot be started: {problem.strerror}") from problem
    if done.returncode:
        raise Missing(f"{python} has no {name}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return done.stdout.splitlines()[-1].removeprefix("v")


def add_also(parser: argparse.ArgumentParser) -> None:
    """The option `--also`."""
    words = f"another version of a tool ({', '.join(PEERS)}), by the Python of an environment that has it"
    parser.add_argument("--also", action="append", default=[], type=elsewhere, metavar="TOOL=PYTHON", help=words)


def elsewhere(text: str) -> tuple[str, str]:
    """A tool, and a Python whose path holds in every working directory; links are not followed, which would leave a venv."""
    name, _, python = text.partition("=")
    if name not in PEERS or not python:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form TOOL=PYTHON, TOOL one of {', '.join(PEERS)}")
    return name, os.path.abspath(python) if os.path.dirname(python) else python


def chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Tool]:
    """The tools of `--tools` and `--also`; the usage message where one is missing."""
    if absent := {name for name, _ in options.also} - {*options.tools}:
        parser.error(f"--also names {sorted(absent)[0]}, which --tools leaves out")
    try:
        return tools(options.tools, options.also, getattr(options, "peers", sys.executable))
    except Missing as problem:
        parser.error(str(problem))
