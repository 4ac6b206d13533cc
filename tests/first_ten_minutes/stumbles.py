"""The fifteen stumbles of newcomers: what happened then, the commands that led there, and what has to be seen now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.first_ten_minutes.terminal import SIZE, Seen

WIDTH = SIZE[1]
CONFUSING = ("Traceback", r"\de\+0[3-9]", "please report", "defect of bnfold")  # in no output at all


class Step(NamedTuple):
    """A command, and the exit codes that it may have."""

    command: str
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Stumble:
    """`then` is what happened; `shows` are patterns of the whole output now, `most` the lines it may have."""

    title: str
    then: str
    steps: tuple[Step, ...]
    shows: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    most: int = 60
    hint: str = ""  # a command that some output has to name, word for word, and that is a step
    alike: tuple[str, ...] = ()  # patterns with one group, which is the same in all of them

    def problems(self, seen: Sequence[Seen]) -> list[str]:
        """What is still confusing, in sentences."""
        text = "\n".join(line for each in seen for line in each.lines)
        flat = " ".join(text.split())
        wrong = [
            f"{s.command}: exit code {s.code}"
            for s, step in zip(seen, self.steps, strict=True)
            if s.code not in step.codes
        ]
        wrong += [f"nothing says {pattern}" for pattern in self.shows if not re.search(pattern, flat)]
        wrong += [f"{pattern} is said" for pattern in (*self.never, *CONFUSING) if re.search(pattern, flat)]
        wrong += [f"{len(each.lines)} lines of {each.command}" for each in seen if len(each.lines) > self.most]
        ours = [line for each in seen if each.command.startswith("bnfold") for line in each.lines]
        wrong += [f"a line of {len(line)} columns: {line}" for line in ours if len(line) > WIDTH]
        counts = [set(re.findall(pattern, flat)) for pattern in self.alike]
        wrong += [f"different counts: {counts}"] if any(len(each) != 1 or each != counts[0] for each in counts) else []
        return [f"{self.title}: {each}" for each in wrong + ([] if self.hint in flat else [f"no hint {self.hint}"])]


def of(*commands: str | tuple[str, int]) -> tuple[Step, ...]:
    """Steps that have to end with 0, or with the code that is named."""
    return tuple(Step(each) if isinstance(each, str) else Step(each[0], each[1:]) for each in commands)


FIRST = Stumble(
    "The first proved fold",
    "The first command installed PyTorch, 5.5 GB, of which folding needs nothing; the first fold came after 2 1/4 minutes.",
    of("python3 -m venv .venv", '. .venv/bin/activate && pip install --quiet ".[gpu]"', "bnfold fold text.onnx"),
    shows=("PASS, (proved for all inputs|measured on)", "wrote text.folded.onnx"),
)
README = Stumble(
    "A README of two screens",
    "It had 4,364 words, and the first fold was on its third page.",
    of("wc -w README.md", "grep -n -o -m 1 'bnfold fold [a-z.]*' README.md"),
    shows=(r"\b1?\d{2,3} README.md",),
)
FOLDER = Stumble(
    "A folder of models",
    "Its subfolders were left out without a word, and a folder in place of a model was an error without a way on.",
    of(("bnfold fold nets", 2, 3), "bnfold fold nets --out-dir folded"),
    shows=("nets/vision/branches.onnx", "skipped"),
    hint="bnfold fold nets --out-dir folded",
)
HINT = Stumble(
    "Hints that work when pasted",
    "Some hints named a command that failed in turn.",
    of(
        ("bnfold fold text.onnx", 2),
        "bnfold fold text.onnx --force",
        ("bnfold fold tekst.onnx", 3),
        "bnfold explain --code SHARED",
    ),
    shows=("--force replaces it", "Paths are relative to the current directory"),
)
NOTHING = Stumble(
    "Nothing to fold",
    "A network that PyTorch's exporter had folded was an error, with a hint at a command that does not apply to it.",
    of("bnfold fold finished.onnx"),
    shows=("already folded: no BatchNormalization", "optimize=False", "copied unchanged to finished.folded.onnx"),
)
EXPLAIN = Stumble(
    "Why DenseNet keeps 62",
    "`explain` printed 681 lines.",
    of("bnfold explain densenet121.onnx"),
    shows=("BatchNormalization: 121 before, 62 after", "-v"),
    most=25,
)
COUNTS = Stumble(
    "One count",
    "`explain`, the table of `fold` and its report gave three different counts for one model.",
    of(
        "bnfold explain faces.onnx",
        "bnfold fold faces.onnx",
        "bnfold fold faces.onnx --force --strict --json faces.json -q || true",
    )
    + of(
        "python -c \"import json; r = json.load(open('faces.json')); print('JSON:', *(r[w]['batch_normalizations'] for w in ('before', 'after')))\""
    ),
    alike=(
        r"BatchNormalization: (\d+) before, \d+ after",
        r"before after \S+ BatchNormalization (\d+)",
        r"JSON: (\d+) \d+",
    ),
)
ADVICE = Stumble(
    "Advice that leads somewhere",
    "A BatchNormalization before a SiLU was kept with NO_BIAS, and no bias could have helped.",
    of("bnfold explain silu.onnx", "bnfold explain --code NONLINEAR"),
    shows=("NONLINEAR: ", "what you can do", "directly after the Conv"),
    never=("NO_BIAS",),
)
ERRORS = Stumble(
    "Errors in proportion",
    "Absolute errors of 9.5e+05 stood next to PASS, of outputs that are as large.",
    of("bnfold fold huge.onnx", "bnfold verify huge.onnx huge.folded.onnx"),
    shows=("error / size of the outputs", "PASS, proved for all inputs"),
)
UNPROVED = Stumble(
    "Not verified",
    "`--verify off` said nothing about what was left out.",
    of("bnfold fold branches.onnx --verify off", "bnfold fold branches.onnx --force"),
    shows=("NOT VERIFIED", "PASS, proved for all inputs"),
)
BENCH = Stumble(
    "Is it faster?",
    "UNSTABLE stood next to each row, also next to a clear verdict; a time limit was called a crash of onnxruntime.",
    of("bnfold bench branches.onnx branches.folded.onnx")
    + (Step("bnfold bench branches.onnx branches.folded.onnx --quick --fail-if slower:900%", (0, 5)),),
    shows=("Median latency", r"(FASTER|EQUIVALENT|SLOWER|INCONCLUSIVE|UNTRUSTED) at onnxruntime's default"),
    never=("does not survive", "(FASTER|SLOWER) .{0,60}UNSTABLE"),
)
CONVENTIONS = Stumble(
    "What every command knows",
    "`bnfold` alone was an error, `python -m bnfold` and `-V` were none of its.",
    of("bnfold | head -4", "bnfold -V", "python -m bnfold --version", ("bnfold fold text.onnx --verify maybe", 2)),
    shows=(r"Usage: ", r"bnfold \d+\.\d+\.\d+", "'fast', 'full', 'off'"),
)
DATA_FILES = Stumble(
    "A model with a data file",
    "Its weights went into two places: what changed into the .onnx, the rest stayed outside.",
    of("bnfold fold large.onnx", "ls large.onnx* large.folded.onnx*"),
    shows=("data files", r"large.folded.onnx.data"),
)
PICTURES = Stumble(
    "Pictures for a model of somebody else",
    "Without metadata of bnfold a folder of pictures was refused.",
    of(("bnfold recalibrate resnet18.onnx --data photos", 3))
    + of(("bnfold recalibrate resnet18.onnx --data photos --preset imagenet", 4, 0), "pip install -q pillow")
    + of("bnfold recalibrate resnet18.onnx --data photos --preset imagenet --force"),
    shows=("--preset", "Statistics of 24 samples", "wrote resnet18.recalibrated.onnx"),
)
OWN_INPUTS = Stumble(
    "On my own inputs",
    "Data of one's own could be used by `verify` only, after the fold.",
    of("bnfold fold branches.onnx --inputs inputs --force"),
    shows=("PASS, proved for all inputs",),
)
PYTHON = Stumble(
    "In Python",
    "`bnfold.fold` verified nothing, `bnfold.bench` was a module, `bnfold.fold(3)` an AttributeError.",
    of(
        "python -c \"import bnfold; r = bnfold.fold('branches.onnx'); print(r, callable(bnfold.bench))\"",
        ('python -c "import bnfold; bnfold.fold(3)" 2>&1 | tail -1', 0),
    ),
    shows=("PASS, proved", "True", "TypeError: a model is a path"),
)
STUMBLES = (README, FOLDER, HINT, NOTHING, EXPLAIN, COUNTS, ADVICE, ERRORS, UNPROVED)
STUMBLES += (BENCH, CONVENTIONS, DATA_FILES, PICTURES, OWN_INPUTS, PYTHON)
