"""Sessions of onnxruntime: made in one place, with checked options, because onnxruntime takes typos silently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..errors import UsageProblem
from ..system.installed import runtime
from . import plugins
from .detached import Skeleton
from .protos import Array

LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "default": "ORT_ENABLE_ALL"}
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

SESSION_ENTRIES = frozenset(
    {
        "session.disable_cpu_ep_fallback",
        "session.record_ep_graph_assignment_info",
        "session.intra_op.allow_spinning",
        "session.inter_op.allow_spinning",
        "session.set_denormal_as_zero",
        "session.x64quantprecision",
        "session.disable_quant_qdq",
        "optimization.disable_specified_optimizers",
    }
)
PROVIDER_OPTIONS = {  # documented names: https://onnxruntime.ai/docs/execution-providers/
    CPU: frozenset[str](),
    CUDA: frozenset(
        [
            "device_id",
            "gpu_mem_limit",
            "arena_extend_strategy",
            "cudnn_conv_algo_search",
            "cudnn_conv_use_max_workspace",
            "cudnn_conv1d_pad_to_nc1d",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "enable_cudnn",
            "fuse_conv_bias",
            "prefer_nhwc",
            "use_tf32",
            "use_ep_level_unified_stream",
            "sdpa_kernel",
            "tunable_op_enable",
            "tunable_op_tuning_enable",
            "tunable_op_max_tuning_duration_ms",
            "enable_skip_layer_norm_strict_mode",
        ]
    ),
    TENSORRT: frozenset(
        [
            "device_id",
            "trt_fp16_enable",
            "trt_bf16_enable",
            "trt_int8_enable",
            "trt_engine_cache_enable",
            "trt_engine_cache_path",
            "trt_engine_cache_prefix",
            "trt_timing_cache_enable",
            "trt_timing_cache_path",
            "trt_force_timing_cache",
            "trt_builder_optimization_level",
            "trt_max_workspace_size",
            "trt_min_subgraph_size",
            "trt_max_partition_iterations",
            "trt_profile_min_shapes",
            "trt_profile_opt_shapes",
            "trt_profile_max_shapes",
            "trt_op_types_to_exclude",
            "trt_cuda_graph_enable",
            "trt_detailed_build_log",
            "trt_engine_hw_compatible",
            "trt_context_memory_sharing_enable",
            "trt_layer_norm_fp32_fallback",
            "trt_auxiliary_streams",
        ]
    ),
    **{each.name: frozenset(each.options) for each in plugins.PLUGINS.values()},
}


class CannotRun(Exception):
    """onnxruntime will not load or run the model; the text is its reason in one line."""


def checked_options(provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """Provider options as onnxruntime wants them. Raises UsageProblem for what it does not document."""
    if provider not in PROVIDER_OPTIONS:
        raise UsageProblem(f"unknown execution provider {provider!r}", f"Choose from: {', '.join(PROVIDER_OPTIONS)}.")
    for name in options:
        if name not in PROVIDER_OPTIONS[provider]:
            known = ", ".join(sorted(PROVIDER_OPTIONS[provider])) or "none"
            raise UsageProblem(f"{provider} has no option {name!r}", f"Choose from: {known}.")
    if plugin := plugins.plugin_of(provider):
        plugin.check(options)
    return {name: str(value) for name, value in options.items()}


def options(
    level: str,
    *,
    entries: Mapping[str, str] | None = None,
    deterministic: bool = False,
    threads: int = 0,
    profile: str = "",
) -> Any:
    """SessionOptions at graph optimization `level` (a key of `LEVELS`); only errors are logged.

    With `profile`, the start of a path, the session notes every kernel it runs.
    """
    ort = runtime()
    made = ort.SessionOptions()
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    made.use_deterministic_compute = deterministic
    made.log_severity_level = 4
    made.intra_op_num_threads = threads
    made.enable_profiling, made.profile_file_prefix = bool(profile), profile
    for name, value in (entries or {}).items():
        if name not in SESSION_ENTRIES:
            raise UsageProblem(
                f"onnxruntime has no session entry {name!r}", f"Choose from: {', '.join(sorted(SESSION_ENTRIES))}."
            )
        made.add_session_config_entry(name, value)
    return made


def session(
    model: bytes | str | Skeleton, made: Any, providers: Sequence[tuple[str, Mapping[str, str]]] = ((CPU, {}),)
) -> Any:
    """A session of `model` (serialized, or a path) on `providers`.

    Raises `CannotRun`, also where onnxruntime leaves out the first of them.
    """
    values = _map(made, model) if isinstance(model, Skeleton) else []
    chosen = [(provider, checked_options(provider, options)) for provider, options in providers]
    plugin = plugins.plugin_of(chosen[0][0])
    try:
        if plugin:  # onnxruntime takes devices or names, not both; what no device takes goes to the CPU
            plugins.use_device(made, plugin, chosen[0][1])
        named = {} if plugin else {"providers": chosen}
        data = model.model if isinstance(model, Skeleton) else model
        running = runtime().InferenceSession(data, made, enable_fallback=0, **named)
        running.values = values  # which onnxruntime reads, but does not keep
    except Exception as why:  # onnxruntime's exceptions have no common base
        raise CannotRun(one_line(why)) from why
    if chosen[0][0] not in running.get_providers():
        raise CannotRun(f"onnxruntime left {chosen[0][0]} out and offers {', '.join(running.get_providers())} instead")
    return running


def _map(made: Any, model: Skeleton) -> list[Any]:
    """Let onnxruntime read constants where they lie, and copy none: not to lay them out anew, nor to keep memory.

    Returns what has to be there as long as the session is.
    """
    made.enable_cpu_mem_arena = False
    made.add_session_config_entry("session.disable_prepacking", "1")
    made.add_session_config_entry("session.model_external_initializers_file_folder_path", model.root)
    values = {name: _value(array) for name, array in model.values.items()}
    for name, value in values.items():
        made.add_initializer(name, value)
    return [*values.values()]


def _value(array: Array) -> Any:
    """An array as onnxruntime takes it, in the memory where it is."""
    kind = runtime().OrtValue
    if array.dtype.name == "bfloat16":
        return kind.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
    return kind.ortvalue_from_numpy(array)


def outputs(running: Any, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """One run of a session. Raises `CannotRun`."""
    try:
        return list(running.run(list(names), dict(feeds)))
    except Exception as why:
        raise CannotRun(one_line(why)) from why


def finish(running: Any) -> Path:
    """End the profile of a session; returns its file."""
    return Path(running.end_profiling())


def optimized(
    model: bytes | str | Skeleton,
    level: str,
    path: str,
    providers: Sequence[tuple[str, Mapping[str, str]]] = ((CPU, {}),),
) -> onnx.ModelProto:
    """The graph that onnxruntime really runs at `level` on `providers`, written to `path` on the way."""
    made = options(level)
    made.optimized_model_filepath = path
    session(model, made, providers)
    return onnx.load(path)


LONGEST_MESSAGE = 400  # characters: one of many missing inputs names them all


def one_line(why: object) -> str:
    """onnxruntime's message in one line, without its preamble and the places in its sources; CUDA's own if there is."""
    text = str(why).strip() or type(why).__name__
    failure = re.search(r"\bCU[A-Z]+ failure \d+: [^;\n]*", text)
    if failure:
        return failure[0].strip()
    preamble = r"^.*\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |/onnxruntime_src/\S+ [^)]*\) ?"
    line = re.sub(preamble, "", text.splitlines()[0]).strip()
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."
