"""The zoo's models as ONNX files in a folder: PyTorch is needed only for those that are not there yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx


def exported(name: str, folder: Path) -> Path:
    """The ONNX file of a model, from the cache in `folder`, or made there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        from tests.zoo_models import made

        folder.mkdir(parents=True, exist_ok=True)
        record = made(name)
        draft = path.with_suffix(f".{os.getpid()}.part")
        draft.write_bytes(record.SerializeToString(deterministic=True))
        draft.replace(path)
    return path


def batch_norms(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if n.op_type == "BatchNormalization" and n.domain in ("", "ai.onnx"))
