"""What is said of ranks and lengths holds in every run, whatever names a file gives to lengths."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from bnfold.graph.products import Dim, Product
from bnfold.graph.view import import_view, skeleton
from tests.symbolic_graphs import INPUTS, draw

RUNS = [  # sizes of N and M of each input: a file may lie, and give one name to different lengths
    {"X": (2, 3), "Z": (2, 3), "V": (2, 3)},
    {"X": (3, 2), "Z": (3, 2), "V": (3, 2)},
    {"X": (4, 6), "Z": (2, 1), "V": (5, 3)},
    {"X": (1, 1), "Z": (4, 1), "V": (1, 2)},
    {"X": (2, 1), "Z": (1, 1), "V": (6, 2)},
]


def claims(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """The shapes that the view has, by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    view = import_view(skeleton(copy, set()))
    tensors = [*view.inputs, *(x for node in view.nodes for x in node.outputs)]
    return {x.name: tuple(x.shape) for x in tensors if x.shape is not None}


def check(said: dict[str, tuple[Dim, ...]], shapes: dict[str, tuple[int, ...]]) -> int:
    """Every length that is said is the one in a run, each symbol being one number; returns how many say something."""
    lengths = [(name, n, m) for name, shape in said.items() for n, m in zip(shape, shapes[name], strict=True)]
    symbols = {n.symbols[0]: m for _, n, m in lengths if isinstance(n, Product) and n.factor == len(n.symbols) == 1}
    for name, n, m in lengths:
        assert not isinstance(n, int) or n == m, (name, said[name], shapes[name])
        if isinstance(n, Product) and symbols.keys() >= set(n.symbols):
            value = n.factor * math.prod(symbols[s] for s in n.symbols)
            assert value == m, (name, list(map(str, said[name])), shapes[name])
    return sum(isinstance(n, Product) and (n.factor > 1 or len(n.symbols) > 1) for _, n, _ in lengths)


def run(model: onnx.ModelProto, sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]] | None:
    """The shapes of all tensors in a run; None where it does not run with these sizes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feeds = {}
    for name, shape in INPUTS.items():
        of = dict(zip("NM", sizes[name], strict=True))
        feeds[name] = np.ones([n if isinstance(n, int) else of[n] for n in shape], np.float32)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    except Exception:  # sizes that do not fit
        return None
    return {n: np.shape(x) for n, x in feeds.items()} | {
        o.name: np.shape(x) for o, x in zip(session.get_outputs(), found, strict=True)
    }


@pytest.mark.parametrize("seeds", [range(i, i + 25) for i in range(0, 100, 25)], ids=str)
def test_what_is_said_of_lengths_holds_in_every_run(seeds: range) -> None:
    tally: Counter[str] = Counter()
    for seed in seeds:
        model = draw(seed)
        said = claims(model)
        for sizes in RUNS:
            shapes = run(model, sizes)
            if shapes is not None:
                tally["runs"] += 1
                tally["products"] += check(said, shapes)
    assert tally["runs"] > 2 * len(seeds)
    assert tally["products"] > len(seeds)
