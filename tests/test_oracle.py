"""The oracle against torch in float64, against onnxruntime, and against onnx's own reference where that is right."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import driver
from bnfold.verification.float64 import constant_parts
from bnfold.verification.float64.oracle import CannotEvaluate, Oracle, doubled
from bnfold.verification.float64.windows import Window, conv
from tests.build import BN, bn, build
from tests.data import data_path
from tests.test_dtypes import in_type
from tests.verify_nets import evaluate

RNG = np.random.default_rng(5)


def one_node(
    op: str, inputs: dict[str, np.ndarray], opset: int = 17, domain: str = "", **attributes: object
) -> onnx.ModelProto:
    """A model of one node: the first of `inputs` is fed, the rest are stored."""
    names, fed = list(inputs), next(iter(inputs.values()))
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(names[0], helper.np_dtype_to_tensor_dtype(fed.dtype), fed.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in list(inputs.items())[1:]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)


def normal(*dims: int) -> np.ndarray:
    return RNG.standard_normal(dims).astype(np.float32)


def run(op: str, inputs: dict[str, np.ndarray], **options: object) -> np.ndarray:
    first = next(iter(inputs))
    return evaluate(one_node(op, inputs, **options), {first: inputs[first]})["y"]


def onnxruntime(op: str, inputs: dict[str, np.ndarray], **options: object) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(
        one_node(op, inputs, **options).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    first = next(iter(inputs))
    return session.run(None, {first: inputs[first]})[0]


CONVS = [
    (1, 1, {}),
    (1, 2, {"strides": [2], "pads": [1, 2]}),
    (2, 1, {"pads": [1, 1, 1, 1]}),
    (2, 2, {"strides": [2, 1], "dilations": [2, 1], "pads": [0, 1, 2, 1]}),
    (2, 4, {"pads": [1, 1, 1, 1]}),
    (3, 2, {"strides": [1, 2, 1], "pads": [1, 0, 1, 1, 0, 1]}),
]


@pytest.mark.parametrize(("rank", "group", "attributes"), CONVS)
def test_conv_is_torch_conv_in_float64(rank: int, group: int, attributes: dict[str, list[int]]) -> None:
    torch = pytest.importorskip("torch")
    x, w, b = normal(2, 4, *(9, 8, 7)[:rank]), normal(8, 4 // group, *(3,) * rank), normal(8)
    pads = attributes.get("pads", [0] * 2 * rank)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    function = getattr(torch.nn.functional, f"conv{rank}d")
    tensors = [torch.from_numpy(v.astype(np.float64)) for v in (padded, w, b)]
    expected = function(
        *tensors, stride=attributes.get("strides", 1), dilation=attributes.get("dilations", 1), groups=group
    )
    got = run("Conv", {"x": x, "w": w, "b": b}, group=group, **attributes)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-12)


TRANSPOSED = [
    (1, 1, {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 1}),
    (2, 1, {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}),
    (2, 2, {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 1}),
    (2, 4, {"stride": 2, "padding": 2, "output_padding": 1, "dilation": 2}),
    (3, 2, {"stride": 2, "padding": 1, "output_padding": 0, "dilation": 1}),
]


@pytest.mark.parametrize(("rank", "group", "geometry"), TRANSPOSED)
def test_conv_transpose_is_torch_conv_transpose_in_float64(rank: int, group: int, geometry: dict[str, int]) -> None:
    torch = pytest.importorskip("torch")
    x, w, b = normal(2, 4, *(5, 4, 3)[:rank]), normal(4, 3, *(3,) * rank), normal(3 * group)
    tensors = [torch.from_numpy(v.astype(np.float64)) for v in (x, w, b)]
    expected = getattr(torch.nn.functional, f"conv_transpose{rank}d")(*tensors, groups=group, **geometry)
    attributes = {
        "strides": [geometry["stride"]] * rank,
        "pads": [geometry["padding"]] * 2 * rank,
        "output_padding": [geometry["output_padding"]] * rank,
        "dilations": [geometry["dilation"]] * rank,
    }
    got = run("ConvTranspose", {"x": x, "w": w, "b": b}, group=group, **attributes)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-12)


IMAGE, KERNEL = normal(2, 4, 7, 6), normal(4, 4, 3, 3)
QUANTIZED = np.arange(-168, 168).reshape(2, 4, 7, 6).clip(-128, 127).astype(np.int8)
AGAINST_RUNTIME = {
    "conv same upper": ("Conv", {"x": IMAGE, "w": KERNEL}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv same lower": ("Conv", {"x": IMAGE, "w": KERNEL}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "conv valid": ("Conv", {"x": IMAGE, "w": KERNEL}, {"auto_pad": "VALID"}),
    "conv transpose output shape": (
        "ConvTranspose",
        {"x": IMAGE, "w": KERNEL},
        {"output_shape": [14, 12], "strides": [2, 2]},
    ),
    "conv transpose same": ("ConvTranspose", {"x": IMAGE, "w": KERNEL}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "max pool": ("MaxPool", {"x": IMAGE}, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "max pool ceil": ("MaxPool", {"x": IMAGE}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max pool dilated": ("MaxPool", {"x": IMAGE}, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "average pool": ("AveragePool", {"x": IMAGE}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "average pool all": (
        "AveragePool",
        {"x": IMAGE},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "average pool ceil": (
        "AveragePool",
        {"x": IMAGE},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "opset": 19},
    ),
    "average pool same": (
        "AveragePool",
        {"x": IMAGE},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    ),
    "pad that cuts": (
        "Pad",
        {"x": IMAGE},
        {"pads": [0, -1, 2, -2, 0, 0, -3, 1], "mode": "constant", "value": 2.5, "opset": 10},
    ),
    "pad that reflects": ("Pad", {"x": IMAGE}, {"pads": [0, 0, 2, 1, 0, 0, 3, 2], "mode": "reflect", "opset": 10}),
    "pad that repeats": (
        "Pad",
        {"x": IMAGE, "pads": np.array([2, -1, 1, 3]), "value": np.float32(7), "axes": np.array([-1, 1])},
        {"mode": "edge", "opset": 18},
    ),
    "pad with a value": (
        "Pad",
        {"x": IMAGE, "pads": np.array([2, -1, 1, 3]), "value": np.float32(7), "axes": np.array([-1, 1])},
        {"opset": 18},
    ),
    "softmax of opset 11": ("Softmax", {"x": IMAGE}, {"axis": 2, "opset": 11}),
    "softmax of opset 11, default axis": ("Softmax", {"x": IMAGE}, {"opset": 11}),
    "softmax of opset 13": ("Softmax", {"x": IMAGE}, {"axis": 1}),
    "log softmax of opset 11": ("LogSoftmax", {"x": IMAGE}, {"axis": 1, "opset": 11}),
    "log softmax of opset 13": ("LogSoftmax", {"x": IMAGE}, {}),
    "local response": ("LRN", {"x": IMAGE}, {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 1.5}),
    "local response, default constants": ("LRN", {"x": IMAGE}, {"size": 5}),
    "upsample nearest": ("Upsample", {"x": IMAGE, "s": np.array([1, 1, 2, 3], np.float32)}, {"opset": 9}),
    "upsample linear": (
        "Upsample",
        {"x": IMAGE, "s": np.array([1, 1, 2, 1.5], np.float32)},
        {"opset": 9, "mode": "linear"},
    ),
    "upsample of opset 7": ("Upsample", {"x": IMAGE}, {"opset": 7, "scales": [1.0, 1.0, 2.0, 2.0]}),
    "resize of opset 10": ("Resize", {"x": IMAGE, "s": np.array([1, 1, 0.5, 2], np.float32)}, {"opset": 10}),
    "resize of opset 10, linear": (
        "Resize",
        {"x": IMAGE, "s": np.array([1, 1, 0.6, 2], np.float32)},
        {"opset": 10, "mode": "linear"},
    ),
    "dequantize per axis": (
        "DequantizeLinear",
        {"x": QUANTIZED, "s": np.float32([0.1, 2, 0.3, 4]), "z": np.int8([1, -2, 3, 0])},
        {"axis": -3},
    ),
    "dequantize in blocks": (
        "DequantizeLinear",
        {"x": QUANTIZED, "s": np.abs(normal(2, 2, 7, 6)), "z": np.ones((2, 2, 7, 6), np.int8)},
        {"axis": 1, "block_size": 2, "opset": 21},
    ),
    "image scaler": ("ImageScaler", {"x": IMAGE}, {"opset": 7, "bias": [1.0, 2.0, 3.0, 4.0], "scale": 0.5}),
}


@pytest.mark.parametrize("name", AGAINST_RUNTIME)
def test_operator_agrees_with_onnxruntime(name: str) -> None:
    op, inputs, options = AGAINST_RUNTIME[name]
    expected = onnxruntime(op, inputs, **options)
    got = run(op, inputs, **options)
    assert got.dtype == np.float64
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("opset", "attributes"), [(7, {}), (7, {"spatial": 0}), (9, {"momentum": 0.7}), (14, {}), (15, {})]
)
def test_batch_normalization_of_every_opset_uses_the_stored_statistics(
    opset: int, attributes: dict[str, float]
) -> None:
    dims = (4, 7, 6) if attributes.get("spatial") == 0 else (4,)
    scale, shift, mean, var = normal(*dims), normal(*dims), normal(*dims), np.abs(normal(*dims)) + 0.1
    inputs = {"x": IMAGE, "s": scale, "b": shift, "m": mean, "v": var}
    laid = [p.astype(np.float64).reshape(dims if len(dims) > 1 else (4, 1, 1)) for p in (scale, shift, mean, var)]
    epsilon = float(np.float32(1e-5))
    expected = laid[0] * (IMAGE - laid[2]) / np.sqrt(laid[3] + epsilon) + laid[1]
    np.testing.assert_allclose(run("BatchNormalization", inputs, opset=opset, **attributes), expected, rtol=1e-9)


def test_dequantized_int32_is_not_rounded_to_float32() -> None:
    x = np.array([2**30 + 1, -(2**29) - 1], np.int32)
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT32, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32(0.5), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert evaluate(model, {"x": x})["y"].tolist() == [2**29 + 0.5, -(2**28) - 0.5]


DEEP = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[2] x, bool c) => (float[2] y, float[1] z, float[2] w) {
  k = Constant <value_float = 0.1> ()
  y = If (c) <
    then_branch = t () => (float[2] a) { h = Constant <value = float[1] {0.3}> ()  a = Mul (x, h) },
    else_branch = e () => (float[2] b) { b = Add (x, k) }
  >
  n = Constant <value_ints = [1]> ()
  s = ConstantOfShape (n)
  d = Constant <value = double[1] {0.7}> ()
  f = Cast <to = 1> (d)
  z = Add (s, f)
  w = local.third (x)
}
<domain: "local", opset_import: ["" : 17]>
third (v) => (r) { q = Constant <value_floats = [0.333333333333]> ()  r = Mul (v, q) }
"""


