"""The proof of a fold: a verification of what was written, by a process that gets ready while the fold runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..verification import Verification
    from .pipeline import Options


def prepared_proof(wanted: bool) -> AbstractContextManager[None]:
    """A block in which the process that verifies gets ready, if it will be `wanted`."""
    if not wanted:
        return nullcontext()
    from ..verification.children import prepared_child

    return prepared_child()


def verified(source: Path, draft: Path, target: Path, options: Options, sites: tuple[str, ...] | None) -> Verification:
    """The verification of a draft, in which it has the name `target`."""
    from ..verification import verify

    verification = verify(
        source,
        draft,
        effort=options.verify,
        untouched=True if sites is None else sites,
        freeze_initializers=options.freeze_initializers,
        require=options.require,
        allow_external_outside=options.allow_external_outside,
    )
    verification.models["folded"]["path"] = str(target)
    return verification
