"""Networks: `build` gives one. A new one is a function and one row in ARCHITECTURES or FAMILIES.

The function's parameters are `shape` (C, H, W), the number of `classes`, and those of Network's options that the
architecture honours: an option it has no parameter for is refused. Networks that others wrote come from timm,
torchvision, or a factory in a Python file of the user.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import ModelProblem, UsageProblem
from ..system.installed import need
from .inception import bn_inception, inception
from .layers import ImageShape, small_gaussian
from .recipe import Network, flag, unknown
from .small_networks import convnet, mlp, resnet

VARIED = {field.name: field for field in fields(Network) if field.name not in ("arch", "init_std")}


def build(network: Network, shape: ImageShape, classes: int) -> nn.Module:
    """The network from images (N, *shape) to logits (N, classes).

    Raises UsageProblem for an unknown name or an option that the architecture cannot honour, ModelProblem for a
    user's file that is not there or fails.
    """
    factory = find_builder(network.arch)
    options = {name: value for name in VARIED if (value := getattr(network, name)) is not None}
    honoured = signature(factory).parameters.keys() & options.keys()
    _require_honoured(network, {name for name in options.keys() - honoured if options[name] != getattr(Network, name)})
    model = factory(shape, classes, **{name: options[name] for name in honoured})
    if network.init_std is not None:
        small_gaussian(model, network.init_std)
    return model


def find_builder(arch: str) -> Callable[..., nn.Module]:
    """The function that builds `arch`; UsageProblem, with the nearest names, if there is none."""
    for pattern, factory in FAMILIES.items():
        if match := re.fullmatch(pattern, arch):
            return partial(factory, *match.groups())
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, [*ARCHITECTURES, *FORMS])
    return ARCHITECTURES[arch]


def _require_honoured(network: Network, beyond: set[str]) -> None:
    if beyond:
        flags = ", ".join(sorted(flag(VARIED[name]) for name in beyond))
        raise UsageProblem(f"the architecture {network.arch} cannot honour {flags}", "Leave it out, or choose another.")


def from_timm(name: str, shape: ImageShape, classes: int) -> nn.Module:
    """timm's model `name`, untrained, for these channels and classes."""
    need("timm", extra="timm", what="an architecture of timm")
    import timm

    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    made: nn.Module = _made(f"timm:{name}", timm.create_model, name, num_classes=classes, in_chans=shape[0])
    return made


def from_torchvision(name: str, shape: ImageShape, classes: int) -> nn.Module:
    """torchvision's classifier `name`, untrained, without the auxiliary classifiers that some have in training."""
    need("torchvision", what="an architecture of torchvision")
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    arguments: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": False, "init_weights": True}
    made: nn.Module = _made(f"torchvision:{name}", models.get_model, name, weights=None, **arguments)
    return made


def from_file(file: str, name: str, shape: ImageShape, classes: int) -> nn.Module:
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


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "bn-inception": bn_inception,
    "inception": inception,
}

FAMILIES: dict[str, Callable[..., nn.Module]] = {  # the groups of the name come before shape and classes
    r"resnet-(\d+)": resnet,
    r"timm:(.+)": from_timm,
    r"torchvision:(.+)": from_torchvision,
    r"(.+\.py):(\w+)": from_file,
}
FORMS = ("resnet-N", "timm:NAME", "torchvision:NAME", "FILE.py:FACTORY")
