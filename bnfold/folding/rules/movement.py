"""Operators that only rearrange data: rearrange the coefficients likewise."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require
from ...graph.queries import argument, attribute, bounded, dims, label, rank, size
from . import OUT, Shares, hoist, sink
from .reflow import reflow


@hoist("Transpose")
def hoist_transpose(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * transpose(x) + t == transpose(s' * x + t'), with s', t' transposed back"""
    return {0: affine.map(lambda c: np.transpose(c, np.argsort(permutation(node, affine))))}


@sink("Transpose")
def sink_transpose(node: gs.Node, port: int, affine: Affine) -> Shares:
    """transpose(s * x + t) == transpose(s) * transpose(x) + transpose(t)"""
    return {OUT: affine.map(lambda c: np.transpose(c, permutation(node, affine)))}


def permutation(node: gs.Node, affine: Affine) -> list[int]:
    return list(attribute(node, "perm") or reversed(range(affine.rank)))


@hoist("Reshape", "Flatten")
def hoist_reshape(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * reshape(x) + t == reshape(s' * x + t'), with s', t' reshaped back"""
    return {0: reflow(affine, node, dims(node.outputs[0]), dims(node.inputs[0]))}


@sink("Reshape", "Flatten")
def sink_reshape(node: gs.Node, port: int, affine: Affine) -> Shares:
    """reshape(s * x + t) == reshape(s) * reshape(x) + reshape(t)"""
    return {OUT: reflow(affine, node, dims(node.inputs[0]), dims(node.outputs[0]))}


@hoist("Squeeze")
def hoist_squeeze(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * squeeze(x) + t == squeeze(s' * x + t'), with the axes put back"""
    axes = squeezed(node)
    return {0: affine.map(lambda c: np.expand_dims(c, axes))}


@sink("Squeeze")
def sink_squeeze(node: gs.Node, port: int, affine: Affine) -> Shares:
    """squeeze(s * x + t) == squeeze(s) * squeeze(x) + squeeze(t)"""
    axes = squeezed(node)
    return {OUT: affine.map(lambda c: np.squeeze(c, axes))}


@hoist("Unsqueeze")
def hoist_unsqueeze(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * unsqueeze(x) + t == unsqueeze(s' * x + t'), with the axes taken away"""
    axes = unsqueezed(node)
    return {0: affine.map(lambda c: np.squeeze(c, axes))}


@sink("Unsqueeze")
def sink_unsqueeze(node: gs.Node, port: int, affine: Affine) -> Shares:
    """unsqueeze(s * x + t) == unsqueeze(s) * unsqueeze(x) + unsqueeze(t)"""
    axes = unsqueezed(node)
    return {OUT: affine.map(lambda c: np.expand_dims(c, axes))}


def squeezed(node: gs.Node) -> tuple[int, ...]:
    """The axes a Squeeze removes, counted from the front; without `axes`, every axis of length 1."""
    axes = argument(node, "axes", 1)
    if axes is None:
        return tuple(i for i in range(rank(node.inputs[0])) if size(node.inputs[0], i) == 1)
    return tuple(a % rank(node.inputs[0]) for a in np.ravel(axes).tolist())


def unsqueezed(node: gs.Node) -> tuple[int, ...]:
    """The axes an Unsqueeze adds, counted from the front of its output."""
    axes = np.ravel(argument(node, "axes", 1)).tolist()
    return tuple(a % (rank(node.inputs[0]) + len(axes)) for a in axes)


@hoist("DepthToSpace")
def hoist_depth_to_space(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * depth_to_space(x) + t == depth_to_space(s' * x + t'), where channels that make one channel share s and t"""
    block = block_of(node)
    out = affine.along(1, size(node.inputs[0], 1) // block)
    return {0: out.map(lambda c: c.repeat(block) if channels_first(node) else np.tile(c, block)).on(1, 4)}


@sink("DepthToSpace")
def sink_depth_to_space(node: gs.Node, port: int, affine: Affine) -> Shares:
    """depth_to_space(s * x + t) == s' * depth_to_space(x) + t', for s and t shared by channels that make one channel"""
    block = block_of(node)
    into = affine.along(1, size(node.inputs[0], 1))
    into = into.map(lambda c: c.reshape(-1, block).T if channels_first(node) else c.reshape(block, -1))
    return {OUT: in_common(node, into).on(1, 4)}


def block_of(node: gs.Node) -> int:
    """How many elements a block has."""
    return bounded(int(attribute(node, "blocksize")) ** 2)


def channels_first(node: gs.Node) -> bool:
    """Whether the channels that make one channel are neighbours (CRD), or lie as far apart as they can (DCR)."""
    return bool(attribute(node, "mode") == "CRD")


@hoist("SpaceToDepth")
def hoist_space_to_depth(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * space_to_depth(x) + t == space_to_depth(s' * x + t'), for s and t shared by channels made from one channel"""
    block = block_of(node)
    out = affine.along(1, bounded(size(node.inputs[0], 1) * block))
    return {0: in_common(node, out.map(lambda c: c.reshape(block, -1))).on(1, 4)}


@sink("SpaceToDepth")
def sink_space_to_depth(node: gs.Node, port: int, affine: Affine) -> Shares:
    """space_to_depth(s * x + t) == s' * space_to_depth(x) + t', where what was one channel keeps its s and t"""
    channels, block = size(node.inputs[0], 1), block_of(node)
    bounded(channels * block)
    into = affine.along(1, channels)
    return {OUT: into.map(lambda c: np.tile(c, block)).on(1, 4)}


def in_common(node: gs.Node, affine: Affine) -> Affine:
    """From coefficients of (place in a block, channel) to those of each channel, if all its places agree."""

    same = all((c == c[0]).all() for c in (affine.scale, affine.shift))
    require(same, "VARIES", f"it varies inside the blocks of {label(node)}")
    return affine.map(lambda c: c[0])
