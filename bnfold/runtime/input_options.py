"""Options about inputs: `--shape x:1,3,224,224` in the spellings of the field, `--dim N=1,8`, files of data."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

import onnx

from ..errors import ModelProblem, UsageProblem, require_within
from .dimensions import Shapes, Sizes, dynamic
from .protos import caller_inputs, shape

LARGEST_DIMENSION = (1 << 31) - 1

_SHAPE = re.compile(r"(?:(?P<name>.+)[:=])?\s*[\[(]?(?P<dims>\d+(?:\s*[,x]\s*\d+)*),?[\])]?")
_NEXT = re.compile(r"(?<=[\d\])])\s*[,;\s]\s*(?=[^\d\s\[(,;][^,;\[(]*[:=])")  # between `x:1x3` and `y:1x2`


def parse_shape(text: str) -> dict[str, tuple[int, ...]]:
    """`x:1,3,224,224`, as onnxsim, onnxslim, polygraphy (`x:[1,3]`) and trtexec (`x:1x3,y:1x2`) spell it.

    Without a name it is the shape of the only input. Raises UsageProblem.
    """
    shapes = {}
    for part in _NEXT.split(text.strip()):
        match = _SHAPE.fullmatch(part.strip())
        dims = tuple(map(_size, re.split(r"\s*[,x]\s*", match["dims"]))) if match else ()
        if not match or 0 in dims:
            raise UsageProblem(f"--shape {text!r} is not NAME:SIZES", "For example: --shape x:1,3,224,224.")
        shapes[(match["name"] or "").strip()] = dims
    return shapes


def parse_dim(text: str) -> tuple[str, tuple[int, ...]]:
    """`N=1,8` as a dimension and its sizes. Raises UsageProblem."""
    name, _, values = text.rpartition("=")
    sizes = values.split(",")
    if not name or not all(size.strip().isdecimal() and _size(size) > 0 for size in sizes):
        raise UsageProblem(f"--dim {text!r} is not NAME=SIZE", "For example: --dim N=8, or --dim N=1,8.")
    return name, tuple(map(_size, sizes))


def _size(text: str) -> int:
    """A size as it is written; one of very many digits is another one that is too large."""
    return int(text.strip()[:19])


def require_sizes(name: str, sizes: Iterable[int]) -> None:
    """Raises UsageProblem for a size that no dimension has."""
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise UsageProblem(f"a size of {name} is {size!r}", "Give a whole number.")
        require_within(f"a size of {name}", size, 1, LARGEST_DIMENSION)


def require_dims(dims: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The same in plain numbers. Raises UsageProblem for a dimension without a size, or with one that none has."""
    for name, sizes in dims.items():
        if not len(sizes):
            raise UsageProblem(f"no size for the dimension {name!r}", "Give one, or leave the dimension out.")
        require_sizes(name, sizes)
    return {name: [int(size) for size in sizes] for name, sizes in dims.items()}


def combinations(graph: onnx.GraphProto, dims: Mapping[str, Sequence[int]], shapes: Shapes) -> list[Sizes]:
    """Sizes of dynamic dimensions, one set for every combination of those in `dims`; `shapes` hold in all of them.

    The shape of the only input may be under the name "". Raises UsageProblem for what the model does not have, or has
    with a size of its own.
    """
    require_dynamic(graph, dims)
    fixed = _sizes_of(graph, shapes)
    return [{**fixed, **dict(zip(dims, sizes, strict=True))} for sizes in itertools.product(*dims.values())]


def require_dynamic(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Raises UsageProblem for a dimension that the model does not have, or has with a size of its own."""
    known = dynamic(graph)
    for name in names:
        if name not in known:
            raise UsageProblem(f"the model has no dynamic dimension {name!r}", f"It has: {', '.join(known) or 'none'}.")


def _sizes_of(graph: onnx.GraphProto, shapes: Shapes) -> dict[str, int]:
    values = {value.name: value for value in caller_inputs(graph)}
    named: dict[str, int] = {}
    for name, sizes in shapes.items():
        if not name and len(values) == 1:
            name = next(iter(values))
        if name not in values:
            raise UsageProblem(f"the model has no input {name!r}", f"It has: {', '.join(values) or 'none'}.")
        named |= named_sizes(values[name], sizes)
    return named


def named_sizes(value: onnx.ValueInfoProto, sizes: Sequence[int]) -> dict[str, int]:
    """The sizes that a shape gives to the dynamic dimensions of an input. Raises UsageProblem if it does not fit."""
    stated = shape(value)
    dims = [None] * len(sizes) if stated is None else stated
    if len(dims) != len(sizes) or any(isinstance(d, int) and d != size for d, size in zip(dims, sizes, strict=True)):
        words = ", ".join(str(dim or "?") for dim in dims)
        raise UsageProblem(
            f"input {value.name!r} cannot have the shape {list(sizes)}", f"The model states [{words}] for it."
        )
    pairs = [(axis, dim, size) for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True))]
    return {dim or f"{value.name}/{axis}": size for axis, dim, size in pairs if not isinstance(dim, int)}


def input_sets(paths: Iterable[str]) -> list[str]:
    """Every set of inputs among `paths`: .npz and .npy files, and folders of them.

    A folder with `input_0.pb`, as ONNX's own test data has it, is one set. Raises ModelProblem.
    """
    return [str(file) for path in paths for file in _within(Path(path))]


def _within(path: Path) -> list[Path]:
    if not os.path.exists(path):
        raise ModelProblem(f"no data at {path}", "Give a .npz or .npy file, or a folder of them.")
    if not os.path.isdir(path) or os.path.exists(path / "input_0.pb"):
        return [path]
    files = [p for p in sorted(path.iterdir()) if p.suffix in (".npz", ".npy") or os.path.exists(p / "input_0.pb")]
    if not files:
        raise ModelProblem(f"{path} holds no .npz or .npy file", "Save inputs with numpy.savez, by their names.")
    return files
