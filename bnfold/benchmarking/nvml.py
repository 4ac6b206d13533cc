"""The state of the GPUs while a benchmark runs, read through NVML, which comes with the driver. Nothing is set."""

from __future__ import annotations

import ctypes
from typing import Any

from ..runtime.driver import NVML, driver

CLOCKS = {"sm_mhz": 1, "memory_mhz": 2}  # nvmlClockType_t
REASONS = {  # bits of nvmlDeviceGetCurrentClocksEventReasons
    "GpuIdle": 0x1,
    "ApplicationsClocksSetting": 0x2,
    "SwPowerCap": 0x4,
    "HwSlowdown": 0x8,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
    "DisplayClockSetting": 0x100,
}


def gpus(library: str = NVML) -> list[dict[str, Any]]:
    """Name, driver, clocks in MHz, temperature and what holds the clocks back, of each GPU; none without a driver."""
    known = driver(library)
    if not known:
        return []
    nvml = ctypes.CDLL(library)
    nvml.nvmlInit_v2()
    try:
        return [
            {"name": gpu["name"], "driver": known["version"], **_state(nvml, index)}
            for index, gpu in enumerate(known["gpus"])
        ]
    finally:
        nvml.nvmlShutdown()


def _state(nvml: Any, index: int) -> dict[str, Any]:
    """None for what this GPU does not tell."""
    gpu = ctypes.c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(gpu))
    found = {name: _number(nvml, ("nvmlDeviceGetClockInfo",), gpu, kind) for name, kind in CLOCKS.items()}
    celsius = _number(nvml, ("nvmlDeviceGetTemperature",), gpu, 0)
    newer, older = (f"nvmlDeviceGetCurrentClocks{what}Reasons" for what in ("Event", "Throttle"))  # since driver 535
    mask = _number(nvml, (newer, older), gpu) or 0
    return {**found, "celsius": celsius, "clocks_event_reasons": [name for name, bit in REASONS.items() if mask & bit]}


def _number(nvml: Any, names: tuple[str, ...], gpu: Any, *of: int) -> int | None:
    """A number that the first of these functions gives that the driver has."""
    ask = next(filter(None, (getattr(nvml, name, None) for name in names)), None)
    number = ctypes.c_ulonglong(0)
    return number.value if ask and ask(gpu, *map(ctypes.c_uint, of), ctypes.byref(number)) == 0 else None
