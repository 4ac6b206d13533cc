"""Records that other commands wrote, read again: each of the kind that it should be, and about these two models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from ..errors import ModelProblem, UsageProblem, first_line
from ..model.datafiles import opened

Plain = dict[str, Any]
Kind = Any  # see `fits`
NUMBER = (int, float)
DEEPEST, DIGITS = 20, 18  # levels of what bnfold writes, and digits of a whole number in it
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
ERRORS = {"axis": int, "channels": int, "every": bool, "original": PAIR, "folded": PAIR}
TENSOR |= {"by_channel?": (ERRORS, None)}
LEVEL = {"level": str, "provider": str, "math": str, "ran": bool, "why": str, "same_graph": bool, "cases": [str]}
SIZE = {"nodes": int, "batch_normalizations": int, "bytes": int}
FOLDED = {"node": str, "operator": str, "output": str, "direction": str, "through": [str], "into": [str]}
REASON = {"code": str, "words": str}
KEPT = {"node": str, "operator": str, "output": str, "not_hoisted": REASON, "not_sunk": REASON}
KEPT |= {"not_merged?": (REASON, None)}
INTERVAL = {"estimate": NUMBER, "low": (*NUMBER, None), "high": (*NUMBER, None)}
TIMES = {"count": int, "p50": NUMBER, "p90": (*NUMBER, None), "p99": (*NUMBER, None), "iqr": NUMBER}
SETTING: dict[str, Kind] = {"level": str, "provider": str, "mode": str, "dims": [[(str, int)]], "cuda_graph": bool}
SETTING |= {"precision?": str, "cudnn_search?": str}
BLOCK = {**SETTING, "launch": int, "model": str, "times": PAIR}
CELL = {**SETTING, "ms": PAIR, "verdict": str}
CELL |= {"speedup": INTERVAL, "control": INTERVAL, "log_ratios": PAIR, "log_controls": PAIR, "left": [int]}
CELL |= {"times": [TIMES], "flags": [str]}
COLD = {"provider": str, "model": str, "create_ms": NUMBER, "first_run_ms": NUMBER, "bytes": int}
CHANGE = {"kind": str, "count": int, "words": [str]}
BOTH = {"original": int, "folded": int}
KINDS: dict[str, Plain] = {  # what of each kind of record is read, with its types
    "verify": {
        **{"verdict": str, "reasons": [str], "notes": [str], "models": dict, "seconds": NUMBER},
        **{"grade?": str, "structure?": ({"changes?": [CHANGE]}, None)},
        **{"worst_error": {"original": NUMBER, "folded": NUMBER}, "algebra": [{"name": str, "ratio": NUMBER}]},
        "levels": [{**LEVEL, "tensors_compared": int, "tensors": [TENSOR]}],
    },
    "fold": {
        **{"source": str, "target": str, "written": bool, "before": SIZE, "after": SIZE, "notes": [str]},
        **{"folded": [FOLDED], "kept": [KEPT], "verification": (dict, None)},
    },
    "bench": {
        **{"verdict": str, "summary": str, "cells": [CELL], "cold": [COLD], "nodes": BOTH, "environment": dict},
        **{"batch_normalization": BOTH, "left_by_onnxruntime": BOTH, "same_graph": bool, "notes": [str]},
        **{"launches": int, "margin": NUMBER},
    },
}


def text(path: Path) -> str:
    """What a file says. Raises ModelProblem where it cannot be read."""
    try:
        with opened(path) as stream:
            return stream.read().decode("utf-8")
    except FileNotFoundError as why:
        raise ModelProblem(f"no file at {path}", "Relative paths start at the current directory.") from why
    except (OSError, UnicodeDecodeError) as why:
        raise ModelProblem(
            f"{path} cannot be read as text: {first_line(why)}", "Name a file that bnfold wrote."
        ) from why


def record(path: Path, kind: str) -> Plain:
    """A record of `bnfold KIND --json`. Raises ModelProblem where the file is none."""
    try:
        found = json.loads(text(path), parse_constant=_refuse, parse_float=_real, parse_int=_whole)
    except (ValueError, RecursionError):
        found = None
    if not shallow(found):
        found = None
    if not isinstance(found, dict) or found.get("schema") != f"bnfold.{kind}/1" or not fits(found, KINDS[kind]):
        raise ModelProblem(f"{path} is not what `bnfold {kind} --json` writes", _anew(kind, path))
    if kind == "fold" and found["verification"] and not fits(found["verification"], KINDS["verify"]):
        raise ModelProblem(f"the verification in {path} is damaged", _anew(kind, path))
    return found


def _anew(kind: str, path: Path) -> str:
    arguments = {"fold": "A --force"}.get(kind, "A B")
    return f"Make it with `bnfold {kind} {arguments} --json {quote(str(path))}`."


def fits(value: Any, kind: Kind) -> bool:
    """Whether plain data is of a kind: a type or None; one of several; a list of one kind; a dict with these keys.

    A dict may hold more; a key that ends in `?` may be missing.
    """
    if isinstance(kind, tuple):
        return any(fits(value, each) for each in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(each, kind[0]) for each in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_holds(value, key, kind[key]) for key in kind)
    return value is None if kind is None else isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def shallow(value: Any, levels: int = DEEPEST) -> bool:
    """Whether plain data is nested in so many levels at most."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(levels) and all(shallow(each, levels - 1) for each in inside)


def _holds(value: Mapping[str, Any], key: str, kind: Kind) -> bool:
    name = key.removesuffix("?")
    return fits(value[name], kind) if name in value else name != key


def require_same(path: Path, recorded: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageProblem where a record describes its models, by SHA-256, and they are others than `models`."""
    for name, model in models.items():
        digest = recorded[name].get("sha256") if isinstance(recorded.get(name), dict) else None
        if digest and model.get("sha256") and digest != model["sha256"]:
            other(
                path, f"its {name} model has the SHA-256 {str(digest)[:12]}, {model['path']} has {model['sha256'][:12]}"
            )


def require_sizes(path: Path, recorded: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises UsageProblem where a record tells other numbers of the models than theirs."""
    for name, size in sizes.items():
        if name in recorded and recorded[name] != size:
            other(path, f"there the {name} model has {recorded[name]}, here {size}")


def other(path: Path, why: str) -> NoReturn:
    """Raises UsageProblem."""
    raise UsageProblem(
        f"{path} is about other models: {why}", "Make the record anew with the two models of the report."
    )


def _real(digits: str) -> float:
    """A number of a size that floats have, which JSON does not ask for."""
    if not math.isfinite(found := float(digits)):
        raise ValueError(digits)
    return found


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(digits)
    return int(digits)


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)
