"""Data and metadata of strangers: .npz files, pictures, and what a model says about its pixels."""

from __future__ import annotations

import json
import os
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.folding import driver as folding
from bnfold.recalibration.feeds import pictures
from bnfold_cli.main import run
from tests.test_cli import conv_bn, here, written  # noqa: F401

HEADERS = {
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3, 6, 6), }",
    "endless": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3, 6, 6), }}",
    "more than there is": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**11}, 3, 6, 6), }}",
    "wide": f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {10**11}, 6, 6), }}",
    "rows of nothing": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**11}, 3, 0, 6), }}",
    "letters of nothing": "{'descr': '<U0', 'fortran_order': False, 'shape': (4, 3, 6, 6), }",
    "code": "{'descr': __import__('os').system('touch taken'), 'fortran_order': False, 'shape': (1,), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3, 6, 6), }",
    "columns": "{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (4, 3, 6, 6), }",
    "deep": "(" * 5000,
    "long": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
    "no dict": "[1, 2]",
    "true": "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3, 6, 6), }",
    "text": "{'descr': '<f4', 'fortran_order': False, 'shape': '4', }",
}


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header.encode() + b"\n" + body


def archive(path: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("X.npy", content)


def damaged() -> dict[str, bytes]:
    """Files that are no archives, or only nearly."""
    archive("sound.npz", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 6, 6), }", bytes(1728)))
    sound = Path("sound.npz").read_bytes()
    at = sound.index(b"PK\x01\x02")
    encrypted = bytearray(sound)
    encrypted[6] |= 1  # the flag in the header of the member,
    encrypted[at + 8] |= 1  # and in the directory
    other = bytearray(sound)
    other[8:10] = other[at + 10 : at + 12] = struct.pack("<H", 95)  # a way to compress that zipfile does not know
    lzma = bytearray(sound)
    lzma[8:10] = lzma[at + 10 : at + 12] = struct.pack("<H", 14)
    return {
        "empty": b"",
        "half": sound[:100],
        "no zip": b"PK\x03\x04" + b"x" * 100,
        "encrypted": bytes(encrypted),
        "unknown compression": bytes(other),
        "wrong compression": bytes(lzma),
        "no npy": sound.replace(b"NUMPY", b"NUMPI"),
        "version 9": sound.replace(b"NUMPY\x01", b"NUMPY\x09"),
    }


@pytest.fixture
def model(here):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    return here


def refused(capsys: pytest.CaptureFixture[str], path: str) -> None:
    """By all commands that read such a file."""
    for command in ("recalibrate m.onnx out.onnx --data", "evaluate m.onnx --data"):
        assert run([*command.split(), path]) == 3, path
        words = capsys.readouterr().err
        assert words.count("error: ") == words.count("hint: ") == 1, words
        assert "internal" not in words
    assert not Path("out.onnx").exists()
    assert not Path("taken").exists()


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_an_array_whose_header_lies_is_refused(model, capsys, header, version):
    archive("data.npz", npy(header, bytes(100), version))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about headers
        refused(capsys, "data.npz")


def test_an_archive_that_is_damaged_is_refused(model, capsys):
    for content in damaged().values():
        Path("data.npz").write_bytes(content)
        refused(capsys, "data.npz")


def meta(**changed: object) -> str:
    return json.dumps({"full_scale": 255.0, "mean": [0.5] * 3, "std": [0.25] * 3, "threshold": None, **changed})


METADATA = {
    "deep": "[" * 100_000,
    "deep dict": '{"a":' * 100_000,
    "digits": '{"full_scale": 255, "mean": [0], "std": [' + "9" * 5000 + '], "threshold": null}',
    "nan": meta(mean=[float("nan")] * 3),
    "negative": meta(std=[-1.0] * 3),
    "zero": meta(std=[0.0] * 3),
    "tiny": meta(std=[1e-320] * 3),
    "endless": meta(mean=[1e308] * 3),
    "no scale": meta(full_scale=0),
    "negative scale": meta(full_scale=-255),
    "nan scale": meta(full_scale=float("nan")),
    "huge whole number": meta(full_scale=10**400),
    "none": meta(mean=[], std=[]),
    "fewer": meta(mean=[0.5] * 3, std=[1.0]),
    "two channels": meta(mean=[0.5] * 2, std=[1.0] * 2),
    "words": meta(mean="abc", std="abc"),
    "threshold": meta(threshold=float("nan")),
    "list": "[1, 2]",
    "text": "\x1b[2J",
}


@pytest.mark.parametrize("key", ["bnfold.normalization", "bnfold.classes"])
@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA)
def test_what_a_model_says_of_its_pixels_is_read_with_care(model, capsys, recwarn, text, key):
    """Also no warning of numpy's about what is divided by zero."""
    from PIL import Image

    Path("images").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).save(f"images/{number}.png")
    np.savez("bytes.npz", X=np.zeros((4, 3, 6, 6), np.uint8))
    record = onnx.load("m.onnx")
    onnx.helper.set_model_props(record, {"bnfold.normalization": meta()} | {key: text})
    onnx.save(record, "m.onnx")
    for data in ("images", "bytes.npz"):
        code = run(["recalibrate", "m.onnx", "out.onnx", "--force", "--data", data])
        words = capsys.readouterr().err
        assert code == 3 or (code == 0 and key == "bnfold.classes"), words
        assert "internal" not in words
    assert [str(each.message) for each in recwarn] == []


def test_a_pipe_among_images_is_not_waited_for(here):  # noqa: F811
    os.mkfifo("a.png")
    with pytest.raises(ModelProblem, match="has no images"):
        pictures.files(Path())
    with pytest.raises(ModelProblem, match="is not a readable image: it is not a regular file"):
        pictures.read_picture(Path("a.png"), 3)


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_model_that_takes_endless_images_is_refused(here, capsys, size):  # noqa: F811
    value = onnx.helper.make_tensor_value_info
    ends = [value("x", 1, ["N", 3, size, size]), value("y", 1, ["N", 3, size, size])]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    np.savez("data.npz", x=np.zeros((4, 3, 6, 6), np.float32), labels=np.zeros(4, int))
    assert run(["evaluate", "m.onnx", "--data", "data.npz"]) == 3
    assert "the limit is 268435456 elements" in capsys.readouterr().err


def test_explain_ends_at_its_limit(model, capsys, monkeypatch):
    monkeypatch.setattr(folding, "fold_in_place", lambda *_, **__: time.sleep(30))
    assert run(["explain", "m.onnx", "--limit", "seconds=0.3"]) == 4
    assert "the plan of the fold took longer than 0.3 s and was stopped" in capsys.readouterr().err
