"""What `against_peers` compares: each tool in as few lines as its documentation gives, and nothing else imported.

python -m tests.benchmarks.tools TOOL SOURCE TARGET
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def load_save(source: str, target: str) -> None:
    """What every tool that works on a ModelProto does at least."""
    import onnx

    onnx.save(onnx.load(source), target)


def onnxruntime(source: str, target: str, level: str = "ORT_ENABLE_BASIC") -> None:
    """At ORT_ENABLE_BASIC, the level whose result is still plain ONNX."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = target
    options.log_severity_level = 4
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxruntime_extended(source: str, target: str) -> None:
    """At ORT_ENABLE_EXTENDED, with operators of its own: for the runtime on this kind of machine."""
    onnxruntime(source, target, "ORT_ENABLE_EXTENDED")


def onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim as tool

    onnx.save(tool.simplify(onnx.load(source))[0], target)


def onnxslim(source: str, target: str) -> None:
    import onnxslim as tool

    tool.slim(source, target)


def onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer as tool

    onnx.save(tool.optimize(onnx.load(source), tool.get_fuse_and_elimination_passes()), target)


def onnxscript(source: str, target: str) -> None:
    import onnx
    import onnxscript.optimizer as tool

    onnx.save(tool.optimize(onnx.load(source)), target)


def bnfold(source: str, target: str) -> None:
    """The command, without its verification, which no peer has."""
    from bnfold_cli.main import main

    sys.argv[1:] = ["fold", source, target, "--verify", "off"]
    main()


def floor(source: str, target: str) -> None:
    """What no fold in Python comes below that changes every weight: no graph is read, nothing planned or checked.

    The packages are imported; the bytes are read, multiplied in float64, rounded, written, and flushed to the disk.
    """
    import os

    import numpy as np
    import onnx  # noqa: F401
    import onnx_graphsurgeon  # noqa: F401

    read, wide = np.empty(1 << 16, np.float32), np.empty(1 << 16)
    with open(source, "rb", buffering=0) as file, open(target, "wb", buffering=0) as sink:
        while count := file.readinto(read.view(np.uint8).data) // 4:
            with np.errstate(all="ignore"):
                np.multiply(read[:count], 1.0, out=wide[:count], dtype=np.float64)
                np.copyto(read[:count], wide[:count], casting="same_kind")
            sink.write(read[:count].view(np.uint8).data)
        os.fsync(sink.fileno())


TOOLS: dict[str, Callable[[str, str], None]] = {
    "load and save": load_save,
    **{
        tool.__name__: tool
        for tool in (bnfold, floor, onnxruntime, onnxruntime_extended, onnxsim, onnxslim, onnxoptimizer, onnxscript)
    },
}


def tell_peak() -> None:
    """Say on stdout how much memory this process had at most."""
    with suppress(OSError):
        print("peak_kb", peak_kb())


def peak_kb() -> int:
    """How much memory this process had at most. Not its `ru_maxrss`, which starts with what the parent had."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    atexit.register(tell_peak)
    TOOLS[sys.argv[1]](*sys.argv[2:])
