"""BatchNormalization around activations that are quantized: what may fold folds exactly, and the rest has its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import driver
from tests.build import operators

QONNX = "qonnx.custom_op.general"
RNG = np.random.default_rng(0)
STORED: dict[str, Any] = {
    "s": np.float32(0.05), "z": np.uint8(128), "W": np.float32(RNG.standard_normal((4, 4, 3, 3))),
    "Q": RNG.integers(-100, 100, (4, 4, 3, 3)).astype(np.int8), "sq": np.float32(0.01), "zq": np.int8(0),
    "M": RNG.integers(-100, 100, (4, 4)).astype(np.int8), "k": np.float32(0.01), "kc": np.float32(RNG.random((1, 4, 1, 1))),
    "kn": np.float32(RNG.random(4)), "bias": np.float32(RNG.standard_normal((4, 1, 1))), "bits": np.float32(8), "zero": np.float32(0),
    "bn": np.float32(RNG.standard_normal(4)), "half": np.float32(0.5), "third": np.float32(0.3), "minus": np.float32(-0.5),
    "g": np.float32([1, -0.5, 2, 1.5]), "b": np.float32([1, 0.2, -1, 0.5]), "m": np.float32([0.1, 0, -0.3, 1]), "v": np.float32([1, 2, 0.5, 1]),
}  # fmt: skip
DYNAMIC = "xq xs xz = DynamicQuantizeLinear x; i = ConvInteger xq Q xz; f = Cast i; k2 = Mul xs {k}; p = Mul f k2; "
PRODUCT = DYNAMIC.replace("ConvInteger xq Q", "MatMulInteger xq M")
PER_TENSOR = "the activation scale of {} is per tensor, and the affine varies over channels"
FOREIGN = f"Quant 'w' of {QONNX} quantizes by rules of its own, and stays as it is"
CHAIN = ["DynamicQuantizeLinear", "ConvInteger", "Cast", "Mul", "Mul"]


def built(
    text: str, shape: tuple[int, ...] = (2, 4, 6, 6), kind: int = TensorProto.FLOAT, **other: Any
) -> onnx.ModelProto:
    """A model of lines `y = Operator x constants`, the last of which makes y; constants of `other` values."""
    nodes = []
    for line in text.split(";"):
        made, (operator, *read) = (part.split() for part in line.split("="))
        operator, read = ("BatchNormalization", [*read, *"gbmv"]) if operator == "BN" else (operator, read)
        settings = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
        domain = QONNX if operator == "Quant" else ""
        nodes.append(helper.make_node(operator, read, made, name=made[0], domain=domain, **settings))
    used = {name: np.asarray(v) for name, v in {**STORED, **other}.items() if any(name in node.input for node in nodes)}
    real = helper.tensor_dtype_to_np_dtype(kind)
    tensors = [
        numpy_helper.from_array(v.astype(real) if v.dtype == np.float32 else v, name) for name, v in used.items()
    ]
    info = helper.make_tensor_value_info
    ends = [info("x", kind, shape)], [info("y", kind, [f"d{i}" for i in range(len(shape))])]
    imports = [helper.make_opsetid("", 19), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, tensors), opset_imports=imports, ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def drawn(*shape: int) -> np.ndarray:
    return np.float32(RNG.standard_normal(shape))


@pytest.mark.parametrize("k", ["k", "kc"])
@pytest.mark.parametrize("add", ["", "p2 = Add p bias; "])
def test_integer_convolutions_with_measured_scales_fold_into_the_scale_of_the_weight(k, add):
    """What onnxruntime's dynamic quantization writes: the factor of the Mul becomes one for each channel."""
    original = built(DYNAMIC.format(k=k) + add + f"y = BN {'p2' if add else 'p'}")
    original.graph.value_info.append(helper.make_tensor_value_info("k2", TensorProto.FLOAT, STORED[k].shape))
    result = driver.fold(original)
    assert (operators(result.model), result.batch_norms_kept) == ([*CHAIN, "Add"], ())
    onnx.checker.check_model(result.model, full_check=True)
    x = drawn(2, 4, 6, 6)
    np.testing.assert_allclose(run(result.model, x), run(original, x), rtol=2e-5, atol=2e-5)
    assert bnfold.verify(original, result.model, untouched=result.sites).passed


