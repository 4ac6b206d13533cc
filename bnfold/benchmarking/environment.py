"""What a timing depends on other than the models. Everything is read, nothing is set."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..system.installed import listed, runtimes
from ..system.processors import threads


def environment() -> dict[str, Any]:
    """Processor, its use by others, and the versions of what runs on it; None where the system does not say."""
    return {
        "processor": _processor(),
        "processors_usable": threads(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": listed(runtimes()) or None,
        "onnx": version("onnx"),
    }


def _processor() -> str:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
