"""A newcomer's first ten minutes, recorded: `python -m tests.first_ten_minutes` (about ten minutes, needs a package index)

A fresh clone of HEAD, a fresh environment without PyTorch, and three tasks, with the commands that README.md names and
files of one's own: fold my model, why was this kept, is it faster. What a person sees at 80 columns goes to TRANSCRIPT.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.data import DATA
from tests.first_ten_minutes.terminal import Seen, seen
from tests.samples import folder, module

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPT = Path(__file__).parent / "TRANSCRIPT.md"
INSTALL = ("python3 -m venv .venv", '. .venv/bin/activate && pip install --quiet ".[gpu]"')
TASKS = {
    "Fold my model": ("bnfold fold text.onnx", "bnfold fold branches.onnx", "bnfold fold finished.onnx"),
    "Why was this kept?": ("bnfold fold faces.onnx", "bnfold explain faces.onnx"),
    "Is it faster?": ("bnfold bench branches.onnx branches.folded.onnx", "bnfold bench text.onnx text.folded.onnx"),
}
MODELS = {"text.onnx": "ppocr_v3_det.onnx", "faces.onnx": "mesonet_tf2onnx.onnx"}
MOST = 45  # lines of one command that the transcript shows
ABOUT = f"""# The first ten minutes

Written by `python -m tests.first_ten_minutes`: a fresh clone, a fresh environment, and what a person sees at 80 columns.
`text.onnx` is {MODELS["text.onnx"]} and `faces.onnx` is {MODELS["faces.onnx"]} of the test data. `branches.onnx` is the RepVGG of
`samples/05_reparameterize_repvgg` as PyTorch exports it, and `finished.onnx` a network of Conv and BatchNormalization alone,
which PyTorch's exporter has folded already. Times are of a busy machine with two cores.
"""


def exported(place: Path) -> None:
    """The newcomer's own networks, as `torch.onnx.export` writes them by default."""
    import torch
    from torch import nn

    sample = folder("05_reparameterize_repvgg")
    with module(sample / "networks.py") as networks:
        sys.modules["networks"] = networks
        with module(sample / "reparameterize.py") as script:
            script.export(networks.trained(networks.repvgg), place / "branches.onnx")
            torch.manual_seed(0)
            plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            script.export(plain.eval(), place / "finished.onnx")
        del sys.modules["networks"]


def own_models(place: Path) -> None:
    """Files that the newcomer has brought along, read-only as they may be."""
    for name, source in MODELS.items():
        shutil.copyfile(DATA / "onnx" / source, place / name)
    exported(place)


def written(lines: list[str], what: Seen) -> None:
    """One command as a person sees it, cut where it is long."""
    shown = (
        what.lines
        if len(what.lines) <= MOST
        else [*what.lines[:12], f"... {len(what.lines) - 32} lines ...", *what.lines[-20:]]
    )
    lines += ["```console", f"$ {what.command}", *shown, "```", f"exit code {what.code}, {what.seconds:.1f} s", ""]


def played(place: Path) -> list[str]:
    """The lines of the transcript."""
    lines, home = ABOUT.splitlines() + [""], place / "bnfold"
    outside = {"HOME": str(place), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    outside |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    inside = outside | {"PATH": f"{home / '.venv/bin'}{os.pathsep}{outside['PATH']}"}
    lines += ["## Install", ""]
    written(lines, seen(f"git clone --quiet {ROOT} bnfold && cd bnfold", place, outside))
    for command in INSTALL:
        written(lines, seen(command, home, outside))
    own_models(home)
    for task, commands in TASKS.items():
        lines += [f"## {task}", ""]
        for command in commands:
            written(lines, seen(command, home, inside))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TRANSCRIPT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        lines = [line.replace(place, "~").replace(str(ROOT), "REPOSITORY") for line in played(Path(place))]
    asked.out.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
