"""Optional packages: which onnxruntime is installed, and how to install what is missing.

No runtime is a requirement of bnfold: several distributions (onnxruntime, onnxruntime-gpu, onnxruntime-openvino, ...)
own one folder, `onnxruntime`, so that a second one overwrites the first, and removing either breaks the other.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentProblem

if TYPE_CHECKING:
    from importlib.metadata import Distribution

RUNTIME = "onnxruntime"
NAMES = ("onnxruntime", "ort_", "ort-")  # how the names of all known distributions of onnxruntime begin
GPU_WHEELS = (("linux", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64"))  # where onnxruntime-gpu has some
PACKAGES = {  # of bnfold's extras, as pyproject.toml has them; `gpu` is onnxruntime where there is no other
    "cpu": (RUNTIME,),
    "gpu": ("onnxruntime-gpu" if (sys.platform, platform.machine()) in GPU_WHEELS else RUNTIME,),
    "cuda": ("onnxruntime-gpu[cuda,cudnn]",),
    "tensorrt": ("tensorrt-cu13>=10,<11",),
    "tensorrt-rtx": ("onnxruntime-ep-nv-tensorrt-rtx",),
    "train": ("torch", "torchvision", "onnxscript", "scikit-learn", "matplotlib"),
    "plot": ("matplotlib",),
    "tensorboard": ("tensorboard",),
    "timm": ("timm",),
    "fleet": ("ray",),
    "ir": ("onnx-ir",),
}

OWN_PACKAGE = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
}  # import name: distribution, of packages of `train` that are of use without PyTorch


def install_command(*extras: str) -> str:
    """The command that installs what these extras of bnfold bring, by its own names: bnfold may be on no index."""
    return pip("install", *dict.fromkeys(package for extra in extras for package in PACKAGES[extra]))


def pip(verb: str, *words: str) -> str:
    """A command, in backticks, that changes the packages of this interpreter, whatever a shell has activated."""
    own = Path(sys.executable).parent
    if (own_pip := shutil.which("pip")) and Path(own_pip).parent == own:
        command = "pip"
    elif find_spec("pip"):
        command = f"{_quoted(sys.executable)} -m pip"
    else:
        command = "uv pip"  # whose environments have no pip
    return f"`{' '.join([command, verb, *map(_quoted, words)])}`"


def _quoted(word: str) -> str:
    """A word of a command, in quotes that every shell accepts where it needs them."""
    return word if not set(word) & set(" []<>;,*?&()~'") else f'"{word}"'


def need(*packages: str, what: str, extra: str = "train") -> None:
    """Raise EnvironmentProblem unless `what` can import these packages, which an `extra` of bnfold brings."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as why:
            hint = pip("install", OWN_PACKAGE[package]) if package in OWN_PACKAGE else install_command(extra)
            raise EnvironmentProblem(
                f"{what} needs the package {package}, which cannot be imported here ({why})", hint
            ) from why


def runtimes() -> dict[str, str]:
    """The distributions that own the folder in which onnxruntime is found, with their versions: none, one, or a mix.

    Where there is no such folder, those that say they own it: their files are gone.
    """
    return {each.metadata["Name"]: each.version for each in sorted(_owners(), key=lambda each: each.metadata["Name"])}


def _places() -> list[str]:
    """Where onnxruntime is found, or would be."""
    spec = find_spec(RUNTIME)
    return [str(Path(place).parent) for place in spec.submodule_search_locations or ()] if spec else sys.path


def _owners() -> Iterator[Distribution]:
    from importlib.metadata import distributions  # which takes 10 ms, and to read them all 20

    for each in distributions(path=_places()):
        stated = each.read_text("top_level.txt")
        if RUNTIME in stated.split() if stated else f"{RUNTIME}/__init__.py," in (each.read_text("RECORD") or ""):
            yield each


def listed(distributions: dict[str, str]) -> str:
    """`onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1`"""
    return " and ".join(f"{name} {version}" for name, version in distributions.items())


def may_be_several() -> bool:
    """Whether more than one installed distribution may be an onnxruntime, by file names alone, which is quick."""
    names = (name.lower() for place in filter(os.path.isdir, _places()) for name in os.listdir(place))
    return sum(name.startswith(NAMES) and name.endswith("-info") for name in names) > 1


def mixture() -> tuple[str, str] | None:
    """What is wrong where several onnxruntime distributions are installed, and how to repair it; else None."""
    several = runtimes() if may_be_several() else {}
    if len(several) < 2:
        return None
    wrong = f"{listed(several)} are both installed, in one folder: each has overwritten files of the other"
    return wrong, _repair(several)


def _repair(distributions: dict[str, str]) -> str:
    """The command that leaves one runtime, which is whole."""
    if len(distributions) == 1:
        exact = (f"{name}=={version}" for name, version in distributions.items())
        return pip("install", "--force-reinstall", "--no-deps", *exact)
    (ours,) = PACKAGES["gpu"]
    one = pip("install", ours if ours in distributions else next(iter(distributions)))
    return f"{pip('uninstall', '-y', *distributions)}, then {one}: only one of them."


def replaced(*extras: str) -> str:
    """The commands that replace the onnxruntime distributions installed now by what these extras of bnfold bring."""
    return f"{pip('uninstall', '-y', *runtimes())}, then {install_command(*extras)}."


def require_runtime(what: str, otherwise: str = "") -> None:
    """Raise EnvironmentProblem where `what` needs onnxruntime and none is installed. Imports nothing, so it is quick.

    `otherwise`, a sentence for the hint, says what can be done without onnxruntime.
    """
    spec = find_spec(RUNTIME)
    if spec is not None and spec.origin is not None:  # a folder without __init__.py is a module, too
        return
    if broken := runtimes():
        lost = f"{what} needs {RUNTIME}, and the files of {listed(broken)} are not all there"
        raise EnvironmentProblem(lost, _repair(broken))
    either = dict.fromkeys(install_command(extra) for extra in ("gpu", "cpu"))
    hint = f"{' or '.join(either)}{', not both' if len(either) > 1 else ''}."
    raise EnvironmentProblem(f"{what} needs {RUNTIME}, and none is installed", f"{hint} {otherwise}".strip())


def runtime() -> Any:
    """The module onnxruntime. Raises EnvironmentProblem where there is none, or one that is broken."""
    require_runtime("this")
    try:
        import onnxruntime
    except ImportError as why:
        broken = runtimes()
        hint = _repair(broken) if broken else install_command("gpu")
        raise EnvironmentProblem(f"{RUNTIME} cannot be imported: {why}", hint) from why
    return onnxruntime
