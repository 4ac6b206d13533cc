"""Hostile and broken files: each gets the documented sentence and exit code, and leaves nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest
from onnx import TensorProto, helper

from bnfold_cli.main import run
from tests.attacks.hostile import (  # fmt: skip
    SECRET,
    attribute,
    chain,
    changed,
    computed,
    cycle,
    directory,
    functions,
    linked,
    nested,
    node,
    outside,
    pipe,
    raw,
    set_dims,
    set_values,
    sparse,
    stored,
    symbolic,
    truncated,
    twice,
    two_of,
)

NAN, INF = float("nan"), float("inf")
HUGE = np.array([10**6, 4, 3, 3, 3])
LAYERS = [helper.make_node("Concat", ["w" if i == 0 else f"k{i}"] * 10, [f"k{i + 1}"], axis=0) for i in range(12)]
COPIES = [helper.make_node("Identity", ["w" if i == 0 else f"k{i}"], [f"k{i + 1}"]) for i in range(3000)]
NO_MODEL, NO_ONNX, BEYOND = "is not an ONNX model, or is cut off", "is not valid ONNX", "outside the model's folder"

REFUSED = {  # what is done to a sound model -> how it is made, and the words of the error
    "no protobuf": (raw(b"hello, this is no model"), NO_MODEL),
    "nothing": (raw(b""), "is empty"),
    "zeros": (raw(bytes(100_000)), NO_MODEL),
    "ones": (raw(b"\xff" * 100_000), NO_MODEL),
    "half of it": (truncated(0.5), NO_MODEL),
    "most of it": (truncated(0.99), NO_MODEL),
    "data at an absolute path": (outside(location="/etc/passwd"), f"'/etc/passwd', {BEYOND}"),
    "data above": (outside(location=f"../{SECRET}"), BEYOND),
    "data above, by way of below": (outside(location=f"a/../../{SECRET}"), BEYOND),
    "data nowhere": (outside(location=""), BEYOND),
    "data at a name with a NUL": (outside(location="m\0.data"), BEYOND),
    "data at an endless name": (outside(location="a" * 5000), "cannot be read from"),
    "data on drive C": (outside(location="C:\\secret"), "cannot be read from"),
    "data through a symbolic link": (linked(symbolic), BEYOND),
    "data through a hard link": (linked(lambda target, link: os.link(target, link)), "multiple hard links"),
    "data from a pipe": (linked(pipe), "cannot be read from"),
    "data in a directory": (linked(directory), "cannot be read from"),
    "data from a device": (linked(lambda _, link: link.symlink_to("/dev/zero")), BEYOND),
    "data missing": (outside(location="nothing.data"), "cannot be read from"),
    "data beyond the end": (outside(offset=10**6), "ends before the data of 'w' does"),
    "a negative offset": (outside(offset=-4), "'-4', which is not a number"),
    "a negative length": (outside(length=-4), "'-4', which is not a number"),
    "an endless offset": (outside(offset=2**70), "ends before the data of 'w' does"),
    "an endless length": (outside(length=2**70), "ends before the data of 'w' does"),
    "a command for an offset": (outside(offset="4; rm -rf /"), "which is not a number"),
    "an offset in other digits": (outside(offset="٣"), "which is not a number"),
    "data in the model file, too few": (outside(location="m.onnx"), "its type and shape need 432"),
    "dims that overflow": (changed(set_dims("w", [2**40, 2**40])), "product overflow"),
    "dims below 0": (changed(set_dims("w", [-4, 3, 3, 3])), "Negative dimension"),
    "dims of more than there is": (changed(set_dims("w", [4, 3, 3, 4])), "too small for the declared shape"),
    "a hundred thousand axes": (changed(set_dims("w", [1] * 10**5)), "has 100000 axes; NumPy knows up to 64"),
    "too little data": (changed(set_dims("w", [4, 3, 3, 3], b"abc")), "too small for the declared shape"),
    "too much data": (
        changed(set_dims("w", [4, 3, 3, 3], bytes(1000))),
        "'w' holds 1000 bytes of data; its type and shape need 432",
    ),
    "data twice": (changed(twice), "one and only one value field"),
    "a type of tomorrow": (
        changed(lambda m: setattr(stored(m, "w"), "data_type", 99)),
        "'w' is of type 99, which onnx",
    ),
    "a wider type than its data": (changed(lambda m: setattr(stored(m, "w"), "data_type", TensorProto.INT64)), NO_ONNX),
    "bytes for strings": (changed(lambda m: setattr(stored(m, "w"), "data_type", TensorProto.STRING)), NO_ONNX),
    "parameters of two lengths": (changed(set_values("g", [1, 2])), "have 2, 4, 4, 4 values"),
    "a parameter of length 1": (changed(set_values("g", [1])), "have 1, 4, 4, 4 values"),
    "a parameter of length 0": (changed(set_values("b", [])), "have 4, 0, 4, 4 values"),
    "a longer parameter": (changed(set_values("v", [1] * 9)), "have 4, 4, 4, 9 values"),
    "NaN": (changed(set_values("v", [NAN] * 4)), "var of BatchNormalization 'norm' holds NaN or infinity"),
    "infinity": (changed(set_values("m", [INF] * 4)), "mean of BatchNormalization 'norm' holds NaN or infinity"),
    "an integer for epsilon": (changed(attribute("norm", "epsilon", i=1, type=2)), "Mismatched attribute type"),
    "an attribute of no type": (changed(attribute("norm", "epsilon", f=0.1)), "Field 'type' of 'attr'"),
    "one stride for two": (changed(attribute("conv", "strides", i=2, type=2)), "Mismatched attribute type"),
    "a cycle": (changed(cycle), "reads what is computed from its own output"),
    "a tensor from nowhere": (
        changed(lambda m: node(m, "conv").input.__setitem__(0, "nowhere")),
        "topologically sorted",
    ),
    "a tensor made twice": (changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["x"], ["c"]))), "(SSA)"),
    "an initializer twice": (changed(two_of("initializer")), "initializer name is not unique"),
    "an input twice": (changed(two_of("input")), "(SSA)"),
    "a node twice": (changed(two_of("node")), "(SSA)"),
    "no inputs": (changed(lambda m: node(m, "norm").ClearField("input")), "has input size 0"),
    "an input less": (changed(lambda m: node(m, "norm").input.pop()), "has input size 4"),
    "an input left out": (changed(lambda m: node(m, "norm").input.__setitem__(1, "")), "has an empty string"),
    "a thousand inputs": (changed(lambda m: node(m, "norm").input.extend(["x"] * 1000)), "has input size 1005"),
    "no outputs": (changed(lambda m: node(m, "norm").ClearField("output")), "has output size 0"),
    "no operator": (changed(lambda m: node(m, "norm").ClearField("op_type")), "Field 'op_type'"),
    "no type": (changed(lambda m: m.graph.input[0].ClearField("type")), "Field 'type'"),
    "an opset of tomorrow": (changed(lambda m: setattr(m.opset_import[0], "version", 10**9)), "uses opset 1000000000"),
    "an opset below 1": (changed(lambda m: setattr(m.opset_import[0], "version", -1)), "uses opset -1"),
    "no opset": (changed(lambda m: m.ClearField("opset_import")), "is not an ONNX model"),
    "a format of tomorrow": (changed(lambda m: setattr(m, "ir_version", 99)), "has IR version 99"),
    "no graph": (changed(lambda m: m.ClearField("graph")), "is not an ONNX model"),
    "a function that calls itself": (changed(functions(("A", "A"))), "Cycle detected"),
    "functions that call each other": (changed(functions(("A", "B"), ("B", "A"))), "Cycle detected"),
    "a call of nothing": (changed(functions(("A", "Nope"))), "No Op registered for Nope"),
}
SURVIVED = {  # what does no harm: it is folded, or kept as it is
    "a negative variance": changed(set_values("v", [-1] * 4)),
    "a negative epsilon": changed(attribute("norm", "epsilon", f=-5.0, type=1)),
    "NaN for epsilon": changed(attribute("norm", "epsilon", f=NAN, type=1)),
    "no values": changed(set_dims("w", [0, 3, 3, 3], b"")),
    "an output twice": changed(two_of("output")),
    "a weight for an output": changed(
        lambda m: m.graph.output.append(helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    ),
    "a weight that would fill the memory": changed(
        computed(helper.make_node("Expand", ["w", "big"], ["w2"]), constants={"big": HUGE})
    ),
    "a constant that would fill the memory": changed(
        computed(helper.make_node("ConstantOfShape", ["big"], ["w2"]), constants={"big": np.array([10**6, 10**6])})
    ),
    "a weight ten times, twelve times over": changed(computed(*LAYERS, constants={})),
    "a weight through thousands of nodes": changed(computed(*COPIES, constants={})),
    "a weight of one value": changed(sparse([4, 3, 3, 3])),
    "graphs in graphs": changed(nested(25)),
    "thousands of nodes": changed(chain(3000)),
    "a name that clears the screen": changed(
        lambda m: setattr(node(m, "norm"), "name", "\x1b[2J\x1b]0;owned\x07[bold]x[/bold]")
    ),
    "a name that reads backwards": changed(lambda m: setattr(node(m, "norm"), "name", "\u202egnp.exe")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(name, folder, capsys):
    make, words = REFUSED[name]
    path = make(folder)
    before = sorted(folder.iterdir())
    assert run(["fold", str(path), "--verify", "off"]) == 3
    stderr = capsys.readouterr().err
    assert words in stderr
    assert [line.partition(": ")[0] for line in stderr.splitlines()] == ["error", "hint"]
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", SURVIVED)
def test_survived(name, folder, capsys):
    path = SURVIVED[name](folder)
    content = path.read_bytes()
    assert run(["fold", str(path), "--verify", "off"]) == 0
    assert path.read_bytes() == content
    assert sorted(p.name for p in folder.iterdir()) == ["m.folded.onnx", "m.onnx"]
    assert "\x1b" not in capsys.readouterr().out
