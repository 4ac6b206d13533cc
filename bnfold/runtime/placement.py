"""Where the nodes of a model were placed and where they ran, and what of it is not acceptable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from .copies import without_data
from .sessions import CPU

POLICIES = {
    "strict": "every node on the provider asked for",
    "compute": "arithmetic on shapes may sit on the CPU, layers and activations may not",
    "any": "wherever onnxruntime puts it",
}
COMPUTE = frozenset(
    ["Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"]
    + ["LSTM", "GRU", "RNN", "Einsum", "Resize", "Upsample", "BatchNormalization", "InstanceNormalization"]
    + ["LayerNormalization", "GroupNormalization", "LpNormalization", "LRN", "AveragePool", "MaxPool", "LpPool"]
    + ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu"]
    + ["Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Swish", "Tanh", "Softplus", "Softsign"]
    + ["Softmax", "LogSoftmax", "Clip", "Erf"]
)


@dataclass(frozen=True)
class Node:
    """One node of a session and the provider it belongs to."""

    name: str
    operator: str
    provider: str

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator})"

    @property
    def computes(self) -> bool:
        return self.operator.removeprefix("Fused").removeprefix("Nhwc") in COMPUTE


@dataclass(frozen=True)
class Placement:
    """Where one model ran: how many nodes of each operator on each provider, and in words what breaks the policy.

    `assigned` is what the session says of the graph that it gave to providers; `ran` are the kernels in the profile of
    the very runs that were compared.
    """

    model: str
    policy: str
    assigned: dict[str, dict[str, int]]
    ran: dict[str, dict[str, int]]
    broken: tuple[str, ...]

    def words(self) -> str:
        """`20 nodes on CUDAExecutionProvider`"""
        counts = {provider: sum(operators.values()) for provider, operators in (self.assigned or self.ran).items()}
        return ", ".join(f"{count} node{'s' * (count != 1)} on {provider}" for provider, count in counts.items())


def name_nodes(model: onnx.ModelProto) -> None:
    """Give a nameless node of the main graph the name of its output: onnxruntime distinguishes nodes by name only."""
    for node in model.graph.node:
        node.name = node.name or next(filter(None, node.output), "")


def idle(graph: onnx.GraphProto) -> set[str]:
    """Names of nodes that handle only sizes and constants, whatever the values of the inputs."""
    still = without_data(graph)
    busy = {node.name for node in graph.node if not still.issuperset(node.output)}
    return {node.name for node in graph.node} - busy


def assigned(session: Any) -> list[Node]:
    """The nodes of a session as it gave them to providers; none where this onnxruntime does not say (before 1.24)."""
    assignment = getattr(session, "get_provider_graph_assignment_info", list)
    return [Node(node.name, node.op_type, part.ep_name) for part in assignment() for node in part.get_nodes()]


def ran(profile: Path) -> list[Node]:
    """The kernels in the profile of a session, each once however often it ran."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    nodes = {_kernel(event) for event in events if event.get("cat") == "Node" and "provider" in event["args"]}
    return sorted(nodes, key=lambda node: (node.provider, node.operator, node.name))


def _kernel(event: dict[str, Any]) -> Node:
    arguments = event["args"]
    return Node(event["name"].removesuffix("_kernel_time"), arguments["op_name"], arguments["provider"])


def placement(
    model: str, provider: str, policy: str, placed: Sequence[Node], kernels: Sequence[Node], free: Collection[str]
) -> Placement:
    """Judge where a model ran that should run on `provider`; `free` are nodes that handle no data."""
    broken = () if provider == CPU else tuple(dict.fromkeys(_broken(provider, policy, placed, kernels, free)))
    said = tuple(f"{sentence[0].upper()}{sentence[1:]}, in {model}" for sentence in broken)
    return Placement(model, policy, _counts(placed), _counts(kernels), said)


def _broken(
    provider: str, policy: str, placed: Sequence[Node], kernels: Sequence[Node], free: Collection[str]
) -> Iterable[str]:
    """What breaks the policy, in sentences, the most important first."""
    if not kernels:
        yield "the profile of the run names no node: where it ran cannot be proved"
    if not any(node.provider == provider for node in (*placed, *kernels)):
        yield f"no node is on {provider}"
    for nodes, verb in ((placed, "was placed"), (kernels, "ran")):
        for node in nodes:
            if not _allowed(node, provider, policy, free):
                yield f"{node} {verb} on {node.provider}"
    yield from _contradictions(placed, kernels)


def _allowed(node: Node, provider: str, policy: str, free: Collection[str]) -> bool:
    if policy == "strict":
        return node.provider == provider
    return policy == "any" or node.provider != CPU or node.name in free or not node.computes


def _contradictions(placed: Sequence[Node], kernels: Sequence[Node]) -> Iterable[str]:
    """Nodes that the session placed on one provider and the profile saw on another."""
    places: dict[str, set[str]] = {}
    for node in placed:
        places.setdefault(node.name, set()).add(node.provider)
    for node in kernels:
        if node.name in places and node.provider not in places[node.name]:
            yield f"{node} was placed on {', '.join(sorted(places[node.name]))} but ran on {node.provider}"


def _counts(nodes: Iterable[Node]) -> dict[str, dict[str, int]]:
    by_provider: dict[str, Counter[str]] = {}
    for node in nodes:
        by_provider.setdefault(node.provider, Counter())[node.operator] += 1
    return {provider: dict(sorted(counts.items())) for provider, counts in sorted(by_provider.items())}
