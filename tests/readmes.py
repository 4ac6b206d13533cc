"""Print anew what READMEs show: `python -m tests.readmes samples/01_fold_a_model/README.md ...`, or `README.md`.

Each ```text block becomes what the ```sh block above it prints now. Only where words have changed: numbers that differ
from run to run stay as they are; but a table that is drawn becomes the plain one of a pipe.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.test_readme import ROOT, essence, run, sessions


def renewed(readme: Path, folder: Path) -> str:
    """The text of a README whose commands are run in `folder`."""
    text = readme.read_text(encoding="utf-8")
    for command, shown in sessions(readme):
        if readme.resolve().parent == ROOT and not shown:
            continue  # how to install
        found = run(command, folder)
        if shown and (essence(found) != essence(shown) or "┏" in shown):
            text = text.replace(f"```text\n{shown}```", f"```text\n{found}```", 1)
    return text


def main(names: list[str]) -> None:
    for readme in map(Path, names):
        with TemporaryDirectory(prefix="bnfold-readme-") as place:
            folder = Path(place, "here")
            if readme.resolve().parent == ROOT:
                folder.mkdir()
                sample = ROOT / "samples/01_fold_a_model/fold_a_model.py"
                subprocess.run([sys.executable, str(sample)], cwd=folder, check=True, capture_output=True)
            else:
                shutil.copytree(readme.parent, folder)
            readme.write_text(renewed(readme, folder), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
