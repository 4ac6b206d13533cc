"""`python -m tests.goldens --write [NAME...]` makes the goldens anew; without --write they are shown."""

from __future__ import annotations

import sys

from tests.goldens.playing import GOLDENS, played
from tests.goldens.scenes import SCENES


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if name != "--write"] or list(SCENES)
    for name in names:
        for way in SCENES[name].ways:
            text = played(name, way)
            if "--write" in arguments:
                (GOLDENS / f"{name}.{way}.txt").write_text(text, encoding="utf-8")
            else:
                print(f"===== {name}, {way}\n{text}")


if __name__ == "__main__":
    main(sys.argv[1:])
