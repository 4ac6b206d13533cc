"""A process that judges one graph after the other, and may crash: an index per line of stdin, words on stdout.

`python -m tests.api_fuzz.worker SEED` prints each stage as it begins ("original", "fold"), then the answer as JSON:
whether onnxruntime died of the graph itself, or of what bnfold made of it, is known by the last word. Forks, in which
bnfold asks for shapes, would take half of the time: it makes none where a process has another thread.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from .draw import draw
from .judge import Dropped, judged


def answer(seed: int, index: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What became of the graph number `index`."""
    begun = time.monotonic()
    say("original")
    drawn = draw(seed, index)
    try:
        found = judged(drawn, lambda: say("fold"))
    except Dropped as why:
        found = {"dropped": str(why)}
    return {"index": index, **found, "features": dict(drawn.features), "seconds": round(time.monotonic() - begun, 3)}


def main() -> None:
    warnings.simplefilter("ignore")  # of NumPy, where numbers overflow
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # beside a thread bnfold forks for nothing
    told = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def say(word: str) -> None:
        told.write(f"{word}\n")
        told.flush()

    for line in sys.stdin:
        say(json.dumps(answer(int(sys.argv[1]), int(line), say)))


if __name__ == "__main__":
    main()