def test_everything_is_float64_in_subgraphs_functions_constants_and_casts() -> None:
    model = onnx.parser.parse_model(DEEP)
    feeds = {"x": np.array([1.0, 3.0], np.float32), "c": np.array(True)}
    got = evaluate(model, feeds, ["y", "z", "w", "k"])
    assert all(value.dtype == np.float64 for value in got.values())
    np.testing.assert_array_equal(got["y"], np.array([1.0, 3.0]) * float(np.float32(0.3)))
    np.testing.assert_array_equal(got["z"], [float(np.float32(0.7))])  # a Cast of a constant rounds for good
    np.testing.assert_array_equal(got["w"], np.array([1.0, 3.0]) * float(np.float32(0.333333333333)))
    np.testing.assert_array_equal(got["k"], float(np.float32(0.1)))


def test_the_float64_copy_leaves_the_model_alone() -> None:
    model = onnx.parser.parse_model(DEEP)
    before = model.SerializeToString()
    doubled(model)
    assert model.SerializeToString() == before


def test_a_graph_whose_nodes_lack_what_they_need_is_named() -> None:
    model = one_node("Cast", {"x": IMAGE})
    with pytest.raises(CannotEvaluate, match="^the graph: "):
        Oracle(model)


def test_sparse_constants_are_widened_too() -> None:
    values, indices = numpy_helper.from_array(np.float32([0.1, 7])), numpy_helper.from_array(np.array([1, 4]))
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[6])
    graph = helper.make_graph([helper.make_node("Constant", [], ["y"], sparse_value=sparse)], "g", [], [])
    wide = doubled(helper.make_model(graph)).graph.node[0].attribute[0].sparse_tensor
    assert wide.values.data_type == TensorProto.DOUBLE
    assert numpy_helper.to_array(wide.values).tolist() == [float(np.float32(0.1)), 7.0]
    assert (wide.indices, wide.dims) == (sparse.indices, sparse.dims)


