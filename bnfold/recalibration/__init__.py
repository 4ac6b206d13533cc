"""Population statistics on an ONNX graph, with onnxruntime alone: recompute them, or see whether they fit your data.

result = recalibrate("model.onnx", batches)   # arrays, or dictionaries of them by input name
result = check("model.onnx", batches)
"""

from __future__ import annotations

from .drift import Drift as Drift
from .drift import Fit as Fit
from .options import Options as Options
from .recalibrating import Check as Check
from .recalibrating import Recalibration as Recalibration
from .recalibrating import check as check
from .recalibrating import recalibrate as recalibrate

__all__ = ["Check", "Drift", "Fit", "Options", "Recalibration", "check", "recalibrate"]
