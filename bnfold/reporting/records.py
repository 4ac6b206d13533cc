"""Read the JSON records of other commands, and check that each is of its kind and about these two models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from ..errors import ModelProblem, UsageProblem, first_line
from ..model.datafiles import open_regular

Plain = dict[str, Any]
Kind = Any  # see `fits`
NUMBER = (int, float)
DEEPEST_LEVEL, MOST_DIGITS = 20, 18  # levels of what bnfold writes, and digits of a whole number in it
PAIR = [NUMBER]
TENSOR: dict[str, Kind] = {
    "name": str,
    "operator": str,
    "output": bool,
    "site": bool,
    "ok": bool,
    "moved": bool,
    "why": str,
}
TENSOR |= {"ratio": NUMBER, "limit": NUMBER}
TENSOR |= dict.fromkeys(["rms_original", "rms_folded", "max_abs_original", "max_abs_folded"], NUMBER)
ERROR_FIELDS = {"axis": int, "channels": int, "every": bool, "original": PAIR, "folded": PAIR}
TENSOR |= {"by_channel?": (ERROR_FIELDS, None)}
LEVEL = {"level": str, "provider": str, "math": str, "ran": bool, "why": str, "same_graph": bool, "cases": [str]}
SIZE = {"nodes": int, "batch_normalizations": int, "bytes": int}
FOLDED_FIELDS = {"node": str, "operator": str, "output": str, "direction": str, "through": [str], "into": [str]}
REASON = {"code": str, "words": str}
KEPT_FIELDS = {"node": str, "operator": str, "output": str, "not_hoisted": REASON, "not_sunk": REASON}
KEPT_FIELDS |= {"not_merged?": (REASON, None)}
INTERVAL = {"estimate": NUMBER, "low": (*NUMBER, None), "high": (*NUMBER, None)}
TIMES = {"count": int, "p50": NUMBER, "p90": (*NUMBER, None), "p99": (*NUMBER, None), "iqr": NUMBER}
SETTING: dict[str, Kind] = {"level": str, "provider": str, "mode": str, "dims": [[(str, int)]], "cuda_graph": bool}
SETTING |= {"precision?": str, "cudnn_search?": str}
BLOCK_FIELDS = {**SETTING, "launch": int, "model": str, "times": PAIR}
CELL_FIELDS = {**SETTING, "ms": PAIR, "verdict": str}
CELL_FIELDS |= {"speedup": INTERVAL, "control": INTERVAL, "log_ratios": PAIR, "log_controls": PAIR, "left": [int]}
CELL_FIELDS |= {"times": [TIMES], "flags": [str]}
COLD = {"provider": str, "model": str, "create_ms": NUMBER, "first_run_ms": NUMBER, "bytes": int}
BOTH = {"original": int, "folded": int}
RECORD_KINDS: dict[str, Plain] = {  # what of each kind of record is read, with its types
    "verify": {
        **{"verdict": str, "reasons": [str], "notes": [str], "models": dict, "seconds": NUMBER},
        **{"worst_error": {"original": NUMBER, "folded": NUMBER}, "algebra": [{"name": str, "ratio": NUMBER}]},
        "levels": [{**LEVEL, "tensors_compared": int, "tensors": [TENSOR]}],
    },
    "fold": {
        **{"source": str, "target": str, "written": bool, "before": SIZE, "after": SIZE, "notes": [str]},
        **{"folded": [FOLDED_FIELDS], "kept": [KEPT_FIELDS], "verification": (dict, None)},
    },
    "bench": {
        **{"verdict": str, "summary": str, "cells": [CELL_FIELDS], "cold": [COLD], "nodes": BOTH, "environment": dict},
        **{"batch_normalization": BOTH, "left_by_onnxruntime": BOTH, "same_graph": bool, "notes": [str]},
        **{"launches": int, "margin": NUMBER},
    },
}


def file_text(path: Path) -> str:
    """The text of a file. Raises ModelProblem where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read().decode("utf-8")
    except FileNotFoundError as why:
        raise ModelProblem(f"no file at {path}", "Relative paths start at the current directory.") from why
    except (OSError, UnicodeDecodeError) as why:
        raise ModelProblem(
            f"{path} cannot be read as text: {first_line(why)}", "Name a file that bnfold wrote."
        ) from why


def read_record(path: Path, kind: str) -> Plain:
    """A record of `bnfold KIND --json`. Raises ModelProblem where the file is none."""
    try:
        content = json.loads(file_text(path), parse_constant=_refuse, parse_float=_real, parse_int=_whole)
    except (ValueError, RecursionError):
        content = None
    if not shallow(content):
        content = None
    if (
        not isinstance(content, dict)
        or content.get("schema") != f"bnfold.{kind}/1"
        or not matches_kind(content, RECORD_KINDS[kind])
    ):
        raise ModelProblem(f"{path} is not what `bnfold {kind} --json` writes", _anew(kind, path))
    if kind == "fold" and content["verification"] and not matches_kind(content["verification"], RECORD_KINDS["verify"]):
        raise ModelProblem(f"the verification in {path} is damaged", _anew(kind, path))
    return content


def _anew(kind: str, path: Path) -> str:
    arguments = {"fold": "A --force"}.get(kind, "A B")
    return f"Make it with `bnfold {kind} {arguments} --json {quote(str(path))}`."


def matches_kind(value: Any, kind: Kind) -> bool:
    """Whether plain data is of a kind: a type or None; one of several; a list of one kind; a dict with these keys.

    A dict may hold more; a key that ends in `?` may be missing.
    """
    if isinstance(kind, tuple):
        return any(matches_kind(value, each) for each in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(matches_kind(each, kind[0]) for each in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_holds(value, key, kind[key]) for key in kind)
    return value is None if kind is None else isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def shallow(value: Any, levels: int = DEEPEST_LEVEL) -> bool:
    """Whether plain data is nested in so many levels at most."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(levels) and all(shallow(each, levels - 1) for each in inside)


def _holds(value: Mapping[str, Any], key: str, kind: Kind) -> bool:
    name = key.removesuffix("?")
    return matches_kind(value[name], kind) if name in value else name != key


def require_same(path: Path, recorded: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageProblem where a record describes its models, by SHA-256, and they are others than `models`."""
    for name, model in models.items():
        digest = recorded[name].get("sha256") if isinstance(recorded.get(name), dict) else None
        if digest and model.get("sha256") and digest != model["sha256"]:
            other(
                path, f"its {name} model has the SHA-256 {str(digest)[:12]}, {model['path']} has {model['sha256'][:12]}"
            )


def require_same_sizes(path: Path, recorded: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises UsageProblem where a record states other counts of the models than theirs."""
    for name, size in sizes.items():
        if name in recorded and recorded[name] != size:
            other(path, f"there the {name} model has {recorded[name]}, here {size}")


def other(path: Path, why: str) -> NoReturn:
    """Raises UsageProblem: the record at `path` is not about these models; `why` says what differs."""
    raise UsageProblem(
        f"{path} is about other models: {why}", "Make the record anew with the two models of the report."
    )


def _real(digits: str) -> float:
    """A finite number: JSON allows larger ones than floats can be."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(digits)
    return int(digits)


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)
