"""Sessions in this process, on one provider that is known to run here, and where their nodes were placed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..display.display import counted
from ..system.processors import threads
from . import libraries, placement, providers, sessions
from .doctor import require_providers
from .providers import Way

ENTRIES = {  # threads that wait do not spin: the work goes to and fro between sessions and numpy
    "session.intra_op.allow_spinning": "0",
    "session.record_ep_graph_assignment_info": "1",
}


@dataclass(eq=False)
class Host:
    """A provider and its arithmetic; `placed` counts the nodes of its sessions by the provider that each was given."""

    way: Way = field(default_factory=Way)
    placed: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def ready(way: Way) -> Host:
        """With its libraries loaded. Raises EnvironmentProblem, with what is missing, where it does not run."""
        if way.gpu:
            require_providers([way.provider])
            libraries.preload(way.provider)
        return Host(way)

    def session(self, model: bytes | str, level: str) -> Any:
        """A session of `model` (serialized, or a path) at graph optimization `level`. Raises `CannotRun`."""
        exact = self.way.gpu and self.way.careful
        options = sessions.options(level, entries=ENTRIES, threads=threads(), deterministic=exact)
        made = sessions.session(model, options, providers.chain(self.way))
        self.placed.update(node.provider for node in placement.assigned(made))
        return made

    def notes(self) -> list[str]:
        """`cuda, strict math: 52 nodes on CUDAExecutionProvider, 3 nodes on CPUExecutionProvider`; of a GPU only."""
        if not self.way.gpu or not self.placed:
            return []
        first = self.way.name
        counts = {name: self.placed[name] for name in dict.fromkeys([first, *sorted(self.placed)])}
        places = [f"{counted(number, 'node')} on {name}" for name, number in counts.items()]
        return [f"{self.way.words}: {', '.join(places)}"]
