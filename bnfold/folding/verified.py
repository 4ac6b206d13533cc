"""The verification of what a fold wrote, by a process that gets ready while the fold runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..verification import Verification


def prepared_verification(wanted: bool) -> AbstractContextManager[None]:
    """A block in which the process that verifies gets ready, if it will be `wanted`."""
    if not wanted:
        return nullcontext()
    from ..verification.children import prepared_child

    return prepared_child()


def verified(source: Path, draft: Path, target: Path, **options: Any) -> Verification:
    """The verification of a draft, which calls it `target`; `options` are those of `verify`."""
    from ..verification import verify

    verification = verify(source, draft, **options)
    verification.models["folded"]["path"] = str(target)
    return verification
