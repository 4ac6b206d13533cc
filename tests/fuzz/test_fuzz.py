"""The targets over what was found, and over a few hundred inputs that are the same every time: see README.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.model.validity import require_known
from tests.fuzz import findings
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import corpus
from tests.fuzz.targets import TARGETS, run
from tests.fuzz.wires import scrambled

KEPT = sorted((Path(__file__).parent / "kept").glob("*.onnx"))
CALM = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
seeds, numbers = st.sampled_from(corpus()), st.integers(0, 2**64 - 1)

pytestmark = pytest.mark.filterwarnings("ignore")  # onnx, NumPy and onnx-graphsurgeon on such models


@pytest.mark.parametrize("name", findings.FOUND)
@pytest.mark.parametrize("target", ["wire_format", "folding", "meaning"])
def test_what_was_found_stays_fixed(name: str, target: str) -> None:
    run(TARGETS[target], findings.FOUND[name]())


SAID = {  # what was found -> words of why it is kept
    "Gemm with an infinite beta": "beta of Gemm -> 'c' is -inf",
    "a bias that does not fit": "input 2 of Gemm -> 'c' does not have the shape that the operator needs",
    "axes in a table": "the shapes or settings of ReduceSum -> 'd' contradict what it reads or makes",
    "groups that do not part the channels": "Conv 'conv' has 3 groups of 4 channels",
    "Clip by a vector": "a setting of Clip -> 'd' is not one number",
    "Pad by a vector": "a setting of Pad -> 'd' is not one number",
    "a Tile of more than memory": "an axis would have 4398046511104 elements",
    "blocks of more than memory": "an axis would have 1099511627776 elements",
}


@pytest.mark.parametrize("name", SAID)
def test_it_is_kept_in_words(name: str) -> None:
    model = onnx.ModelProto.FromString(findings.FOUND[name]())
    (kept,) = driver.fold(model).kept
    assert SAID[name] in "; ".join(kept.reasons)


def test_names_that_are_no_text_are_refused_in_words() -> None:
    model = onnx.ModelProto.FromString(findings.FOUND["conv in bytes that are no text"]())
    with pytest.raises(ModelProblem, match=r"holds a name that is not UTF-8: b'\\xffonv'"):
        require_known(model, "m.onnx")


def test_a_cycle_in_memory_is_refused_in_words() -> None:
    model = onnx.ModelProto.FromString(findings.FOUND["a node that reads what it makes"]())
    with pytest.raises(ModelProblem, match="reads what is computed from its own output"):
        driver.fold(model)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_files_that_were_found_stay_fixed(path: Path) -> None:
    for target in ("wire_format", "folding"):
        run(TARGETS[target], path.read_bytes())


def test_seeds_are_sound_and_most_of_them_fold() -> None:
    """Else the fuzzers would look at refusals alone."""
    ended = Counter(run(TARGETS["folding"], data) for data in corpus()[::12])
    assert set(ended) == {"folded", "kept"}
    assert ended["folded"] > 0.6 * ended.total()


def test_bytes_are_read_as_protobuf_reads_them() -> None:
    ended: Counter[str] = Counter()

    @settings(CALM, max_examples=500)
    @given(seeds, numbers)
    def check(data: bytes, number: int) -> None:
        ended[run(TARGETS["wire_format"], scrambled(Random(number), data))] += 1

    check()
    assert ended["read, tensors in the file"] > 50
    assert ended["refused (3)"] > 50


def ends(target: str, examples: int) -> Counter[str]:
    """How often a target came to what, of changed models."""
    ended: Counter[str] = Counter()

    @settings(CALM, max_examples=examples)
    @given(seeds, seeds, numbers)
    def check(data: bytes, other: bytes, number: int) -> None:
        ended[run(TARGETS[target], mutated(Random(number), data, other))] += 1

    check()
    return ended


def test_changed_models_fold_or_stay_or_are_refused() -> None:
    ended = ends("folding", 150)
    assert min(ended[end] for end in ("folded", "kept", "refused (3)")) > 10


def test_changed_models_keep_their_meaning() -> None:
    ended = ends("meaning", 200)
    assert ended["same"] > 5, ended