@pytest.mark.parametrize("k", ["k", "kn"])
def test_integer_products_with_measured_scales_do_likewise(k):
    original = built(PRODUCT.format(k=k) + "p2 = Add p bn; y = BN p2", (3, 4))
    result = driver.fold(original)
    assert operators(result.model) == [*CHAIN[:1], "MatMulInteger", *CHAIN[2:], "Add"]
    x = drawn(3, 4)
    np.testing.assert_allclose(run(result.model, x), run(original, x), rtol=2e-5, atol=2e-5)
    assert bnfold.verify(original, result.model, untouched=result.sites).passed


def test_a_scale_that_others_read_stays_one_number():
    text = DYNAMIC.format(k="k") + "n = BN p; e = Mul n k2; y = Relu e"
    (kept,) = driver.fold(built(text)).batch_norms_kept
    assert kept.not_hoisted.words == "Mul 'p' of computed tensors is not linear: a scale may cross it, but no shift"


def ties(scale: float) -> np.ndarray:
    """Numbers at, and next to, every place where one of all codes of eight bits becomes another, and beyond the ends."""
    middle = np.float32((np.arange(-140, 140) + 0.5) * scale)
    near = [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    return np.concatenate(near).reshape(1, 4, -1, 1)


@pytest.mark.parametrize("power", [-3, -1, 1, 4])
def test_a_power_of_two_changes_no_code(power):
    x, factor = ties(0.05 / 2.0**power), np.float32(2.0**power)
    original = built("n = Mul x half; q = QuantizeLinear n s z; y = DequantizeLinear q s z", x.shape, half=factor)
    result = driver.fold(original)
    assert operators(result.model) == ["QuantizeLinear", "DequantizeLinear"]
    assert np.array_equal(run(result.model, x), run(original, x))


@pytest.mark.parametrize("power", [-3, -1, 1, 4])
def test_a_power_of_two_crosses_a_measured_quantization_into_the_scale_after_it(power):
    text = "n = Mul x half; " + DYNAMIC.format(k="k").replace("Linear x", "Linear n").replace("p =", "y =").rstrip("; ")
    original = built(text, half=np.float32(2.0**power))
    result = driver.fold(original)
    assert operators(result.model) == CHAIN
    for seed in range(5):
        x = np.float32(np.random.default_rng(seed).standard_normal((2, 4, 6, 6)) * 10.0 ** (seed - 2))
        assert np.array_equal(run(result.model, x), run(original, x))


def test_another_scale_would_change_codes():
    """Why it is refused: at a tie, rounding x * 0.3 first makes another code than a scale that is divided by 0.3."""
    x = ties(0.05 / 0.3)
    original = built("n = Mul x third; q = QuantizeLinear n s z; y = DequantizeLinear q s z", x.shape)
    divided = np.float32(np.float64(np.float32(0.05)) / np.float64(np.float32(0.3)))
    moved = built("q = QuantizeLinear x third z; y = DequantizeLinear q s z", x.shape, third=divided)
    assert not np.array_equal(run(original, x), run(moved, x))
    assert [kept.operator for kept in driver.fold(original).kept] == ["Mul"]


REFUSED = {  # the model, the direction, and what is said
    "BN before a quantized Conv": ("n = BN x; q = QuantizeLinear n s z; d = DequantizeLinear q s z; y = Conv d W", "not_sunk",
        PER_TENSOR.format("QuantizeLinear 'q'")),
    "BN before an integer Conv": ("n = BN x; q = QuantizeLinear n s z; c = QLinearConv q s z Q sq zq s z; y = DequantizeLinear c s z", "not_sunk",
        PER_TENSOR.format("QuantizeLinear 'q'")),
    "BN before measured scales": ("n = BN x; xq xs xz = DynamicQuantizeLinear n; i = ConvInteger xq Q xz; f = Cast i; y = Mul f xs", "not_sunk",
        PER_TENSOR.format("DynamicQuantizeLinear 'xq'")),
    "BN after a quantized output": ("c = Conv x W; q = QuantizeLinear c s z; d = DequantizeLinear q s z; y = BN d", "not_hoisted",
        PER_TENSOR.format("DequantizeLinear 'd'")),
    "BN after an integer Conv": ("q = QuantizeLinear x s z; c = QLinearConv q s z Q sq zq s z; d = DequantizeLinear c s z; y = BN d", "not_hoisted",
        PER_TENSOR.format("DequantizeLinear 'd'")),
    "BN after an integer product": ("q = QuantizeLinear x s z; c = QLinearMatMul q s z M sq zq s z; d = DequantizeLinear c s z; y = BN d",
        "not_hoisted", PER_TENSOR.format("DequantizeLinear 'd'")),
    "BN after a Quant of the weight": ("w = Quant W sq zero bits; c = Conv x w; y = BN c", "not_hoisted", FOREIGN),
    "BN before a Quant": ("n = BN x; w = Quant n sq zero bits; y = Conv w W", "not_sunk", FOREIGN),
    "a shift before": ("n = Add x half; q = QuantizeLinear n s z; y = DequantizeLinear q s z", "not_sunk",
        "QuantizeLinear 'q' rounds to integers, among which a shift has no exact place"),
    "a shift before measured scales": ("n = Add x half; xq xs xz = DynamicQuantizeLinear n; y = DequantizeLinear xq xs xz", "not_sunk",
        "DynamicQuantizeLinear 'xq' rounds to integers, among which a shift has no exact place"),
    "a shift after": ("q = QuantizeLinear x s z; d = DequantizeLinear q s z; y = Add d half", "not_hoisted",
        "DequantizeLinear 'd' reads integers that QuantizeLinear 'q' makes at run time, among which a shift has no exact place"),
    "no power of two": ("n = Mul x third; q = QuantizeLinear n s z; y = DequantizeLinear q s z", "not_sunk",
        "QuantizeLinear 'q' rounds float32 to integers, and would make others of some numbers: only a scale that is a power of two, in "
        "float32, is exact"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_place_among_integers_stays_and_says_so(name):
    text, way, words = REFUSED[name]
    original = built(text, (4, 4) if "product" in name else (2, 4, 6, 6))
    result = driver.fold(original)
    assert result.model.SerializeToString() == original.SerializeToString()
    (kept,) = result.kept
    reason = getattr(kept, way)
    assert (reason.code, reason.words) == ("INTEGERS", words)


def test_a_negative_power_of_two_stays():
    (kept,) = driver.fold(built("n = Mul x minus; q = QuantizeLinear n s z; y = DequantizeLinear q s z")).kept
    assert kept.not_sunk.code == "NEGATIVE_SCALE"


def test_float16_has_not_the_range_for_a_power_of_two():
    model = built("n = Mul x half; q = QuantizeLinear n s z; y = DequantizeLinear q s z", kind=TensorProto.FLOAT16)
    (kept,) = driver.fold(model).kept
    assert kept.not_sunk.code == "INTEGERS"


def test_a_layer_before_a_quantized_activation_folds():
    original = built("c = Conv x W; n = BN c; r = Relu n; q = QuantizeLinear r s z; y = DequantizeLinear q s z")
    assert operators(driver.fold(original).model) == ["Conv", "Relu", "QuantizeLinear", "DequantizeLinear"]


def test_a_quant_of_the_data_lets_its_neighbours_fold():
    """The shape of what a Quant makes is known, so that the layers around it fold as if it were an Identity."""
    original = built("a = Quant x sq zero bits; d = Relu a; n = BN d; c = Conv n W; y = Quant c sq zero bits")
    result = driver.fold(original)  # no runtime here knows the operator
    assert operators(result.model) == ["Quant", "Relu", "Conv", "Quant"]
    assert result.notes == (f"quantizers of other tools stay as they are: Quant of {QONNX} (2)",)
