"""One provider, examined in a child: which libraries load, what onnxruntime says, where a one-node session ran."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from ..errors import EnvironmentProblem
from ..process.child import stage
from ..process.jobs import job
from ..system.installed import runtime
from . import libraries, plugins, sessions
from .nvml import driver
from .placement import ran
from .providers import Way, chain


@job
def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about `request["provider"]`, a key of PROVIDERS, that only loading and running can show."""
    way = Way(request["provider"])
    report: dict[str, Any] = {"offered": False, "libraries": {}, "ran_on": [], "said": "", "versions": {}, "driver": {}}
    plugin = plugins.PLUGINS.get(way.provider)
    try:
        ort = runtime()
        if plugin:
            plugins.require_support(plugin)
    except EnvironmentProblem as why:
        return report | {"said": str(why), "fix": why.hint}
    offered = plugin.folder is not None if plugin else way.name in ort.get_available_providers()
    report.update(offered=offered, versions={"onnxruntime": ort.__version__})
    if way.gpu:
        stage(f"loading the libraries of {way.name}")
        libraries.preload(way.provider)
        report["driver"] = driver()
        report["libraries"] = {name: libraries.load_library(name) for name in libraries.required(way.provider)}
        report["versions"].update(library_versions(way.provider))
    if report["offered"] and not any(report["libraries"].values()):
        report.update(_registered(plugin) if plugin else {})
        report.update({} if report["said"] else _tried(way))
    return report


def _registered(plugin: plugins.Plugin) -> dict[str, Any]:
    """The devices that a plug-in offers, and what was said where it offers none."""
    stage(f"registering {plugin.name} with onnxruntime")
    with overheard() as words:
        try:
            return {"devices": [str(each.ep_name) for each in plugins.devices(plugin)]}
        except plugins.NoDevice as why:
            return {"devices": [], "said": ": ".join(filter(None, [str(why), cleaned(words())]))}
        except Exception as why:  # onnxruntime's exceptions have no common base
            return {"devices": None, "said": sessions.one_line(why)}


def _tried(way: Way) -> dict[str, Any]:
    """Run one Conv (which on CUDA also wants cuDNN) and see where it went, and what onnxruntime prints meanwhile."""
    stage(f"a one-node session on {way.name}")
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        options = sessions.options("off", profile=f"{folder}/ran")
        with overheard() as words:
            try:
                running = sessions.session(_one_node(), options, chain(way))
                sessions.outputs(running, ["y"], {"x": np.ones((1, 1, 2, 2), np.float32)})
            except sessions.CannotRun as why:
                return {"said": str(why) if plugins.plugin_of(way.name) else cleaned(words()) or str(why)}
        kernels = {node.provider for node in ran(sessions.finish(running))}
    return {"ran_on": sorted(kernels), "said": cleaned(words())}


def _one_node() -> bytes:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,2,2] x) => (float[1,1,2,2] y) { y = Conv (x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.float32), "w"))
    return bytes(model.SerializeToString())


@contextmanager
def overheard() -> Iterator[Any]:
    """Collect what native code prints to stderr in the block; the value is a function that returns it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        said: list[bytes] = []
        try:
            yield lambda: said[0] if said else _all(stream)
        finally:
            said.append(_all(stream))
            os.dup2(kept, 2)
            os.close(kept)


def _all(stream: Any) -> bytes:
    stream.seek(0)
    return bytes(stream.read())


def cleaned(printed: bytes) -> str:
    """The first of onnxruntime's messages, without colours and times."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode("utf-8", "replace")).strip()
    return sessions.one_line(re.sub(r"^[\d-]+ [\d:.]+ \[\w:[^\]]*\] ", "", text)) if text else ""


def library_versions(provider: str) -> dict[str, str]:
    """Of the libraries that are loaded, CUDA's runtime, cuDNN, TensorRT, and of a plug-in's package."""
    plugin = plugins.PLUGINS.get(provider)
    numbers = {
        **dict([plugin.installed] if plugin else []),
        "CUDA runtime": _number("libcudart.so", "cudaRuntimeGetVersion", (1000, 10), by_reference=True),
        "cuDNN": _number("libcudnn.so", "cudnnGetVersion", (10000, 100)),
        "TensorRT": _number("libnvinfer.so", "getInferLibVersion", (10000, 100)),
    }
    return {name: version for name, version in numbers.items() if version}


def _number(library: str, function: str, parts: tuple[int, int], *, by_reference: bool = False) -> str:
    """Ask a loaded library for its version, a number whose parts are worth so much."""
    path = _loaded(library)
    if not path:
        return ""
    call, number = getattr(ctypes.CDLL(path), function), ctypes.c_int(0)
    returned = call(ctypes.byref(number)) if by_reference else call()
    value = number.value if by_reference else int(returned)
    return f"{value // parts[0]}.{value % parts[0] // parts[1]}" + ("" if by_reference else f".{value % parts[1]}")


def _loaded(library: str) -> str:
    """The file of a library that this process has loaded (Linux says)."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if os.path.exists(maps) else []
    paths = (Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line)
    return next((str(path) for path in paths if path.name.startswith(library)), "")
