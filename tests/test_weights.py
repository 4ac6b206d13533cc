"""Verification: the weights of one layer, compared directly; what has another form is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from bnfold.folding import driver
from bnfold.verification.proof import weights
from bnfold.verification.proof.claims import Cuts, piece
from bnfold.verification.proof.examples import examples
from bnfold.verification.proof.indexed_model import IndexedModel
from bnfold.verification.proof.scale_and_shift import NotOneLayer
from tests.verify_nets import EPSILON, NETS, TRANSPOSE, Net, chain

RIGHT = 1 + 2.0**-10  # the correctly rounded weight, as far as float64 can show


def compared(original: onnx.ModelProto, folded: onnx.ModelProto, site: str = "n") -> tuple[float, int]:
    found = comparison(original, folded, site)
    return max(found.ratio, found.at_rest), found.responses


def comparison(original: onnx.ModelProto, folded: onnx.ModelProto, site: str) -> weights.Comparison:
    x = original.graph.input[0]
    known = examples(original, feeds(original))
    pieces = [piece(Cuts(IndexedModel(model), {x.name: x.name, "q": "q"}), site) for model in (original, folded)]
    first = weights.layer(original, pieces[0], site, known, (), np.float32)
    return weights.compare_layers(first, weights.layer(folded, pieces[1], site, known, first.made, np.float32))


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    x = model.graph.input[0]
    shape = [dim.dim_value or 2 for dim in x.type.tensor_type.shape.dim]
    return {x.name: np.zeros(shape, helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type))}


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
@pytest.mark.parametrize("bias", [True, False])
def test_a_faultless_fold_is_the_correctly_rounded_one(net: Net, bias: bool) -> None:
    made = net.weights(0)
    ratio, numbers = compared(net.original(made, EPSILON, bias), net.folded(net.fold(made, EPSILON, bias)))
    assert 0 < ratio <= RIGHT
    assert numbers == made["w"].size + net.channels


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
@pytest.mark.parametrize("constant", ["w", "b"])
def test_every_stored_number_counts(net: Net, constant: str) -> None:
    made = net.weights(0)
    right = net.fold(made)
    for place in range(right[constant].size):
        wrong = {name: value.copy() for name, value in right.items()}
        flat = wrong[constant].reshape(-1)
        flat[place] = np.nextafter(np.nextafter(flat[place], np.float32(9)), np.float32(9))
        assert compared(net.original(made), net.folded(wrong))[0] > RIGHT, place


@pytest.mark.parametrize("site", ["n", "r"])
@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_a_bias_that_all_but_cancels_is_judged_by_what_it_is_the_sum_of(net: Net, site: str) -> None:
    """As folded in float32: the correctly rounded bias is far better. A bias that is wrong is off by that, too."""
    made = net.weights(0)
    made["mean"] = made["b"] * np.float32(1 + 1e-3)
    made["shift"] = np.zeros(net.channels, np.float32)
    s = made["scale"] / np.sqrt(made["var"] + np.float32(EPSILON))
    right = {**net.fold(made), "b": made["b"] * s - made["mean"] * s}
    wrong = {**right, "b": right["b"] * np.float32(1.1)}
    found = [comparison(net.original(made), net.folded(each), site) for each in (right, wrong)]
    assert found[0].effect < 4 < 100 < found[0].at_rest
    assert found[1].effect > 100


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_a_small_weight_is_not_nothing(net: Net) -> None:
    made = net.weights(0)
    made["w"] *= np.float32(1e-9)
    wrong = {name: value.copy() for name, value in net.fold(made).items()}
    wrong["w"].reshape(-1)[0] = 0
    assert compared(net.original(made), net.folded(wrong))[0] > 100


def test_groups_are_distinguished() -> None:
    made = TRANSPOSE.weights(0)
    wrong = TRANSPOSE.fold(made)
    wrong["w"][[0, 2]] = wrong["w"][[2, 0]]
    assert compared(TRANSPOSE.original(made), TRANSPOSE.folded(wrong))[0] > 100


def constants(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


LAYERS = {  # x is [N, 4, 6]
    "before": ("m = Mul (x, s)  a = Add (m, t)  n = Conv (a, w)", {"s": (4, 1), "t": (1, 4, 1), "w": (5, 4, 3)}),
    "after": ("c = Conv <pads = [1,1]> (x, w)  d = Div (c, s)  n = Sub (d, t)", {"s": (5, 1), "t": (5, 1), "w": (5, 4, 3)}),
    "of numbers": ("c = Conv (x, w)  d = Neg (c)  n = Mul (d, s)", {"s": (), "w": (5, 4, 3)}),
    "matrix": ("c = MatMul (x, w)  d = Mul (c, s)  n = Add (d, t)", {"s": (5,), "t": (1, 1, 5), "w": (6, 5)}),
    "constants that nodes make": ("r = Transpose <perm = [1, 0]> (w)  e = Exp (s)  c = MatMul (x, r)  n = Mul (c, e)", {"s": (5,), "w": (5, 6)}),
    "moved past a Relu": ("c = Conv (x, w)  r = Relu (c)  n = Mul (r, s)", {"s": (5, 1), "w": (5, 4, 3)}),
    "of which a shift stays after a Relu": ("c = Conv (x, w)  r = Relu (c)  n = Add (r, t)", {"w": (5, 4, 3), "t": (5, 1)}),
    "moved past a pool": (
        "c = Conv (x, w)  p = MaxPool <kernel_shape = [2]> (c)  d = Mul (p, s)  n = Add (d, t)",
        {"s": (5, 1), "t": (5, 1), "w": (5, 4, 3)},
    ),
    "moved past a mean": (
        "a = Mul (x, s)  b = Add (a, t)  m = GlobalAveragePool (b)  f = Flatten (m)  n = MatMul (f, w)",
        {"s": (4, 1), "t": (4, 1), "w": (4, 5)},
    ),
    "of a sum": ("q = Abs (x)  d = Mul (x, s)  a = Add (d, q)  b = Add (a, t)  n = Conv (b, w)", {"s": (4, 1), "t": (4, 1), "w": (5, 4, 3)}),
    "rearranged": ("c = Conv (x, w)  p = Transpose <perm = [0, 2, 1]> (c)  d = Mul (p, s)  n = Add (d, t)", {"s": (5,), "t": (5,), "w": (5, 4, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_what_stands_around_an_operator_counts(name: str) -> None:
    lines, shapes = LAYERS[name]
    made = constants(**shapes)
    original = chain(lines, made)
    assert compared(original, original)[0] == 0
    for constant in made:
        moved = {k: v * np.float32(1.001) if k == constant else v for k, v in made.items()}
        assert compared(original, chain(lines, moved))[0] > 100, constant


def test_a_batch_normalization_in_front_is_folded_into_weight_and_bias() -> None:
    made = constants(g=(4,), b=(4,), m=(4,), v=(4,), w=(5, 4, 3))
    original = chain("a = BatchNormalization (x, g, b, m, v)  n = Conv (a, w)  y = Relu (n)", made)
    folded = driver.fold(original)
    assert [node.op_type for node in folded.model.graph.node] == ["Conv", "Relu"]
    assert 0 < compared(original, folded.model)[0] <= RIGHT


REFUSED = {
    "a shift enters a padded operator": ("a = Add (x, t)  n = Conv <pads = [1,1]> (a, w)", {"t": (4, 1), "w": (5, 4, 3)}),
    "treats more than channels apart": ("c = Conv <pads = [1,1]> (x, w)  n = Mul (c, s)", {"s": (5, 6), "w": (5, 4, 3)}),
    "it has branches": ("c = Conv <pads = [1,1]> (x, w)  n = Add (c, x)", {"w": (4, 4, 3)}),
    "more than one linear operator": ("c = Conv (x, w)  n = Conv (c, v)", {"w": (4, 4, 3), "v": (4, 4, 3)}),
    "does not change places with Sigmoid": ("c = Conv (x, w)  n = Sigmoid (c)", {"w": (4, 4, 3)}),
    "does not change places with Relu": (
        "c = Conv (x, w)  r = Relu (c)  a = Add (r, t)  n = Relu (a)",
        {"w": (5, 4, 3), "t": (5, 1)},
    ),
    "data is not its first input": ("n = MatMul (w, x)", {"w": (5, 4)}),
    "no product with one matrix": ("n = MatMul (x, w)", {"w": (1, 6, 5)}),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_another_form_is_refused(words: str) -> None:
    lines, shapes = REFUSED[words]
    model = chain(lines, constants(**shapes))
    with pytest.raises(NotOneLayer, match=words):
        compared(model, model)


def test_a_cast_to_integers_and_a_dropout_that_drops_are_not_elementwise() -> None:
    made = constants(w=(5, 4, 3))
    for lines in (
        "c = Conv (x, w)  i = Cast <to = 6> (c)  n = Cast <to = 1> (i)",
        "c = Conv (x, w)  n = Dropout (c, yes, yes)",
    ):
        model = chain(lines, made)
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        with pytest.raises(NotOneLayer, match="change places"):
            compared(model, model)


def test_operators_that_lay_their_taps_otherwise_are_not_compared() -> None:
    made = constants(w=(5, 4, 3))
    first, second = (chain(f"n = Conv <strides = [{step}]> (x, w)", made) for step in (1, 2))
    with pytest.raises(NotOneLayer, match="different operators"):
        compared(first, second)
