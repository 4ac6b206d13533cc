"""`fold` as Python calls it: on a model in memory or in a file, with the proof that nothing else changed."""

from __future__ import annotations

from dataclasses import replace

from ..errors import BnfoldError, CheckFailed, Inconclusive
from ..model.models import Model
from ..system.installed import require_runtime
from . import driver
from .result import FoldResult

UNPROVED = "verify=False returns it unproved; `verification` of the error's `evidence` says more."


def fold(model: Model, *, freeze_initializers: bool = False, verify: bool = True) -> FoldResult:
    """Fold every affine node of a model that has a home among its constants, and prove that nothing else changed.

    `model` is a path, bytes, a ModelProto, an onnx_ir.Model or a torch.onnx.ONNXProgram, and is left as it was; what
    is returned holds a ModelProto. Initializers that are also graph inputs may be overridden by the caller and are not
    touched, unless `freeze_initializers`. All arithmetic is float64, rounded once to the stored type. The result is
    compared with the original as `bnfold.verify` does, and its `verification` says so; with `verify` False it is not.

    Raises ModelProblem for a model that cannot be read, is in training mode, or has statistics that are not numbers;
    and for one that is not valid ONNX, where that prevents the fold; TypeError for what is no model; CheckFailed or
    Inconclusive for a result that did not pass, which is their `evidence`; EnvironmentProblem without onnxruntime.
    """
    if verify:
        require_runtime("the proof of a fold", "`verify=False` folds without it.")
    result = driver.fold(model, freeze_initializers=freeze_initializers)
    return proved(model, result, freeze_initializers) if verify and result.folded else result


def proved(model: Model, result: FoldResult, freeze_initializers: bool) -> FoldResult:
    """The result with its verification. Raises CheckFailed or Inconclusive unless it passes."""
    from ..verification import verify

    sites = True if result.sites is None else result.sites
    proof = verify(model, result.model, untouched=sites, freeze_initializers=freeze_initializers)
    result = replace(result, verification=proof)
    if proof.passed:
        return result
    reasons = "; ".join(proof.reasons)
    kind: type[BnfoldError] = Inconclusive
    words = f"the folded model could not be verified ({proof.verdict.lower()})"
    if proof.verdict == "FAIL":
        words, kind = "the folded model does not compute what the original does", CheckFailed
    problem = kind(f"{words}: {reasons}", UNPROVED)
    problem.evidence = result
    raise problem
