"""`doctor`: for each provider what is installed, what loads, what really ran, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Any, ClassVar

from ..errors import EnvironmentProblem, UsageProblem
from ..process import launcher
from ..process.endings import Failed
from ..system.installed import PACKAGES, install_command, mixture, pip, replaced, runtimes
from .libraries import ABSENT, DEBIAN, DRIVER, SYSTEM, source
from .plugins import PLUGINS
from .probe import probe
from .providers import PROVIDERS

SCHEMA = "bnfold.doctor/1"
PROBE_SECONDS = 120.0
LOADED = "/proc/driver/nvidia/version"  # there where the driver runs, in containers too
_LISTED = "These are onnxruntime's words. nvidia-smi should list a GPU, and a CUDA version no older than the runtime."
EXTRAS = {  # that bring a provider
    "cpu": ("gpu",),
    "cuda": ("cuda",),
    "tensorrt": ("cuda", "tensorrt"),
    **{key: (key,) for key in PLUGINS},
}
_WHEELS = {"cuda": ("onnxruntime", "nvidia-"), "tensorrt": ("onnxruntime", "tensorrt")}  # others: of onnxruntime


@dataclass(frozen=True)
class Health:
    """One provider on this machine; `libraries` are those it needs, each with why it does not load, or nothing."""

    provider: str
    name: str
    works: bool
    why: str
    fix: str
    ran_on: tuple[str, ...]
    wheels: dict[str, str]
    libraries: dict[str, str]
    versions: dict[str, str]
    driver: dict[str, Any]

    def require(self) -> None:
        """Raise EnvironmentProblem if it does not work."""
        if not self.works:
            raise EnvironmentProblem(f"{self.name} cannot run here: {self.why}", self.fix)

    def row(self) -> tuple[str, ...]:
        """For a table."""
        known = dict(self.versions)
        if self.driver:
            known["driver"] = self.driver["version"]
            known.update((f"GPU {i}", gpu["name"]) for i, gpu in enumerate(self.driver["gpus"]))
        versions = ", ".join(f"{name} {version}" for name, version in known.items())
        return (self.provider, "yes" if self.works else "no", ", ".join(self.ran_on) or "nothing", versions)


@dataclass(frozen=True)
class Diagnosis:
    """Every provider, and what else a session depends on."""

    providers: tuple[Health, ...]
    system: str
    python: str
    environment: dict[str, str]
    mixture: tuple[str, str] | None = None  # of runtimes: what is wrong with it, and how to mend it

    COLUMNS: ClassVar = ("provider", "works", "a test node ran on", "versions")

    def rows(self) -> list[tuple[str, ...]]:
        """One line per provider for a table."""
        return [health.row() for health in self.providers]

    def installed(self) -> list[tuple[str, ...]]:
        """For a table: the wheels that each provider comes in."""
        return [(h.provider, name, version) for h in self.providers for name, version in h.wheels.items()]

    def require(self, names: Iterable[str]) -> None:
        """Raise EnvironmentProblem for the first of `names` that does not work."""
        health = {each.provider: each for each in self.providers}
        for name in names:
            if name not in PROVIDERS:
                raise UsageProblem(f"unknown execution provider {name!r}", f"Choose from: {', '.join(PROVIDERS)}.")
            health[name].require()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, **asdict(self)}


def doctor() -> Diagnosis:
    """Look at every provider, each in a child process; nothing is installed or changed."""
    results = tuple(examine(provider) for provider in PROVIDERS)
    names = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_TF32_OVERRIDE")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    return Diagnosis(results, platform.platform(), platform.python_version(), environment, mixture())


def require_providers(providers: Iterable[str]) -> None:
    """Raise EnvironmentProblem, with what is missing, for a provider that does not run a one-node session."""
    for provider in dict.fromkeys(providers):
        examine(provider).require()


def examine(provider: str) -> Health:
    """One provider, looked at in a child: a driver that crashes takes nothing else along."""
    wheels = runtimes() | installed(_WHEELS.get(provider, ("onnxruntime",)))
    try:
        report = launcher.run(probe, {"provider": provider}, seconds=PROBE_SECONDS, reserves=provider != "cpu")
    except Failed as why:
        fix = f"Check the NVIDIA driver with nvidia-smi; reinstall the wheels: {_brought(provider)}."
        return Health(provider, PROVIDERS[provider], False, str(why), fix, (), wheels, {}, {}, {})
    works = PROVIDERS[provider] in report["ran_on"]
    reason, fix = ("", "") if works else diagnose(provider, report)
    kept = {name: report[name] for name in ("libraries", "versions", "driver")}
    return Health(provider, PROVIDERS[provider], works, reason, fix, tuple(report["ran_on"]), wheels, **kept)


def diagnose(provider: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """Why a provider does not work, and what to do: from what the probe found."""
    plugin, words = PLUGINS.get(provider), report["said"]
    if "fix" in report:  # what would have to come first
        return words, _brought(provider) if provider != "cpu" and not runtimes() else report["fix"]
    if not report["offered"]:
        version = report["versions"]["onnxruntime"]
        if plugin:
            return f"its package, {PACKAGES[provider][0]}, is not installed", f"{_brought(provider)}."
        return f"onnxruntime {version} is installed without it", replaced(*EXTRAS[provider])
    broken = {library: why for library, why in report["libraries"].items() if why}
    if broken:
        return missing(broken), _cure(provider, broken, report["driver"])
    if words and plugin:
        return _refused(provider, report)
    if words:
        return words, _outdated(report) or _LISTED
    places = ", ".join(report["ran_on"]) or "nothing"
    return f"a one-node session ran on {places}, and onnxruntime does not say why", install_command(*EXTRAS[provider])


def _brought(provider: str) -> str:
    """The command that installs a provider, or installs it again; with onnxruntime where there is none."""
    wheel, version = PLUGINS[provider].installed if provider in PLUGINS else ("", "")
    if wheel and runtimes():
        return pip("install", "--force-reinstall", "--no-deps", f"{wheel}=={version}" if version else wheel)
    return install_command(*(["gpu"] if provider in PLUGINS and not runtimes() else []), *EXTRAS[provider])


def _refused(provider: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """Why a plug-in whose libraries load does not work: no device, another onnxruntime, or in its own words."""
    plugin, words = PLUGINS[provider], report["said"]
    wheel, version = plugin.installed
    if "API version" in words:
        return words, f"{pip('install', '--upgrade', *runtimes())}, or an older {wheel}."
    if report["devices"] is None:
        return words, _outdated(report) or f"{_brought(provider)}."
    if report["devices"]:
        return words, _outdated(report) or _LISTED
    gpus = report["driver"].get("gpus", [])
    listed = ", ".join(f"{gpu['name']} ({gpu['capability']})" for gpu in gpus) or "no GPU"
    seen = f"; the driver lists {listed}" if report["driver"] else ""
    serves = ", ".join(each.replace("+", " or later") for each in plugin.served())
    why = f"{words}{seen}" + f"; {wheel} {version} serves compute capability {serves}" * bool(serves)
    others = next(filter(None, (plugin.serving(gpu["capability"]) for gpu in gpus)), version)
    if others != version:
        return why, f"{pip('install', f'{wheel}=={others}')}, which serves this GPU."
    return why, "Use another provider, cuda for example, or a device that this one serves."


def _outdated(report: Mapping[str, Any]) -> str:
    """What to do about a driver that serves only an older CUDA than the one that is loaded."""
    newest, loaded = report["driver"].get("cuda", ""), report["versions"].get("CUDA runtime", "")
    if not newest or not loaded or int(newest.split(".")[0]) >= int(loaded.split(".")[0]):
        return ""
    return f"Update the NVIDIA driver: it serves CUDA {newest}, and CUDA {loaded} is installed."


def missing(broken: Mapping[str, str]) -> str:
    """`libcurand.so.10 (wheel nvidia-curand) and libcuda.so.1 (the NVIDIA driver) are missing`"""
    absent = [f"{name} ({source(name)})" for name, why in broken.items() if ABSENT in why]
    others = [f"{name} does not load: {why}" for name, why in broken.items() if ABSENT not in why]
    listed = " and ".join(filter(None, [", ".join(absent[:-1]), *absent[-1:]]))
    return "; ".join(([f"{listed} {'is' if len(absent) == 1 else 'are'} missing"] if absent else []) + others)


def _cure(provider: str, broken: Mapping[str, str], driver: Mapping[str, Any]) -> str:
    """What to install, in order: the driver, packages of the system, wheels; again those whose files are damaged."""
    sources = dict.fromkeys(source(name) for name in broken)
    steps = [_driver()] if DRIVER in sources or not driver else []
    if SYSTEM in sources:
        names = [name for name in broken if source(name) == SYSTEM]
        known = [DEBIAN[stem] for name in names if (stem := name.partition(".")[0]) in DEBIAN]
        steps.append(
            f"Install {', '.join(names)}" + (f" (on Debian: `apt-get install {' '.join(known)}`)" * bool(known))
        )
    wheels = tuple(each.removeprefix("wheel ") for each in sources if each.startswith("wheel "))
    if wheels:
        damaged = [f"{name}=={version}" for name, version in installed(wheels).items()]
        again = f", and if that changes nothing {pip('install', '--force-reinstall', '--no-deps', *damaged)}"
        steps.append(install_command(*EXTRAS[provider]) + again * bool(damaged))
    return "; ".join(steps) + "."


def _driver() -> str:
    if os.path.exists(LOADED):
        return (
            "Start this container with `docker run --gpus all`: the NVIDIA driver runs, and its libraries are not here"
        )
    return "Install the NVIDIA driver, on a machine with an NVIDIA GPU"


def installed(starts: tuple[str, ...]) -> dict[str, str]:
    """Installed wheels whose names begin so, with their versions."""
    facts = {
        each.metadata["Name"].lower().replace("_", "-"): each.version
        for each in distributions()
        if each.metadata["Name"]
    }
    return {name: facts[name] for name in sorted(facts) if name.startswith(starts)}
