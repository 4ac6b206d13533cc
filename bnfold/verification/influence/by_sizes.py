"""What models make of sizes alone: for the sizes of an input it is a constant, for others it may be another one."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from ...runtime import providers, sessions
from ...runtime.copies import exposed, without_data
from ...runtime.inputs import CannotFeed, Case, feeds
from ...runtime.protos import Array, produced
from ...runtime.providers import Way
from ...runtime.sessions import CannotRun
from ..trial import Trial, trial_session
from .changed_nodes import of_tables
from .differences import unlike

BENDS = frozenset(  # what operators do to some sizes they may not do to others
    ["Min", "Max", "Clip", "Mod", "Div", "Floor", "Ceil", "Round", "Relu"]
    + ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
)


def values_of_sizes(trial: Trial, model: onnx.ModelProto, bent: Set[str]) -> dict[str, Array]:
    """The values that nodes which depend on data read of those that sizes make.

    Not of what may be another for other sizes: what is read out of a table, or `bent`.
    """
    fixed = without_data(model.graph)
    read = {name for node in model.graph.node if fixed.isdisjoint(node.output) for name in node.input}
    names = sorted((read & fixed & produced(model.graph).keys()) - of_tables(model.graph) - bent)
    if not names:
        return {}
    values = zip(names, run_first(trial, model, names), strict=True)
    return {name: value for name, value in values if isinstance(value, np.ndarray)}


def bent_by_sizes(trial: Trial, model: onnx.ModelProto) -> set[str]:
    """What is made of sizes that vary by operators that keep them in bounds, divide or compare them."""
    fixed, made = without_data(model.graph), produced(model.graph)
    nodes = [node for node in model.graph.node if node.op_type in BENDS and not fixed.isdisjoint(node.output)]
    names = sorted({name for node in nodes for name in node.input if name in made})
    varying, bent = _varying(trial, model, names) if names else set[str](), set[str]()
    for node in model.graph.node:
        bends = node in nodes and not varying.isdisjoint(node.input)
        if not fixed.isdisjoint(node.output) and (bends or not bent.isdisjoint(node.input)):
            bent.update(node.output)
    return bent


def _varying(trial: Trial, model: onnx.ModelProto, names: Sequence[str]) -> set[str]:
    """The tensors that inputs of other sizes make others of than the first one."""
    first, varying, running = trial.planned[0], set[str](), _session(trial, model, names)
    usual = _run(trial, running, names, first)
    for case in (*trial.planned[1:], replace(first, batch=first.batch + 1)):
        with suppress(CannotRun, CannotFeed):
            made = zip(names, usual, _run(trial, running, names, case), strict=True)
            varying.update(name for name, one, other in made if unlike(one, other))
    return varying


def run_first(trial: Trial, model: onnx.ModelProto, names: Sequence[str]) -> list[Any]:
    """Tensors of a model for the first input."""
    return _run(trial, _session(trial, model, names), names, trial.planned[0])


def _session(trial: Trial, model: onnx.ModelProto, names: Sequence[str]) -> Any:
    return trial_session(trial, exposed(model, names), "off", providers.chain(Way()))


def _run(trial: Trial, running: Any, names: Sequence[str], case: Case) -> list[Any]:
    return list(sessions.outputs(running, names, feeds(trial.original.graph, case, trial.sizes)))
