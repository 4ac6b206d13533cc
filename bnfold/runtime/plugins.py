"""Execution providers that come in packages of their own (plug-ins): what each is, its devices, its options.

onnxruntime loads the library of a plug-in when it is registered; the plug-in then offers devices, and a session takes
devices, not a name. See https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem, UsageProblem
from ..system.installed import pip, runtime, runtimes


class NoDevice(Exception):
    """A plug-in is registered and offers no device on this machine."""


@dataclass(frozen=True)
class Plugin:
    """What is known of one plug-in.

    `name` is what onnxruntime calls the provider, which is registered under it; `package` the module with
    `get_library_path()`; `wheels` are the distributions that hold it. `runtime` is the oldest onnxruntime for it.
    `options` are the documented ones, each with the version of the package that first has it and the one that no
    longer has it, if any; `serves` are compute capabilities by version, the newest first, with `+` for "or later".
    `profile`, with `{}` for min, opt and max, and `cache` are options: for the sizes of inputs, and for a folder in
    which to keep what was compiled. `strict` is the environment that asks for float32 arithmetic. Nodes that the
    plug-in does not take go to the CPU.
    """

    name: str
    package: str
    wheels: tuple[str, ...]
    runtime: tuple[int, int]
    options: Mapping[str, tuple[str, str]]
    serves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    profile: str = ""
    cache: str = ""
    strict: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """Where the package is installed, found without importing it; None where it is not."""
        spec = find_spec(self.package)
        return Path(spec.origin).parent if spec and spec.origin else None

    @property
    def library(self) -> Path | None:
        """The file that onnxruntime loads, on Linux."""
        files = sorted(self.folder.glob("libonnxruntime_providers_*.so")) if self.folder else []
        return files[0] if files else None

    @property
    def installed(self) -> tuple[str, str]:
        """The wheel that holds it, and its version; empty where there is none, or it is not known."""
        for wheel in self.wheels:
            try:
                return wheel, version(wheel) or ""  # of damaged metadata it is None
            except PackageNotFoundError:
                continue
        return "", ""

    def served(self) -> tuple[str, ...]:
        """The compute capabilities of the version that is installed; none where they are not known."""
        mine = _number(self.installed[1])
        return next((each for since, each in self.serves.items() if mine >= _number(since)), ())

    def serving(self, capability: str) -> str:
        """The newest version that serves a compute capability; empty where none is known."""
        return next((release for release, each in self.serves.items() if _among(capability, each)), "")

    def check(self, options: Mapping[str, str]) -> None:
        """Raise UsageProblem for an option that the installed version does not have yet, or no longer."""
        wheel, mine = self.installed
        for name in options:
            if mine and not self.has(name, mine):
                other = self.options[name][0]
                problem = f"{wheel} {mine} has no option {name!r}, which {other} has"
                raise UsageProblem(problem, f"{pip('install', f'{wheel}=={other}')}.")

    def has(self, option: str, release: str) -> bool:
        """Whether a release of the package has a documented option."""
        first, gone = self.options[option]
        return _number(first) <= _number(release) and not (gone and _number(gone) <= _number(release))


def _among(capability: str, served: tuple[str, ...]) -> bool:
    mine = _number(capability)
    return any(mine >= _number(each[:-1]) if each.endswith("+") else mine == _number(each) for each in served)


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


_RTX = "has_user_compute_stream user_compute_stream user_aux_stream_array nv_length_aux_stream_array \
    nv_max_workspace_size nv_max_shared_mem_size nv_dump_subgraphs nv_detailed_build_log nv_profile_min_shapes \
    nv_profile_opt_shapes nv_profile_max_shapes enable_cuda_graph nv_multi_profile_enable nv_runtime_cache_path \
    nv_use_external_data_initializer VkExternalComputeQueueDataParamsNV_data nv_weight_streaming_budget \
    nv_op_types_to_exclude nv_enable_profiling nv_profiling_output_file nv_use_sync_gpu_allocator \
    nv_multi_rotary_cache_concat_offset nv_weight_stripped_engine_enable_experimental"
PLUGINS = {
    "tensorrt-rtx": Plugin(
        name="NvTensorRTRTXExecutionProvider",
        package="onnxruntime_ep_nv_tensorrt_rtx",
        wheels=("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12"),
        runtime=(1, 24),
        options={  # of tensorrt_rtx_provider_options.h in the wheels of 0.4.0 and 0.5.0
            **dict.fromkeys(_RTX.split(), ("0.4.0", "")),
            "device_id": ("0.4.0", "0.5.0"),
            "nv_persistent_context_memory": ("0.5.0", ""),
            "nv_target_sm": ("0.5.0", ""),
        },
        serves={"0.5.0": ("8.6", "8.9", "12.0+"), "0.4.0": ("8.0+",)},
        profile="nv_profile_{}_shapes",
        cache="nv_runtime_cache_path",
        strict={"NVIDIA_TF32_OVERRIDE": "0"},
    )
}
_devices: dict[str, list[Any]] = {}  # of the plug-ins that this process has registered


def plugin_of(name: str) -> Plugin | None:
    """The plug-in that onnxruntime calls `name`."""
    return next((each for each in PLUGINS.values() if each.name == name), None)


def require_support(plugin: Plugin) -> None:
    """Raise EnvironmentProblem unless this onnxruntime is new enough for it."""
    ort = runtime()
    if _number(ort.__version__)[:2] < plugin.runtime:
        oldest = ".".join(map(str, plugin.runtime))
        newer = pip("install", *(f"{name}>={oldest}" for name in runtimes() or ("onnxruntime",)))
        problem = f"the plug-in {plugin.name} needs onnxruntime {oldest} or later, and this is {ort.__version__}"
        raise EnvironmentProblem(problem, f"{newer}.")


def devices(plugin: Plugin) -> list[Any]:
    """The devices (OrtEpDevice) that a plug-in offers; the first call in a process imports and registers it.

    Its package changes the environment and its own folder when it is imported: call this in child processes only.
    Raises NoDevice where there is none, EnvironmentProblem for an onnxruntime that is too old, and what onnxruntime
    raises where the library does not load.
    """
    if plugin.name not in _devices:
        require_support(plugin)
        ort, library = runtime(), import_module(plugin.package).get_library_path()
        before = {each.ep_name for each in ort.get_ep_devices()}
        ort.register_execution_provider_library(plugin.name, str(library))
        _devices[plugin.name] = [each for each in ort.get_ep_devices() if each.ep_name not in before]
    if not _devices[plugin.name]:
        raise NoDevice(f"the plug-in {plugin.name} is registered and offers no device on this machine")
    return _devices[plugin.name]


def use_device(options: Any, plugin: Plugin, chosen: Mapping[str, str]) -> None:
    """Let sessions with these SessionOptions use the first device of a plug-in."""
    options.add_provider_for_devices(devices(plugin)[:1], dict(chosen))


def device_memory(plugin: Plugin) -> Any | None:
    """The memory of the device (an OrtMemoryInfo); None where a plug-in keeps its tensors in the CPU's."""
    return devices(plugin)[0].memory_info(runtime().OrtDeviceMemoryType.DEFAULT)
