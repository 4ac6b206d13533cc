"""How many processors this process may use."""

from __future__ import annotations

import os

from ..errors import UsageProblem

MOST_THREADS = 4096  # threads that a person may ask for


def threads() -> int:
    """How many processors this process may use, and gives to onnxruntime. BNFOLD_THREADS lowers it."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = os.environ.get("BNFOLD_THREADS", str(usable))
    if not wanted.isdecimal() or not int(wanted[:9]):
        raise UsageProblem(f"BNFOLD_THREADS={wanted} is not a number of threads", "Set it to 1 or more, or not at all.")
    return min(usable, int(wanted[:9]))
