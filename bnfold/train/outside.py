"""Networks that others wrote: timm, torchvision, and a factory in a Python file of the user."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import ModelProblem
from ..system.installed import need
from .options import unknown

Shape = tuple[int, int, int]


def from_timm(name: str, shape: Shape, classes: int) -> nn.Module:
    """timm's model `name`, untrained, for these channels and classes."""
    need("timm", extra="timm")
    import timm

    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    made: nn.Module = _made(f"timm:{name}", timm.create_model, name, num_classes=classes, in_chans=shape[0])
    return made


def from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """torchvision's classifier `name`, untrained, without the classifiers on the side that some have in training."""
    need("torchvision")
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    arguments: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": False, "init_weights": True}
    made: nn.Module = _made(f"torchvision:{name}", models.get_model, name, weights=None, **arguments)
    return made


def from_file(file: str, name: str, shape: Shape, classes: int) -> nn.Module:
    """What the function `name(in_shape, classes)` of this Python file returns. The file is run: trust it first."""
    path = Path(file)
    if not os.path.isfile(path):
        raise ModelProblem(f"no file {path}", "FILE.py:FACTORY is relative to the current directory.")
    arch = f"{path}:{name}"
    factory = getattr(_made(arch, _imported, path), name, None)
    if not callable(factory):
        raise ModelProblem(f"{path} has no function {name}", f"Define {name}(in_shape, classes) -> nn.Module in it.")
    made = _made(arch, factory, shape, classes)
    if not isinstance(made, nn.Module):
        raise ModelProblem(f"{arch} gave a {type(made).__name__}, not an nn.Module", "Return the network.")
    return made


def _imported(path: Path) -> ModuleType:
    """The file as a module, which its own classes can find by name."""
    spec = spec_from_file_location(f"bnfold_network_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _made(arch: str, factory: Any, *arguments: Any, **options: Any) -> Any:
    """What the factory gives; ModelProblem with its own words where it fails."""
    try:
        return factory(*arguments, **options)
    except Exception as error:  # other people's code may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise ModelProblem(
            f"{arch} failed: {type(error).__name__}: {reason}", "Repair it, or choose another."
        ) from error
