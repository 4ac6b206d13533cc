"""Verification: does a folded model still compute what the original computes, and is everything else as it was?

Tiers: structure (exact), numbers (against float64). Native code runs in child processes only. Nothing here imports the
code that folds.
"""

from __future__ import annotations

from .results import FAIL as FAIL
from .results import INCONCLUSIVE as INCONCLUSIVE
from .results import PASS as PASS
from .results import VACUOUS as VACUOUS
from .results import Verification as Verification
from .selftest import SelfTest as SelfTest
from .selftest import self_test as self_test
from .verifying import verify as verify

__all__ = ["FAIL", "INCONCLUSIVE", "PASS", "VACUOUS", "SelfTest", "Verification", "self_test", "verify"]