def test_intermediate_tensors_by_name_and_outputs_by_default() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (float[3] z) { y = Neg (x)  z = Exp (y) }'
    )
    x = np.array([1.0, 2.0, 3.0], np.float32)
    oracle = Oracle(model)
    assert set(oracle.evaluate({"x": x})) == {"z"}
    np.testing.assert_array_equal(oracle.evaluate({"x": x}, ["y"])["y"], -x)


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (one_node("Mystery", {"x": IMAGE}, domain="acme", opset=1), "acme::Mystery"),
        (
            one_node("BatchNormalization", {k: IMAGE[0, :, 0, 0] for k in "xsbmv"}, training_mode=1),
            "BatchNormalization",
        ),
        (one_node("Conv", {"x": IMAGE, "w": normal(4, 3, 3, 3)}), "Conv"),
    ],
)
def test_what_it_cannot_evaluate_it_names(model: onnx.ModelProto, operator: str) -> None:
    feeds = {
        v.name: np.zeros([d.dim_value for d in v.type.tensor_type.shape.dim], np.float32) for v in model.graph.input
    }
    with pytest.raises(CannotEvaluate, match=f"^{operator}: ") as caught:
        evaluate(model, feeds)
    assert caught.value.operator == operator


@pytest.mark.parametrize(
    "name", ["burn_mnist", "fsanet_1x1", "gtcrn_stream_simple", "ppocr_cls_opset11", "mesonet_tf2onnx"]
)
def test_real_networks_agree_with_onnxruntime_on_every_output(name: str) -> None:
    import onnxruntime as ort

    from bnfold.runtime.inputs import Case, feeds

    model = onnx.load(data_path("onnx", f"{name}.onnx"))
    values = feeds(model.graph, Case("normal", 0, 1), {"*": 64})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    truth = evaluate(model, values)
    for output, got in zip(session.get_outputs(), session.run(None, values), strict=True):
        true = truth[output.name]
        error = np.sqrt(np.mean((got - true) ** 2) / np.mean(true**2))
        assert 0 < error < 1e-5, output.name


