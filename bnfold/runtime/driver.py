"""The NVIDIA driver and its GPUs, asked through NVML, the library behind nvidia-smi. Nothing is set."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


def driver(library: str = NVML) -> dict[str, Any]:
    """Version, the newest CUDA it serves, and what GPUs there are; empty where there is no driver."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return {}
    if nvml.nvmlInit_v2():
        return {}
    try:
        cuda = _whole(nvml.nvmlSystemGetCudaDriverVersion_v2)
        gpus = [_gpu(nvml, index) for index in range(_whole(nvml.nvmlDeviceGetCount_v2))]
        version = _words(nvml.nvmlSystemGetDriverVersion)
    finally:
        nvml.nvmlShutdown()
    return {"version": version, "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}", "gpus": gpus}


def _gpu(nvml: Any, index: int) -> dict[str, str]:
    handle = ctypes.c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return {
        "name": _words(nvml.nvmlDeviceGetName, handle),
        "uuid": _words(nvml.nvmlDeviceGetUUID, handle),
        "capability": f"{major.value}.{minor.value}",
    }


def _whole(ask: Any) -> int:
    number = ctypes.c_uint(0)
    ask(ctypes.byref(number))
    return number.value


def _words(ask: Any, *of: Any) -> str:
    text = ctypes.create_string_buffer(96)
    ask(*of, text, ctypes.c_uint(96))
    return text.value.decode("utf-8", "replace")
