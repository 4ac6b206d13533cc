"""Rows of tables: a graph in ONNX text, and what is expected of it. A row names only what differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from tests.build import build


@dataclass(frozen=True)
class Graph:
    """What `build` makes a float64 model of; without other words it has the interface of a 3x3 convolution."""

    body: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "X[N,3,6,6]"
    outputs: str = "Y[N,4,4,4]"

    def model(self, **options: int) -> onnx.ModelProto:
        return build(self.body, self.inputs, self.outputs, self.constants, **options)


@dataclass(frozen=True)
class Row(Graph):
    """The operators that folding leaves of a graph; `code` is that of the reason why a node stays, if one does."""

    left: str = "Conv"
    code: str | None = None