@pytest.mark.parametrize("group", [1, 2, 4])
def test_images_with_one_channel_at_work_are_convolved_like_all_others(group: int) -> None:
    random = np.random.default_rng(group)
    x, w = np.zeros((5, 8, 7, 6)), random.standard_normal((12, 8 // group, 3, 2))
    for image in range(4):  # the fifth is all zero
        for first in range(0, 8, 8 // group):
            x[image, first + random.integers(8 // group)] = random.standard_normal((7, 6))
    full = random.standard_normal(x.shape)
    window = Window.of((7, 6), (3, 2), [2, 1], None, [1, 0, 2, 1], None)
    alone, both, other = (conv(each, w, None, window, group) for each in (x, x + full, full))
    np.testing.assert_allclose(alone, both - other, atol=1e-12)
    assert not alone[4].any()


POOLS = [
    (1, {"kernel_shape": [3], "pads": [1, 1]}),
    (2, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "storage_order": 1}),
    (2, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    (2, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    (3, {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1], "storage_order": 1}),
]


@pytest.mark.parametrize(("rank", "attributes"), POOLS)
def test_the_indices_of_max_pool_are_those_of_onnxruntime(rank: int, attributes: dict[str, list[int]]) -> None:
    """Of equal values the first counts: half of the values come more than once."""
    x = np.round(normal(2, 3, *(8, 7, 6)[:rank]))
    model = one_node("MaxPool", {"x": x}, **attributes)
    model.graph.node[0].output.append("where")
    model.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, None))
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = evaluate(model, {"x": x})
    for name, want in zip(("y", "where"), session.run(None, {"x": x}), strict=True):
        assert got[name].tolist() == want.tolist()


def test_a_model_whose_max_pool_names_indices_can_be_verified() -> None:
    """Found by random graphs: an output that nobody reads made the verification inconclusive."""
    body = f"t = Conv (X, W)\n u = {BN('t', 'a')}\n Y, I = MaxPool <kernel_shape = [2, 2]> (u)"
    model = in_type(build(body, "X[N,3,6,6]", "Y[N,4,3,3]", {"W": (4, 3, 3, 3), **bn("a", 4)}), "float32")
    result = driver.fold(model)
    assert bnfold.verify(model, result.model, untouched=result.sites).verdict == "PASS"


KNOWN = {  # nodes from the float32 constant w to the output, by hand
    "Cast": ("h = Cast <to = 10> (w) y = Cast <to = 1> (h)", np.float16),
    "twice": ("h = Cast <to = 16> (w) g = Cast <to = 10> (h) y = Cast <to = 1> (g)", ml_dtypes.bfloat16),
    "CastLike": ("y = CastLike (w, x)", np.float16),
    "moved": ("h = Cast <to = 10> (w) t = Transpose (h) y = Cast <to = 1> (t)", np.float16),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_before_run_time_is_rounded_for_good(name) -> None:
    """The rounding of a weight belongs to the model; that of activations is what the oracle measures."""
    body, kind = KNOWN[name]
    text = f'<ir_version: 9, opset_import: ["": 17]> g (float16[2] x) => (float16[3] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    values = np.float32([0.1, -1 / 3, 1e-3])
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    x = np.float16([1.0, 2.0])
    np.testing.assert_array_equal(evaluate(model, {"x": x})["y"], values.astype(kind).astype(np.float64))


def test_activations_are_not_rounded() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }'
    x = np.float32([0.1, 1 / 3])
    np.testing.assert_array_equal(evaluate(onnx.parser.parse_model(text), {"x": x})["y"], x.astype(np.float64))


@pytest.mark.parametrize(
    ("start", "end", "step", "want"), [(-9, -99, -1, [0]), (9, -99, -2, [3, 1]), (-9, 9, 3, [0, 3]), (1, 3, -1, [])]
)
def test_slice_clamps(start, end, step, want) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[4] x) => (float[N] y) { y = Slice (x, a, b, c, d) }'
    )
    numbers = {"a": start, "b": end, "c": 0, "d": step}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([v]), k) for k, v in numbers.items())
    assert evaluate(model, {"x": np.arange(4, dtype=np.float32)})["y"].tolist() == want


def test_what_constants_make_of_little_is_not_stored_without_end(monkeypatch):
    """Once a message of more than two gigabytes could not be handed on: exit code 70."""
    monkeypatch.setattr(constant_parts, "MOST_STORED", 1 << 10)
    stated = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])]
    nodes = [helper.make_node("Expand", ["c", "few"], ["a"]), helper.make_node("Expand", ["c", "many"], ["b"])]
    stored = {"c": np.float32([1]), "few": np.int64([4, 8]), "many": np.int64([8, 64])}
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], stated, initializers))
    found = constant_parts.evaluate_constants(model)
    assert [node.output[0] for node in found.graph.node] == ["b"]
    assert numpy_helper.to_array(found.graph.initializer[-1]).shape == (4, 8)
