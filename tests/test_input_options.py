"""What a person says of inputs to `verify`: shapes in every spelling, sizes of dimensions, files of data, a budget."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.benchmarking.settings import settings
from bnfold.errors import ModelProblem, UsageProblem
from bnfold.folding import driver
from bnfold.runtime.input_options import combinations, input_sets, parse_dim, parse_shape, require_dims
from bnfold.runtime.inputs import Case, cases, feeds
from bnfold_cli.main import run
from tests.test_verify_inputs import parse

rng = np.random.default_rng(0)
W = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
BN = {name: np.abs(rng.standard_normal(4)).astype(np.float32) + 0.5 for name in ("g", "b", "m", "v")}
NET = parse("c = Conv (x, w) y = BatchNormalization (c, g, b, m, v)", w=W, **BN)


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    onnx.save(NET, tmp_path / "a.onnx")
    onnx.save(driver.fold(NET).model, tmp_path / "b.onnx")
    return str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x:1,3,224,224", {"x": (1, 3, 224, 224)}),
        ("x=1,3,224,224", {"x": (1, 3, 224, 224)}),
        ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),
        ("x:[1, 3, 224, 224]", {"x": (1, 3, 224, 224)}),
        ("x:(1,3)", {"x": (1, 3)}),
        ("image:0:1,3", {"image:0": (1, 3)}),
        ("1,3,224,224", {"": (1, 3, 224, 224)}),
        ("[8]", {"": (8,)}),
        ("x:1x3,y:1x2", {"x": (1, 3), "y": (1, 2)}),
        ("x:[1,3] mask:[1,2]", {"x": (1, 3), "mask": (1, 2)}),
        ("in:1,3,y:7", {"in": (1, 3), "y": (7,)}),
    ],
)
def test_a_shape_is_read_in_every_spelling_in_use(text: str, found: dict[str, tuple[int, ...]]) -> None:
    assert parse_shape(text) == found


@pytest.mark.parametrize("text", ["", "x", "x:", "x:1,-1", "x:0,3", "x:1,,3", "x:1,a", "x:1.5"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="is not NAME:SIZES"):
        parse_shape(text)


def test_a_dimension_takes_one_size_or_several() -> None:
    assert parse_dim("N=8") == ("N", (8,))
    assert parse_dim("x/0=1, 8") == ("x/0", (1, 8))
    for text in ("N", "=3", "N=", "N=0", "N=1,x"):
        with pytest.raises(UsageProblem, match="is not NAME=SIZE"):
            parse_dim(text)


def test_sizes_are_combined_and_checked_against_the_model() -> None:
    assert combinations(NET.graph, {}, {}) == [{}]
    assert combinations(NET.graph, {"N": [1, 8]}, {"": [2, 3, 9, 7]}) == [
        {"N": 1, "H": 9, "W": 7},
        {"N": 8, "H": 9, "W": 7},
    ]
    for dims, shapes, words in (
        ({"B": [1]}, {}, "no dynamic dimension 'B'"),
        ({}, {"z": [1]}, "no input 'z'"),
        ({}, {"x": [1, 4, 8, 8]}, r"cannot have the shape \[1, 4, 8, 8\]"),
        ({}, {"x": [1, 3, 8]}, r"cannot have the shape \[1, 3, 8\]"),
    ):
        with pytest.raises(UsageProblem, match=words):
            combinations(NET.graph, dims, shapes)


def test_every_size_of_the_options_is_used() -> None:
    planned = cases("fast", 0, [{"N": n} for n in (1, 2, 3, 4, 5)])
    assert [dict(case.sizes)["N"] for case in planned] == [1, 2, 3, 4, 5]
    assert len({(case.distribution, case.seed) for case in planned}) == 5
    assert [feeds(NET.graph, case, {"*": 8})["x"].shape[0] for case in planned] == [1, 2, 3, 4, 5]
    assert str(planned[4]) == "wide, seed 3, N 5"


def test_an_input_of_unknown_rank_takes_the_shape_of_the_options() -> None:
    model = parse("y = Relu (x)", "float[1] x")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    (sizes,) = combinations(model.graph, {}, {"x": [4, 5, 6]})
    assert feeds(model.graph, Case("normal", 0, 1, sizes=tuple(sizes.items())), {})["x"].shape == (4, 5, 6)


def test_inputs_come_from_npz_npy_and_test_data_and_run_first(models: tuple[str, str], tmp_path: Path) -> None:
    x = rng.standard_normal((3, 3, 9, 11))
    data = tmp_path / "data"
    (data / "test_data_set_0").mkdir(parents=True)
    np.savez(data / "a.npz", x=x)
    np.save(data / "b.npy", x[:1].astype(np.float32))
    tensor = numpy_helper.from_array(x.astype(np.float32))
    (data / "test_data_set_0" / "input_0.pb").write_bytes(tensor.SerializeToString())
    found = bnfold.verify(*models, inputs=[data])
    assert found.passed
    off = found.levels[0].cases
    assert [Path(case).name for case in off[:3]] == ["a.npz", "b.npy", "test_data_set_0"]
    assert off[3:] == ("normal, seed 0, batch 2", "wide, seed 0, batch 1", "uniform, seed 0, batch 2")
    assert input_sets([str(data / "test_data_set_0")]) == [str(data / "test_data_set_0")]


def test_data_that_does_not_fit_is_named(models: tuple[str, str], tmp_path: Path) -> None:
    for name, arrays, words in (
        ("other", {"z": np.zeros(3)}, "has no x"),
        ("more", {"x": np.zeros((1, 3, 8, 8)), "z": np.zeros(1)}, "has z, which no input is called"),
        ("type", {"x": np.zeros((1, 3, 8, 8), np.int64)}, "'x' is int64"),
        ("shape", {"x": np.zeros((1, 4, 8, 8))}, "cannot have the shape"),
        ("small", {"x": np.zeros((1, 3, 1, 1))}, "the original does not run on"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ModelProblem, match=words):
            bnfold.verify(*models, inputs=[tmp_path / f"{name}.npz"])
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    for name in ("pickled.npy", "a.onnx", "empty", "nowhere.npz"):
        with pytest.raises(ModelProblem, match=r"cannot be read|holds no|no data at"):
            bnfold.verify(*models, inputs=[tmp_path / name])


def test_the_command_line_takes_shapes_dimensions_and_files(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", rng.standard_normal((1, 3, 8, 8)))
    chosen = ["--inputs", str(tmp_path / "x.npy"), "--dim", "N=1,8", "--shape", "x:4,3,17,9"]
    assert run(["verify", *models, *chosen, "--json", "-"]) == 0
    report = capsys.readouterr().out
    assert "x.npy" in report
    assert "normal, seed 0, N 1, H 17, W 9" in report
    assert "wide, seed 0, N 8, H 17, W 9" in report
    assert run(["verify", *models, "--shape", "x:4,5"]) == 2
    assert "The model states [N, 3, H, W] for it." in capsys.readouterr().err


def test_after_the_budget_nothing_more_is_begun_and_the_notes_say_what_was_skipped(models: tuple[str, str]) -> None:
    found = bnfold.verify(*models, budget_s=1e-9)
    assert (found.verdict, found.reasons[0]) == (
        "INCONCLUSIVE",
        "what node 'c' (Conv) of A does was not tried: the time allowed is over",
    )
    assert [len(level.cases) for level in found.levels] == [1, 1]
    assert "1 of 4 inputs were used: the time allowed is over" in found.notes
    assert "algebra and isolated fold sites were skipped: the time allowed is over" in found.notes


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([], "no size for the dimension 'N'"), ([1.5], "a size of N is 1.5"), ([True], "a size of N is True")],
)
def test_sizes_from_python_are_whole_numbers_one_at_least(sizes: list[Any], words: str) -> None:
    for call in (bnfold.verify, bnfold.bench):
        with pytest.raises(UsageProblem, match=re.escape(words)):
            call(NET, NET, dims={"N": sizes})
    with pytest.raises(UsageProblem, match="a size of x is '3'"):
        bnfold.verify(NET, NET, shapes={"x": ["3", 3, 8, 8]})  # type: ignore[list-item]


def test_sizes_may_be_numbers_of_numpy() -> None:
    (one,) = settings(["off"], ["cpu"], None, {"N": np.int64(2)})
    assert json.loads(json.dumps(one.to_json()))["dims"] == [["N", 2]]
    assert require_dims({"N": np.array([1, 8])}) == {"N": [1, 8]}
