"""The NVIDIA driver and its GPUs, through NVML, the library that nvidia-smi uses. Nothing is set."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
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


@contextmanager
def _loaded(library: str) -> Iterator[Any]:
    """The library, ready to be called; None where there is no driver."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        nvml = None
    if nvml is None or nvml.nvmlInit_v2():
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def driver(library: str = NVML) -> dict[str, Any]:
    """Version, the newest CUDA it serves, and what GPUs there are; empty where there is no driver."""
    with _loaded(library) as nvml:
        if nvml is None:
            return {}
        cuda = _whole(nvml.nvmlSystemGetCudaDriverVersion_v2)
        gpus = [_gpu(nvml, _handle(nvml, index)) for index in range(_whole(nvml.nvmlDeviceGetCount_v2))]
        version = _words(nvml.nvmlSystemGetDriverVersion)
        return {"version": version, "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}", "gpus": gpus}


def states(library: str = NVML) -> list[dict[str, Any]]:
    """Name, driver, clocks in MHz, temperature and what holds the clocks back, of each GPU; none without a driver."""
    with _loaded(library) as nvml:
        if nvml is None:
            return []
        version = _words(nvml.nvmlSystemGetDriverVersion)
        handles = (_handle(nvml, index) for index in range(_whole(nvml.nvmlDeviceGetCount_v2)))
        return [
            {"name": _words(nvml.nvmlDeviceGetName, gpu), "driver": version, **_state(nvml, gpu)} for gpu in handles
        ]


def _handle(nvml: Any, index: int) -> Any:
    handle = ctypes.c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
    return handle


def _gpu(nvml: Any, handle: Any) -> dict[str, str]:
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return {
        "name": _words(nvml.nvmlDeviceGetName, handle),
        "uuid": _words(nvml.nvmlDeviceGetUUID, handle),
        "capability": f"{major.value}.{minor.value}",
    }


def _state(nvml: Any, gpu: Any) -> dict[str, Any]:
    """None for what this GPU does not say."""
    clocks = {name: _number(nvml, ("nvmlDeviceGetClockInfo",), gpu, kind) for name, kind in CLOCKS.items()}
    celsius = _number(nvml, ("nvmlDeviceGetTemperature",), gpu, 0)
    newer, older = (f"nvmlDeviceGetCurrentClocks{what}Reasons" for what in ("Event", "Throttle"))  # since driver 535
    mask = _number(nvml, (newer, older), gpu) or 0
    return {**clocks, "celsius": celsius, "clocks_event_reasons": [name for name, bit in REASONS.items() if mask & bit]}


def _number(nvml: Any, names: tuple[str, ...], gpu: Any, *of: int) -> int | None:
    """A number that the first of these functions gives that the driver has."""
    function = next(filter(None, (getattr(nvml, name, None) for name in names)), None)
    number = ctypes.c_ulonglong(0)
    return number.value if function and function(gpu, *map(ctypes.c_uint, of), ctypes.byref(number)) == 0 else None


def _whole(function: Any) -> int:
    number = ctypes.c_uint(0)
    function(ctypes.byref(number))
    return number.value


def _words(function: Any, *of: Any) -> str:
    text = ctypes.create_string_buffer(96)
    function(*of, text, ctypes.c_uint(96))
    return text.value.decode("utf-8", "replace")
