"""The state of the GPUs while a benchmark runs, read through NVML (`pynvml`, if it is installed). Nothing is set."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


def gpus(module: str = "pynvml") -> list[dict[str, Any]]:
    """Name, driver, clocks in MHz and what holds them back, of each GPU; none without pynvml or a driver."""
    try:
        nvml = import_module(module)
        nvml.nvmlInit()
    except Exception:  # NVML's errors exist only where it does
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [_gpu(nvml, handle) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    """None for what this GPU does not tell."""
    ask = {
        "name": lambda: _text(nvml.nvmlDeviceGetName(handle)),
        "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }
    mask = _told(nvml, lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
    reasons = [name for name, bit in REASONS.items() if mask & bit]
    return {name: _told(nvml, each) for name, each in ask.items()} | {"clocks_event_reasons": reasons}


def _told(nvml: Any, ask: Any) -> Any:
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
