"""The commands of README.md, CONTRIBUTING.md, docs/ and the READMEs in bnfold/ and samples/: which there are, and how each is tried.

A command of bnfold is run, on small models in place of those that a page names. `python -m tests...` measures for minutes to
hours: that the module is there and knows the options is looked up. What is not run at all is in NOT_RUN, with the reason.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.shape_of_the_code import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "tests/attacks/README.md"]
PAGES += sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("bnfold/*/README.md"), *ROOT.glob("samples/**/README.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^\n((?:    .+\n)+)", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
FIRST = re.compile(r"(?:bnfold|python3?|pip|docker|torchrun|pytest|mkdocs|ruff|mypy|coverage) |\.?\.venv/")
SHELL = ("sh", "bash", "console")
NOT_RUN = {  # what begins so, and why
    "python3 -m venv": "needs a package index: .ci/run and tests.first_ten_minutes install so",
    "pip install": "needs a package index: .ci/run and tests.first_ten_minutes install so",
    ".venv/bin/": "needs a package index: .ci/run runs these very lines",
    "docker run": "needs Docker: tests/test_pipelines.py reads the Dockerfile",
    "torchrun": "needs two processes of PyTorch: tests/test_train_ranks.py starts them",
    "mkdocs serve": "does not end: tests/test_docs.py builds the pages",
    "pytest -m gpu": "needs a GPU",
    "pytest": "the tests themselves",
    "python -m pytest": "the tests themselves",
    "python -m olive": "needs olive-ai: tests/test_sample_olive.py runs it where that is installed",
    "ruff": "checked before each commit, by .pre-commit-config.yaml",
    "coverage": "the tests themselves, for half an hour",
    "bnfold train --arch networks.py:last": "sample: tests/test_sample_paper_understanding.py trains the same network",
    "bnfold verify model.onnx out/model.onnx": "reads what Olive made: tests/test_sample_olive.py",
    "bnfold evaluate --data cifar10": "a data set that would be downloaded: tests/test_evaluate.py has data sets",
    "bnfold evaluate NET0.onnx": "names parts that are up to the reader: tests/test_evaluate.py has several models and crops",
}
LONG = {  # console and bash blocks, which tests run with --quick
    "python paper_mnist.py": "15 minutes",
    "python new_domain.py": "3 minutes",
    "python quantized.py": "5 minutes",
    "OMP_NUM_THREADS=1 python understanding.py --out here": "17 minutes",
    "python understanding.py --quick --out quick": "tests/test_sample_paper_understanding.py runs it",
    "python ensemble.py --out FOLDER": "10 minutes",
    "python learning_rates.py --out FOLDER": "40 minutes",
    "python against_timm.py": "slow: tests/test_readme.py -m slow",
}
SHORTER = {  # of a command, what is put in place of what takes long
    "--budget 60": "--budget 1",
    "--budget 120": "--budget 1",
    "bnfold bench ": "bnfold bench --launches 2 --budget 1 --no-cold ",
    "bnfold train ": "bnfold train --epochs 1 ",
}


@dataclass(frozen=True)
class Command:
    """A command on a page: from a block, whose commands run one after another, or from a sentence."""

    page: str
    text: str
    block: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def is_a_name(self) -> bool:
        """`bnfold fold`, `bnfold verify --json`: the name of a command or an option, not a command to type."""
        words = self.words
        needs_none = words[1:] in (["doctor"], ["train"], ["--install-completion"])
        return words[0] == "bnfold" and all(word.startswith("-") for word in words[2:]) and not needs_none

    @property
    def why_not(self) -> str:
        """Why it is not run; empty where it is."""
        return next((why for start, why in NOT_RUN.items() if self.text.startswith(start)), "")

    @property
    def shorter(self) -> str:
        text = f"{self.text} "
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        return text.strip()


def commands(page: Path) -> list[Command]:
    """All commands on a page, those of blocks first."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    prose = FENCE.sub("", text)
    blocks = [body for kind, body in FENCE.findall(text) if kind in SHELL]
    blocks += [body for body in INDENTED.findall(prose) if FIRST.match(body.strip())]
    typed = [Command(name, line, True) for body in blocks for line in lines(body)]
    said = dict.fromkeys(" ".join(each.split()) for each in INLINE.findall(prose))
    return typed + [Command(name, each, False) for each in said if FIRST.match(each) and "<" not in each]


def lines(block: str) -> Iterator[str]:
    """The commands of a block: what a prompt stands before, where there is one; lines that go on are joined."""
    joined = block.replace("\\\n", " ").splitlines()
    prompts = [line[2:] for line in joined if line.startswith("$ ")]
    for line in prompts or joined:
        if line.strip() and not line.startswith("#"):
            yield line.partition("   #")[0].strip()


@cache
def usage(module: str) -> str:
    """What `python -m MODULE --help` shows; the text of the module itself where it takes no options."""
    path = ROOT / module.replace(".", "/")
    source = next(each for each in (path.with_suffix(".py"), path / "__main__.py") if each.exists()).read_text()
    if "argparse" not in source:
        return source
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
