"""Ring 7, seen from outside: the structure tier finds every message that a fold should have left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import onnx
import pytest

from bnfold.folding.driver import fold
from bnfold.verification.untouched import Messages
from tests.test_lossless import decorated

ORIGINAL = decorated()
ORIGINAL.graph.value_info.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
RESULT = fold(ORIGINAL)


def sentences(
    change: Callable[[onnx.ModelProto], object], declared: tuple[str, ...] | None = RESULT.sites
) -> list[str]:
    model = copy.deepcopy(RESULT.model)
    change(model)
    return [words for _, words in Messages(ORIGINAL, model).undeclared(declared)]


def test_a_fold_declares_its_sites_and_leaves_the_rest_alone() -> None:
    assert RESULT.sites == ("d",)
    assert sentences(lambda m: None) == sentences(lambda m: None, None) == []
    assert Messages(ORIGINAL, ORIGINAL).count()[1] == 0
    assert Messages(ORIGINAL, RESULT.model).count()[1] == 3  # the Conv, its weight, its new bias


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.value_info[-1].type.tensor_type.ClearField("shape")


CHANGES: list[tuple[str, Callable[[onnx.ModelProto], object], str]] = [
    ("attribute", lambda m: m.graph.node[1].attribute.add(name="alpha", f=1.0, type=1), "node 'e' changed"),
    ("operator", lambda m: setattr(m.graph.node[1], "op_type", "LeakyRelu"), "node 'e' changed"),
    ("another weight", lambda m: _initializer(m, "V").dims.append(1), "initializer 'V' changed"),
    ("doc of a weight", lambda m: _initializer(m, "V").ClearField("doc_string"), "initializer 'V' changed"),
    ("new node", lambda m: m.graph.node.add(op_type="Relu", input=["d"], output=["z"]), "node 'z' is new"),
    ("doc of a site", lambda m: m.graph.node[0].ClearField("doc_string"), "node 'conv' has other documentation"),
    ("metadata of a site", lambda m: m.graph.node[0].ClearField("metadata_props"), "node 'conv' has other doc"),
    ("doc of the graph", lambda m: m.graph.ClearField("doc_string"), "changed"),
    ("training", lambda m: m.ClearField("training_info"), "training_info '0' is gone"),
    ("annotation", lambda m: m.graph.ClearField("quantization_annotation"), "quantization_annotation"),
    ("shape", no_shape, "value_info 'e' changed"),
    ("shape gone", lambda m: m.graph.ClearField("value_info"), "value_info 'e' is gone"),
    ("weight gone", lambda m: _drop(m, "unused"), "is gone"),
]


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def _drop(model: onnx.ModelProto, name: str) -> None:
    kept = [t for t in model.graph.initializer if t.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_every_other_change_is_found(change: Callable[[onnx.ModelProto], object], words: str) -> None:
    assert any(words in sentence for sentence in sentences(change)), sentences(change)


def test_without_a_declaration_nodes_that_differ_are_sites_but_nothing_else_is() -> None:
    assert sentences(CHANGES[0][1], None) == []
    assert sentences(CHANGES[8][1], None) == ["training_info '0' is gone"]


def test_nodes_keep_their_order() -> None:
    def swap(model: onnx.ModelProto) -> None:
        first = copy.deepcopy(model.graph.node[1])
        model.graph.node[1].CopyFrom(model.graph.node[2])
        model.graph.node[2].CopyFrom(first)

    assert "the order of the nodes changed" in sentences(swap)


def test_functions_and_bodies_are_looked_into() -> None:
    body = onnx.parser.parse_graph("then () => (float[2] t) { u = Relu (x) t = Relu (u) }")
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19, "my" : 1]> g (float[2] x, bool c) => (float[2] y) { y = my.F (x) }'
        '<domain: "my", opset_import: ["" : 19]> F (a) => (b) { i = Relu (a) b = Neg (i) }'
    )
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    for change, words in (
        (lambda m: setattr(m.functions[0].node[0], "op_type", "Abs"), "node 'i' changed"),
        (lambda m: m.functions[0].attribute.append("k"), "function 'my::F' changed"),
        (lambda m: setattr(m.graph.node[1].attribute[0].g.node[0], "op_type", "Abs"), "node 'u' changed"),
        (lambda m: m.functions.pop(), "function 'my::F' is gone"),
    ):
        other = copy.deepcopy(model)
        change(other)
        assert any(words in sentence for _, sentence in Messages(model, other).undeclared(())), words
