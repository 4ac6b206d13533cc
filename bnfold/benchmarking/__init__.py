"""Benchmark: is a folded model faster, and how sure is that? Timing runs in fresh child processes only."""

from __future__ import annotations

from .benching import bench as bench
from .results import Benchmark as Benchmark

__all__ = ["Benchmark", "bench"]
