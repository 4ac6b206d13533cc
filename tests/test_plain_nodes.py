"""Two ways to write a node are equal where both do the same, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.verification.influence.meaning import Meanings
from bnfold.verification.plain_nodes import PlainNodes

WEIGHTS = {"w": (4, 3, 3, 3), "gw": (1, 12, 6), "gr": (1, 12, 4), "lw": (2, 16, 6), "lr": (2, 16, 4)}


def model(node: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float y) {{ {node} }}'
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    made.graph.initializer.extend(numpy_helper.from_array(np.ones(d, np.float32), n) for n, d in WEIGHTS.items())
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nil"))
    return made


SAME = (
    ("Conv (x, w)", "Conv <pads=[0,0,0,0], strides=[1,1], dilations=[1,1], group=1, kernel_shape=[3,3]> (x, w)"),
    ("Conv (x, w)", 'Conv <auto_pad="NOTSET"> (x, w)'),
    ("Conv (x, w)", 'Conv <auto_pad="VALID"> (x, w)'),
    ("ConvTranspose (x, w)", "ConvTranspose <output_padding=[0,0], kernel_shape=[3,3]> (x, w)"),
    ("MaxPool <kernel_shape=[2,2]> (x)", "MaxPool <kernel_shape=[2,2], strides=[1,1], pads=[0,0,0,0], storage_order=1> (x)"),
    ("AveragePool <kernel_shape=[2,2]> (x)", "AveragePool <kernel_shape=[2,2], ceil_mode=0, count_include_pad=0> (x)"),
    ("Transpose (x)", "Transpose <perm=[3,2,1,0]> (x)"),
    ("LeakyRelu (x)", "LeakyRelu <alpha=0.01> (x)"),
    ("Cast <to=1> (x)", "CastLike (x, w)"),
    ("GRU <hidden_size=4> (x, gw, gr)", 'GRU <direction="forward", activations=["Sigmoid","Tanh"]> (x, gw, gr)'),
    ("GRU <hidden_size=4> (x, gw, gr)", "GRU <hidden_size=4> (x, gw, gr, , )"),
    ('LSTM <direction="bidirectional"> (x, lw, lr)',
     'LSTM <direction="bidirectional", hidden_size=4, activations=["Sigmoid","Tanh","Tanh","Sigmoid","Tanh","Tanh"]> (x, lw, lr)'),
)  # fmt: skip
OTHER = (
    ("Conv (x, w)", "Conv <pads=[0,0,0,1]> (x, w)"),
    ("Conv (x, w)", "Conv <strides=[1,2]> (x, w)"),
    ("Conv (x, w)", "Conv <kernel_shape=[1,1]> (x, w)"),
    ("Conv (x, w)", 'Conv <auto_pad="SAME_UPPER"> (x, w)'),
    ('MaxPool <kernel_shape=[2,2], ceil_mode=1> (x)', 'MaxPool <kernel_shape=[2,2], ceil_mode=1, auto_pad="VALID"> (x)'),
    ("MaxPool <kernel_shape=[2,2]> (x)", "MaxPool <kernel_shape=[2,2], ceil_mode=1> (x)"),
    ("MaxPool <kernel_shape=[2,2]> (x)", "MaxPool <kernel_shape=[1,1]> (x)"),
    ("Transpose (x)", "Transpose <perm=[0,1,2,3]> (x)"),
    ("LeakyRelu (x)", "LeakyRelu <alpha=0.02> (x)"),
    ("GRU <hidden_size=4> (x, gw, gr)", 'GRU <hidden_size=4, activations=["Tanh","Sigmoid"]> (x, gw, gr)'),
    ("GRU <hidden_size=4> (x, gw, gr)", "GRU <hidden_size=3> (x, gw, gr)"),
    ("Softmax (x)", "Softmax <axis=1> (x)"),
    ("Cast <to=10> (x)", "CastLike (x, w)"),
)  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [*SAME, *OTHER])
def test_a_node_is_written_in_one_way(first: str, second: str) -> None:
    pair = [model(f"y = {words}") for words in (first, second)]
    plain = [PlainNodes(each)(each.graph.node[0]) for each in pair]
    assert (plain[0] == plain[1]) == ((first, second) in SAME)
    meanings = [Meanings(each) for each in pair]
    assert (meanings[0].outputs() == meanings[1].outputs()) == ((first, second) in SAME)


def test_places_of_a_maximum_that_are_read_have_an_order() -> None:
    made = model("p, i = MaxPool <kernel_shape=[2,2], storage_order=1> (x) y = Cast <to=1> (i)")
    assert [a.name for a in PlainNodes(made)(made.graph.node[0]).attribute] == ["kernel_shape", "storage_order"]


@pytest.mark.parametrize(("node", "source"), [
    ("y = Identity (x)", "x"), ("y = Dropout (x)", "x"), ("y = Add (nil, x)", "x"), ("y = Sub (x, nil)", "x"),
    ("y = Sub (nil, x)", ""), ("y = Mul (x, nil)", ""), ("y = Dropout (x, nil, on)", ""),
])  # fmt: skip
def test_what_hands_a_tensor_on_means_that_tensor(node: str, source: str) -> None:
    made = model(node)
    assert PlainNodes(made).handed_on(made.graph.node[0]) == source
    scope = Meanings(made).scope
    assert (scope["y"] == scope["x"]) == bool(source)
