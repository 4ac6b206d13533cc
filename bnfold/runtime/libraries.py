"""The shared libraries of a GPU provider: which it needs, which load, and where a missing one comes from."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from ..system.installed import runtime
from .plugins import PLUGINS

WHEELS = {  # library: the wheel that holds it; NVIDIA's names carry a suffix up to CUDA 12
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libcudnn": "nvidia-cudnn-cu13",
    "libnvinfer": "tensorrt-cu13",
    "libnvinfer_plugin": "tensorrt-cu13",
    "libnvonnxparser": "tensorrt-cu13",
    "libtensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx",
    "libtensorrt_onnxparser_rtx": "onnxruntime-ep-nv-tensorrt-rtx",
}
DEBIAN = {"libz": "zlib1g", "libstdc++": "libstdc++6", "libgcc_s": "libgcc-s1", "libgomp": "libgomp1"}  # packages
DRIVER, SYSTEM = "the NVIDIA driver", "the system"
ABSENT = "No such file"  # in the words of the loader of libraries


def source(library: str) -> str:
    """Where a library comes from: a wheel, the NVIDIA driver, or the system."""
    stem = library.partition(".")[0]
    if stem in ("libcuda", "libnvidia-ml"):
        return DRIVER
    return f"wheel {WHEELS[stem]}" if stem in WHEELS else SYSTEM


def required(provider: str) -> list[str]:
    """Libraries that the library of a provider needs; TensorRT leaves nodes to CUDA and needs both."""
    if provider in PLUGINS:
        own = PLUGINS[provider].library
        return needed(own) if own else []
    folder = Path(runtime().__file__).parent / "capi"
    names = ("cuda", "tensorrt") if provider == "tensorrt" else (provider,)
    return list(dict.fromkeys(n for name in names for n in needed(folder / f"libonnxruntime_providers_{name}.so")))


def preload(provider: str) -> None:
    """Load what a GPU provider needs out of installed wheels, before its first session looks for it in vain."""
    if provider == "cpu":
        return
    if provider in PLUGINS:  # which were built with what they bring: the system may have an older one
        for name in required(provider):
            load_library(next(map(str, _in_wheels(name)), name))
        return
    with redirect_stdout(StringIO()):  # it prints what it does not find
        runtime().preload_dlls()
    for name in required(provider):
        load_library(name)


def load_library(name: str) -> str:
    """Load a library, TensorRT's and a plug-in's also out of its wheel; returns why that failed, or ""."""
    try:
        ctypes.CDLL(name)
    except OSError as why:
        for path in _in_wheels(name):
            return load_library(str(path))
        return str(why)
    return ""


def _in_wheels(name: str) -> Iterator[Path]:
    """Where wheels keep a library that `preload_dlls` does not look for, under its name or one of a longer version."""
    spec = find_spec("tensorrt_libs")
    folders = list(spec.submodule_search_locations or []) if spec else []
    plugins = [str(each.folder) for each in PLUGINS.values() if each.folder]
    for folder in [*folders, *plugins] if "/" not in name else []:
        yield from sorted(Path(folder).glob(f"{name}*"))


def needed(path: Path) -> list[str]:
    """The libraries that a 64-bit ELF file names as needed (DT_NEEDED); none for a file of another kind, or damaged."""
    data = path.read_bytes() if os.path.isfile(path) else b""
    with suppress(struct.error, StopIteration, IndexError, ValueError, OverflowError):
        return _needed(data) if data[:6] == b"\x7fELF\x02\x01" else []
    return []


def _needed(data: bytes) -> list[str]:
    segments = _segments(data)
    entries = [pair for kind, start, _, size in segments if kind == 2 for pair in _pairs(data[start : start + size])]
    tables = [value for tag, value in entries if tag == 5]
    return [_text(data, _offset(segments, tables[0] + value)) for tag, value in entries if tag == 1]


def _segments(data: bytes) -> list[tuple[int, int, int, int]]:
    """Of each program header: type, offset in the file, address, size in the file."""
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = (struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count))
    return [(kind, offset, address, length) for kind, _, offset, address, _, length in headers]


def _pairs(section: bytes) -> Iterator[tuple[int, int]]:
    """Tag and value of the entries of a dynamic section."""
    return struct.iter_unpack("<qQ", section[: len(section) // 16 * 16])


def _offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    """Where in the file an address is loaded from."""
    return next(at - base + address for kind, at, base, size in segments if kind == 1 and base <= address < base + size)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
