"""Execution providers: the options of onnxruntime, where nodes ran, noise and TF32, and no silent pass on the CPU.

There is no GPU where these tests usually run. What a GPU provider does to the report is tried with sessions of the CPU
in its place; tests marked `gpu` run on the real one.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.process import launcher
from bnfold.process.endings import Failed
from bnfold.process.jobs import Job
from bnfold.runtime import placement, providers, sessions
from bnfold.runtime.copies import jittered
from bnfold.runtime.doctor import examine
from bnfold.runtime.inputs import Case, shapes
from bnfold.runtime.placement import Node
from bnfold.runtime.plugins import PLUGINS
from bnfold.runtime.probe import probe
from bnfold.runtime.providers import DEFAULT, STRICT, Way
from bnfold.runtime.sessions import CPU, CUDA, TENSORRT
from bnfold.verification import level_sessions, verify, verifying
from bnfold.verification.float64.oracle import Oracle
from bnfold.verification.judge import judge
from bnfold.verification.measure import Tally, is_unsteady
from bnfold.verification.results import Numbers
from bnfold_cli.main import run
from tests.test_verify_verdicts import level
from tests.verify_nets import CONV, EPSILON, GEMM, NETS, chain, one_channel, run_here, swapped, written

WAYS = (Way(), Way("cuda", STRICT), Way("cuda"), Way("tensorrt", STRICT), Way("tensorrt"))
RTX = Way("tensorrt-rtx")


# The options of onnxruntime


def test_every_provider_is_run_with_each_of_its_arithmetics() -> None:
    assert providers.ways(["cpu", "cuda", "tensorrt", "cuda"]) == [*WAYS]
    assert providers.ways(["cpu", "cuda"], [STRICT]) == [*WAYS[:2]]
    for names, maths, words in (
        (["gpu"], [STRICT], "unknown execution provider 'gpu'"),
        ([], [STRICT], "no execution provider"),
        (["cuda"], ["strict", "loose"], "unknown arithmetic 'loose'"),
        (["cuda"], [], "no arithmetic"),
    ):
        with pytest.raises(UsageProblem, match=words):
            providers.ways(names, maths)


CHAINS = {
    Way(): [(CPU, {})],
    Way("cuda"): [(CUDA, {})],
    Way("cuda", STRICT): [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"})],
    Way("tensorrt"): [(TENSORRT, {"trt_engine_cache_enable": "True"}), (CUDA, {})],
    Way("tensorrt", STRICT): [
        (TENSORRT, {"trt_engine_cache_enable": "True"}),
        (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}),
    ],
    RTX: [(PLUGINS["tensorrt-rtx"].name, {"trt_engine_cache_enable": "True"}), (CPU, {})],
}


@pytest.mark.parametrize("way", CHAINS, ids=str)
def test_providers_and_their_options(way: Way) -> None:
    assert providers.chain(way, {"trt_engine_cache_enable": "True"}) == CHAINS[way]


@pytest.mark.parametrize("way", [way for way in WAYS if way.plain == "cuda"], ids=str)
def test_sessions_that_only_measure_errors_try_no_kernels_out(way: Way) -> None:
    quick = providers.chain(way, search=providers.QUICK)[-1:]
    assert quick[0][1]["cudnn_conv_algo_search"] == "DEFAULT"
    assert providers.without_tensorrt(way) == quick


def test_only_tensorrt_needs_the_environment_against_tf32() -> None:
    ways = (*WAYS, RTX, Way("tensorrt-rtx", STRICT))
    without = {"NVIDIA_TF32_OVERRIDE": "0"}
    assert {way: way.environment for way in ways if way.environment} == {
        Way("tensorrt", STRICT): without,
        Way("tensorrt-rtx", STRICT): without,
    }


def test_float32_is_float32_but_where_a_gpu_runs_as_it_serves() -> None:
    assert [way.dropped_bits for way in WAYS] == [0, 0, 13, 0, 13]
    assert [way.careful for way in WAYS] == [True, True, False, True, False]


RUNS = [{"x": [2, 3, 8, 8], "n": [4]}, {"x": [1, 3, 40, 8], "n": [4]}]


@pytest.mark.parametrize(("provider", "start"), [("tensorrt", "trt"), ("tensorrt-rtx", "nv")])
def test_a_tensorrt_engine_takes_the_shapes_of_every_input(provider: str, start: str) -> None:
    assert providers.profile(Way(provider), RUNS) == {
        f"{start}_profile_min_shapes": "x:1x3x8x8,n:4",
        f"{start}_profile_opt_shapes": "x:2x3x8x8,n:4",
        f"{start}_profile_max_shapes": "x:2x3x40x8,n:4",
    }
    assert providers.profile(Way("cuda"), RUNS) == providers.cached(Way("cuda"), "/tmp/cache", "a") == {}


@pytest.mark.parametrize("runs", [[], [{}], [{"x:0": [1]}], [{"a,b": [1]}]])
def test_no_profile_where_shapes_are_fixed_or_names_cannot_be_written(runs: list[dict[str, list[int]]]) -> None:
    assert providers.profile(Way("tensorrt"), runs) == {}


def test_profiles_are_for_inputs_whose_shape_is_not_fixed() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x, float[2,3] z) => (float[N,3] y) { y = Add (x, x) }'
    )
    graph = onnx.parser.parse_model(text).graph
    assert shapes(graph, Case("normal", 0, 5), {}) == {"x": [5, 3]}


def engine(model: onnx.ModelProto, way: Way = WAYS[-1]) -> dict[str, str]:
    digest = level_sessions.digest(model.SerializeToString())
    return {**providers.cached(way, "/tmp/cache", digest), **providers.profile(way, RUNS)}


def test_engines_are_kept_apart_by_the_models_sha256_and_share_their_timings() -> None:
    weights = CONV.weights(0)
    one, two = engine(CONV.original(weights)), engine(CONV.folded(CONV.fold(weights)))
    assert {name for name in one if one[name] != two[name]} == {"trt_engine_cache_prefix"}
    assert one == engine(CONV.original(weights))
    assert one["trt_timing_cache_path"] == "/tmp/cache"
    kept = [
        engine(CONV.original({**weights, "w": w}), RTX)["nv_runtime_cache_path"]
        for w in (weights["w"], weights["w"] + 1)
    ]
    assert len(set(kept)) == 2
    assert all(path.startswith("/tmp/cache/") for path in kept)


def test_every_option_is_one_that_onnxruntime_documents() -> None:
    for way in (*WAYS, RTX):
        for provider, options in providers.chain(way, engine(CONV.original(CONV.weights(0)), way)):
            assert sessions.checked_options(provider, options) == options
    with pytest.raises(UsageProblem, match="has no option 'trt_timing_cache'"):
        sessions.checked_options(TENSORRT, {"trt_timing_cache": "True"})


def test_every_option_is_known_to_the_installed_library() -> None:
    import onnxruntime

    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next(iter(capi.glob("onnxruntime_pybind11_state*")), None)
    if TENSORRT not in onnxruntime.get_available_providers() or library is None:
        pytest.skip("this onnxruntime is built without TensorRT")
    known = library.read_bytes()
    for name, value in engine(CONV.original(CONV.weights(0))).items():
        assert f"The value for the key '{name}' should be".encode() in known
        if name.endswith("_enable"):
            assert f"The value for the key '{name}' should be '{value}' or".encode() in known
    cuda = (capi / "libonnxruntime_providers_cuda.so").read_bytes()
    for name, value in dict(providers.chain(Way("cuda", STRICT)))[CUDA].items():
        assert name.encode() + b"\0" in cuda
        assert value in ("0", "1") or value.encode() in cuda


# Where nodes ran

PLACED = {
    "everything on the GPU": ([("a", "Conv", CUDA), ("b", "Relu", CUDA)], "strict", ""),
    "shapes on the CPU": ([("a", "Conv", CUDA), ("s", "Shape", CPU)], "compute", ""),
    "shapes on the CPU, but nothing may": (
        [("a", "Conv", CUDA), ("s", "Shape", CPU)],
        "strict",
        "Node 's' (Shape) was placed on CPUExecutionProvider, in the folded model",
    ),
    "a layer on the CPU": (
        [("a", "Conv", CUDA), ("b", "ConvTranspose", CPU)],
        "compute",
        "Node 'b' (ConvTranspose) was placed on CPUExecutionProvider, in the folded model",
    ),
    "a layer that onnxruntime fused on the CPU": (
        [("a", "Conv", CUDA), ("b", "FusedMatMul", CPU)],
        "compute",
        "Node 'b' (FusedMatMul) was placed on CPUExecutionProvider, in the folded model",
    ),
    "a layer of constants on the CPU": ([("a", "Conv", CUDA), ("free", "MatMul", CPU)], "compute", ""),
    "anything goes": ([("a", "Conv", CUDA), ("b", "Relu", CPU)], "any", ""),
    "nothing on the GPU": (
        [("s", "Shape", CPU)],
        "any",
        "No node is on CUDAExecutionProvider, in the folded model",
    ),
}


@pytest.mark.parametrize("case", PLACED)
def test_what_may_run_where(case: str) -> None:
    rows, policy, words = PLACED[case]
    nodes = [Node(*row) for row in rows]
    found = placement.placement("the folded model", CUDA, policy, nodes, nodes, {"free"})
    assert next(iter(found.broken), "") == words


def test_tensorrt_may_leave_nodes_to_cuda_but_not_all_of_them() -> None:
    nodes = [Node("a", "Conv", TENSORRT), Node("b", "Conv", CUDA)]
    assert placement.placement("m", TENSORRT, "compute", nodes, nodes, ()).broken == ()
    assert placement.placement("m", TENSORRT, "strict", nodes, nodes, ()).broken
    (words,) = placement.placement("m", TENSORRT, "compute", nodes[1:], nodes[1:], ()).broken
    assert words == "No node is on TensorrtExecutionProvider, in m"


def test_what_was_placed_is_compared_with_what_ran() -> None:
    given, kernels = [Node("a", "Add", CUDA)], [Node("a", "Add", CPU)]
    (words,) = placement.placement("m", CUDA, "compute", given, kernels, ()).broken
    assert words == f"Node 'a' (Add) was placed on {CUDA} but ran on {CPU}, in m"
    assert placement.placement("m", CUDA, "any", given, [], ()).broken == (
        "The profile of the run names no node: where it ran cannot be proved, in m",
    )


def test_where_a_model_ran_in_words_and_numbers() -> None:
    nodes = [Node("a", "Conv", CUDA), Node("b", "Conv", CUDA), Node("s", "Shape", CPU)]
    found = placement.placement("m", CUDA, "compute", nodes, nodes, ())
    assert found.assigned == {CPU: {"Shape": 1}, CUDA: {"Conv": 2}}
    assert found.words() == "1 node on CPUExecutionProvider, 2 nodes on CUDAExecutionProvider"


ARITHMETIC = "s = Shape (x)  n = Gather (s, i)  z = Reshape (x, s)  y = Relu (z)"


def sized(lines: str = ARITHMETIC) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, int64 n) {{ {lines} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "i"))
    placement.name_nodes(model)
    return model


def test_nodes_that_handle_only_sizes_are_recognized() -> None:
    assert placement.idle(sized().graph) == {"s", "n"}


def test_a_session_and_its_profile_say_where_nodes_are(tmp_path: Path) -> None:
    entries = {"session.record_ep_graph_assignment_info": "1"}
    options = sessions.options("off", entries=entries, profile=str(tmp_path / "ran"))
    running = sessions.session(sized().SerializeToString(), options)
    for batch in (1, 3):
        sessions.outputs(running, ["y"], {"x": np.ones((batch, 4), np.float32)})
    given, kernels = placement.assigned(running), placement.ran(sessions.finish(running))
    assert {(node.name, node.operator) for node in given} == {(n.output[0], n.op_type) for n in sized().graph.node}
    assert sorted(kernels, key=str) == sorted(given, key=str)
    assert {node.provider for node in given} == {CPU}


def test_a_session_that_leaves_its_provider_out_is_no_session() -> None:
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers() or examine("cuda").works:
        pytest.skip("onnxruntime leaves out a provider whose libraries are missing; here none are")
    with pytest.raises(sessions.CannotRun, match="onnxruntime left CUDAExecutionProvider out"):
        sessions.session(sized().SerializeToString(), sessions.options("off"), providers.chain(Way("cuda")))


# TF32 and noise


def test_constants_move_by_a_unit_of_the_arithmetic() -> None:
    model = CONV.original(CONV.weights(0))
    before = CONV.weights(0)["w"]
    for dropped, unit in ((0, 2.0**-23), (13, 2.0**-10)):
        moved = {t.name: numpy_helper.to_array(t) for t in jittered(model, 1, dropped).graph.initializer}["w"]
        step = np.abs(moved / before.astype(np.float64) - 1)
        assert unit / 2 <= step.min() <= step.max() <= unit


def test_constants_of_other_types_move_by_their_own_unit() -> None:
    model = CONV.original(CONV.weights(0, np.float16))
    plain, tf32 = (jittered(model, 1, dropped) for dropped in (0, 13))
    assert plain.SerializeToString() == tf32.SerializeToString()


def ratio(folded: float, again: list[float], dropped: int = 0, original: float = 1e-7) -> float:
    truth = np.ones(1000)
    runs = [np.full(1000, 1 + error, np.float32) for error in (original, folded)]
    tally = Tally("y", dropped=dropped)
    tally.add(truth, *runs, [], [np.full(1000, 1 + original + error, np.float32) for error in again])
    return tally.worst()[0]


def test_noise_of_the_original_is_added_to_what_a_fold_is_entitled_to() -> None:
    assert ratio(1e-4, []) > 500
    assert ratio(1e-4, [5e-5]) == pytest.approx(2, rel=0.05)
    assert ratio(1e-4, [1e-6, 5e-5]) == pytest.approx(2, rel=0.05)
    assert ratio(1e-7, []) == ratio(1e-7, [0.0])


def test_what_tf32_explains_is_no_fault_and_what_it_does_not_is() -> None:
    assert ratio(1e-3, [], original=0) > 8
    assert ratio(1e-3, [], dropped=13, original=0) == pytest.approx(1e-3 * 2**11, rel=0.01)
    assert ratio(1e-2, [], dropped=13, original=0) > 8


def test_an_oracle_is_not_disputed_for_what_tf32_does() -> None:
    for dropped, disputed in ((0, True), (13, False)):
        tally = Tally("y", dropped=dropped)
        run = np.full(9, 1.002, np.float32)
        tally.add(np.ones(9), run, run, [])
        assert tally.disputed is disputed


def test_an_input_is_steady_by_the_arithmetics_own_measure() -> None:
    values = np.ones(9, np.float32)
    moved = [values * np.float32(1.002)]
    assert is_unsteady(values, moved)
    assert not is_unsteady(values, moved, dropped=13)


def in_tf32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose linear operators read operands of 11 bits, as TF32 does: Veltkamp's split, in nodes of ONNX."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.append(numpy_helper.from_array(np.float32(2**13 + 1), "split"))
    nodes: dict[str, onnx.NodeProto] = {}
    for node in copy.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            for i, x in enumerate(node.input[:2]):
                steps = (
                    ("Mul", (x, "split"), "big"),
                    ("Sub", (f"{x}/big", x), "low"),
                    ("Sub", (f"{x}/big", f"{x}/low"), "cut"),
                )
                nodes.update((f"{x}/{to}", helper.make_node(op, read, [f"{x}/{to}"])) for op, read, to in steps)
                node.input[i] = f"{x}/cut"
        nodes[node.output[0]] = node
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes.values()]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    return copy


# In the report


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


@pytest.fixture
def cpu_for_cuda(monkeypatch: pytest.MonkeyPatch, _in_this_process: None) -> None:
    """A CUDA that is the CPU under another name."""
    monkeypatch.setattr(verifying, "require_providers", lambda names: None)
    monkeypatch.setattr(providers, "chain", lambda *asked, **options: [(CPU, {})])
    monkeypatch.setattr(placement, "CPU", "no provider")
    monkeypatch.setitem(providers.PROVIDERS, "cuda", CPU)


@pytest.mark.usefixtures("_in_this_process")
def test_on_the_cpu_every_node_is_proved_to_be_there() -> None:
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)))
    assert [each.title for each in found.levels] == ["off", "default"]
    for each in found.levels:
        assert [placed.model for placed in each.placements] == ["the original", "the folded model"]
        assert all(set(placed.assigned) == set(placed.ran) == {CPU} for placed in each.placements)
        assert all(t.rms_noise == 0 for t in each.tensors)
    assert sum(found.levels[0].placements[1].assigned[CPU].values()) == 3
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert answer["levels"][0]["provider"] == "cpu"
    assert answer["levels"][0]["placements"][0]["broken"] == []


@pytest.mark.usefixtures("cpu_for_cuda")
def test_each_provider_arithmetic_and_optimization_is_a_level() -> None:
    weights = CONV.weights(0)
    original = CONV.original(weights)
    found = verify(original, CONV.folded(CONV.fold(weights)), providers=["cpu", "cuda"])
    assert found.passed, found.reasons
    assert [each.title for each in found.levels] == [
        *("off", "default"),
        *("cuda off, strict math", "cuda default, strict math"),
        *("cuda off, default math", "cuda default, default math"),
    ]
    assert len(found.reasons) == 8
    assert "cuda, strict math, optimization off: 3 tensors" in found.reasons[3]
    assert found.reasons[3].endswith("; 3 nodes on CPUExecutionProvider")


@pytest.mark.usefixtures("cpu_for_cuda")
def test_a_fault_is_found_with_strict_math_and_a_large_one_also_with_tf32s_allowance() -> None:
    weights = GEMM.weights(3)
    original, folded = GEMM.original(weights), GEMM.fold(weights)
    small = verify(original, GEMM.folded({**folded, "w": one_channel(folded["w"])}), providers=["cuda"])
    assert small.verdict == "FAIL"
    assert "cuda, strict math, optimization off: fold site 'n' (BatchNormalization) channel 9" in small.reasons[0]
    large = verify(original, GEMM.folded({**folded, "b": swapped(folded["b"])}), providers=["cuda"])
    assert any(reason.startswith("cuda, default math, optimization off") for reason in large.reasons)


@pytest.fixture
def cuda_in_tf32(monkeypatch: pytest.MonkeyPatch, cpu_for_cuda: None) -> None:
    """A CUDA whose default math really is TF32: sessions in strict math are the CPU's own."""
    load = level_sessions._load

    def rounded(trial: Any, level: str, label: str, model: onnx.ModelProto, *rest: Any, **how: Any) -> Any:
        return load(trial, level, label, model if trial.way.careful else in_tf32(model), *rest, **how)

    monkeypatch.setattr(level_sessions, "_load", rounded)


@pytest.mark.usefixtures("cuda_in_tf32")
@pytest.mark.parametrize("name", NETS)
def test_a_faultless_fold_passes_in_tf32_and_only_because_it_is_allowed_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NETS[name]
    weights = net.weights(5)
    how: dict[str, Any] = {"providers": ["cuda"], "maths": ["default"], "levels": ["off"]}
    found = verify(net.original(weights), net.folded(net.fold(weights)), **how)
    assert found.passed, found.reasons
    (output,) = (tensor for tensor in found.levels[0].tensors if tensor.output)
    assert 1e-5 < output.rms_original < 1e-2
    wrong = net.folded({**net.fold(weights), "b": swapped(net.fold(weights)["b"])})
    assert verify(net.original(weights), wrong, **how).verdict == "FAIL"
    monkeypatch.setattr(providers, "TF32_BITS", 0)
    assert not verify(net.original(weights), net.folded(net.fold(weights)), **how).passed


@pytest.mark.usefixtures("cpu_for_cuda")
def test_fold_sites_are_also_run_on_their_own_with_strict_math() -> None:
    r = np.random.default_rng(0)
    first = {"a": r.standard_normal((4, 4, 3)), "c": np.array([0, 0, -1e6, 0])}
    w, s, t = r.standard_normal((4, 4, 3)), r.uniform(0.5, 2, 4), r.standard_normal(4)
    lines = "h = Conv <pads = [1,1]> (x, a, c)  r = Relu (h)  {} = Conv <pads = [1,1]> (r, w"
    bn = {"s": s, "t": t, "m": np.zeros(4), "v": np.ones(4)}
    original = chain(f"{lines.format('q')})  y = BatchNormalization (q, s, t, m, v)", {**first, "w": w, **bn})
    right = w * (s / np.sqrt(1 + EPSILON)).reshape(4, 1, 1)
    dead = right * (1 + 1e-3 * (np.arange(4) == 2)).reshape(1, 4, 1)
    for weights, verdict in ((right, "PASS"), (dead, "FAIL")):
        folded = chain(f"{lines.format('y')}, t)", {**first, "w": weights, "t": t})
        found = verify(original, folded, providers=["cuda"])
        assert found.verdict == verdict
        assert "cuda isolated, strict math" in [each.title for each in found.levels]
    assert found.reasons[0].startswith("cuda, strict math, optimization isolated: fold site 'y'")


def blurred_in_tf32(wrong: float = 0.0) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A fold site, after a Relu where the algebra cannot follow, on a difference that TF32 cannot distinguish from noise."""
    r = np.random.default_rng(1)
    w, w2, s, t = r.standard_normal((4, 4, 3)), r.standard_normal((4, 4, 3)), r.uniform(0.5, 2, 4), np.ones(4)
    front = (
        "a = Conv <pads = [1,1]> (x, w)  b = Conv <pads = [1,1]> (x, v)  d = Sub (a, b)  p = Conv <pads = [1,1]> (d, u)"
    )
    near = {"w": w, "v": w * (1 + 1e-3 * r.standard_normal(w.shape))}
    bn = {"s": s, "t": t, "m": np.zeros(4), "c": np.ones(4)}
    original = chain(f"{front}  r = Relu (p)  y = BatchNormalization (r, s, t, m, c)", {**near, "u": w2, **bn})
    scale = s / np.sqrt(1 + EPSILON) * (1 + wrong * (np.arange(4) == 2))
    moved = {**near, "u": w2 * scale.reshape(4, 1, 1), "t": t.reshape(4, 1)}
    return original, chain(f"{front}  r = Relu (p)  y = Add (r, t)", moved)


@pytest.mark.usefixtures("cuda_in_tf32")
def test_a_site_that_tf32_blurs_is_judged_in_strict_math() -> None:
    models = blurred_in_tf32()
    found = verify(*models, providers=["cuda"])
    clear = {each.title: tensor.clear for each in found.levels for tensor in each.tensors if tensor.site}
    assert clear["cuda off, strict math"]
    assert not clear["cuda off, default math"]
    assert found.passed, found.reasons
    wrong = verify(*blurred_in_tf32(1e-3), providers=["cuda"])
    assert wrong.verdict == "FAIL"
    assert wrong.reasons[0].startswith("cuda, strict math, optimization ")


@pytest.mark.usefixtures("cuda_in_tf32")
def test_a_site_that_tf32_blurs_is_open_without_strict_math() -> None:
    found = verify(*blurred_in_tf32(), providers=["cpu", "cuda"], maths=["default"])
    assert found.verdict == "INCONCLUSIVE"
    (reason,) = found.reasons
    assert reason.startswith("rounding alone blurs ")
    assert reason.endswith(" too far to judge; strict math may show more: --math strict,default")


Changed = Callable[[onnx.NodeProto], None]


@pytest.fixture
def cuda_is_wrong(monkeypatch: pytest.MonkeyPatch, cpu_for_cuda: None) -> Callable[[Changed], None]:
    """A CUDA of which the kernels of some nodes are wrong, as `change` makes them."""
    load = level_sessions._load

    def with_kernels(change: Changed) -> None:
        def changed(trial: Any, level: str, label: str, model: onnx.ModelProto, *rest: Any, **how: Any) -> Any:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            for node in copy.graph.node if trial.way.gpu else ():
                change(node)
            return load(trial, level, label, copy, *rest, **how)

        monkeypatch.setattr(level_sessions, "_load", changed)

    return with_kernels


def with_other_epsilon(node: onnx.NodeProto) -> None:
    if node.op_type == "BatchNormalization":
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("epsilon", 0.1))


def leaking(node: onnx.NodeProto) -> None:
    node.op_type = "LeakyRelu" if node.op_type == "Relu" else node.op_type


WRONG = "cuda, strict math, optimization off: the original runs wrong from fold site 'n' (BatchNormalization)"


@pytest.mark.parametrize("net", [CONV, GEMM], ids=["conv", "gemm"])
def test_where_only_the_original_runs_wrong_the_fold_is_not_to_blame(
    net: Any, cuda_is_wrong: Callable[[Changed], None]
) -> None:
    cuda_is_wrong(with_other_epsilon)
    weights = net.weights(0)
    original, folded = net.original(weights), net.fold(weights)
    found = verify(original, net.folded(folded), providers=["cpu", "cuda"])
    assert found.passed, found.reasons
    told = [note for note in found.notes if "runs wrong" in note]
    assert len(told) == 4  # of every level on CUDA, none on the CPU
    assert told[0].startswith(WRONG)
    assert "agrees with the float64 evaluation" in told[0]
    strict = next(each for each in found.levels if each.title == "cuda off, strict math")
    (site,) = (tensor for tensor in strict.tensors if tensor.site)
    assert site.miscomputed == "original"
    assert site.rms_original > 1e-2 > 1e-4 > site.rms_folded
    assert json.loads(json.dumps(found.to_json()))["levels"][2]["tensors"][0]["miscomputed"] == "original"
    wrong = verify(original, net.folded({**folded, "w": one_channel(folded["w"])}), providers=["cuda"])
    assert wrong.verdict == "FAIL"


@pytest.mark.usefixtures("cpu_for_cuda")
@pytest.mark.parametrize("fused", [False, True])
def test_an_original_that_does_not_run_where_the_folded_model_does_is_no_fault_of_the_fold(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BatchNormalization over 65536 rows on CUDA, also where onnxruntime's own optimization takes it away."""
    run, load, on_cuda = sessions.outputs, level_sessions._load, list[Any]()

    def noted(trial: Any, *how: Any, **more: Any) -> Any:
        running = load(trial, *how, **more)
        on_cuda.extend([running] if trial.way.gpu else [])
        return running

    def failing(running: Any, names: Any, values: Any) -> list[Any]:
        optimized = running.get_session_options().graph_optimization_level.name == "ORT_ENABLE_ALL"
        normalizes = "BatchNormalization" in {node.operator for node in placement.assigned(running)}
        if running in on_cuda and (normalizes or (optimized and not fused)):
            raise sessions.CannotRun("Non-zero status code returned while running BatchNormalization node")
        return run(running, names, values)

    monkeypatch.setattr(level_sessions, "_load", noted)
    monkeypatch.setattr(sessions, "outputs", failing)
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"])
    assert found.verdict == ("VACUOUS" if fused else "INCONCLUSIVE"), found.reasons
    words = "onnxruntime runs the original on no input; it runs the folded model"
    assert f"cuda, strict math, optimization off: {words}" in found.reasons
    assert any("Non-zero status code" in note for note in found.notes)


def test_where_both_models_run_wrong_nothing_is_decided(cuda_is_wrong: Callable[[Changed], None]) -> None:
    cuda_is_wrong(leaking)
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"])
    assert found.verdict == "INCONCLUSIVE"
    assert found.reasons[0].startswith(
        "cuda, strict math: both models run wrong from tensor 'r' (Relu) on: the original on"
    )
    assert not any("the original runs wrong" in note for note in found.notes)


@pytest.mark.usefixtures("cpu_for_cuda")
def test_an_oracle_that_the_cpu_denies_excuses_no_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Oracle.evaluate
    monkeypatch.setattr(
        Oracle, "evaluate", lambda *asked: {n: v * 1.01 if n in "nry" else v for n, v in evaluate(*asked).items()}
    )
    weights = CONV.weights(0)
    folded = CONV.fold(weights)
    wrong = CONV.folded({**folded, "w": folded["w"] * np.float32(1.01), "b": folded["b"] * np.float32(1.01)})
    found = verify(CONV.original(weights), wrong, providers=["cuda"])
    assert found.verdict == "FAIL"
    assert not any("runs wrong" in sentence for sentence in (*found.notes, *found.reasons))


def test_a_provider_that_quietly_ran_on_the_cpu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr(verifying, "require_providers", lambda names: None)
    monkeypatch.setattr(providers, "chain", lambda *asked, **options: [(CPU, {})])
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"])
    assert found.verdict == "FAIL"
    assert "optimization off: No node is on CUDAExecutionProvider, in the original (8 more)" in found.reasons[0]
    assert "in the folded model" in found.reasons[1]


def test_a_placement_against_the_policy_fails_whatever_the_numbers_say() -> None:
    nodes = [Node("a", "Conv", CUDA), Node("b", "Conv", CPU)]
    placed = placement.placement("the folded model", CUDA, "compute", nodes, nodes, ())
    cuda = level("off", provider="cuda", math=STRICT, placements=(placed,))
    verdict, reasons = judge(None, Numbers((cuda,)))
    assert verdict == "FAIL"
    words = "Node 'b' (Conv) was placed on CPUExecutionProvider, in the folded model (1 more)"
    assert reasons == (f"cuda, strict math, optimization off: {words}",)


def test_what_one_provider_cannot_show_another_does_not_make_up_for() -> None:
    plain = level("off")
    (tensor,) = plain.tensors
    lost = level("off", provider="cuda", math=STRICT, tensors=(replace(tensor, usable=False),))
    fine = level("off", provider="cuda")
    assert judge(None, Numbers((plain, fine)))[0] == "PASS"
    verdict, (reason,) = judge(None, Numbers((plain, lost, fine)))
    assert verdict == "INCONCLUSIVE"
    assert reason.startswith("cuda, strict math: every output is NaN or Inf throughout")


def empty(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a child that found nothing."""
    way = {part: [] for part in ("levels", "derived", "blocked", "influence")} | {"notes": ["the same note"]}
    return {"ways": [way for _ in request["maths"]]}


def test_arithmetics_share_a_child_if_they_need_the_same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], Mapping[str, str], bool]] = []

    def answer(job: Job, request: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        if job.__name__ == "compare_numbers":
            asked.append((request["provider"], request["maths"], how["environment"], how["reserves"]))
            return empty(request)
        raise Failed("not asked for here")

    monkeypatch.setattr(verifying, "require_providers", lambda names: None)
    monkeypatch.setattr(verifying.launcher, "run", answer)
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cpu", "cuda", "tensorrt"])
    assert found.notes == ("the same note", *(f"{way.words}: the same note" for way in WAYS[1:]))
    assert asked == [
        ("cpu", ["default"], {}, False),
        ("cuda", ["strict", "default"], {}, True),
        ("tensorrt", ["strict"], {"NVIDIA_TF32_OVERRIDE": "0"}, True),
        ("tensorrt", ["default"], {}, True),
    ]


def test_what_one_arithmetic_does_not_survive_the_other_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(job: Job, request: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        if job.__name__ == "compare_structure" or "default" in request["maths"]:
            raise Failed("the runtime crashed (SIGSEGV)")
        return empty(request)

    monkeypatch.setattr(verifying, "require_providers", lambda names: None)
    monkeypatch.setattr(verifying.launcher, "run", answer)
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"])
    assert found.notes == ("cuda, strict math: the same note",)
    assert found.reasons[1:] == ("cuda, default math: the runtime crashed (SIGSEGV)",)


@pytest.mark.usefixtures("cpu_for_cuda")
@pytest.mark.parametrize("effort", ["fast", "full"])
def test_the_fastest_kernels_are_searched_for_only_with_full_and_where_models_are_served(
    effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[tuple[str, str, str]] = []

    def chain(way: Way, engine: Any = None, search: str = "") -> providers.Chain:
        searched.append((way.math, inspect.stack()[1].function, search))
        return [(CPU, {})]

    monkeypatch.setattr(providers, "chain", chain)
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"], effort=effort)
    assert found.passed
    loads = Counter((math, search) for math, function, search in searched if function == "_load")
    served = 2 if effort == "full" else 0
    assert loads[DEFAULT, ""] == loads[STRICT, ""] == served  # strict math has its own search by default
    assert {search for *_, search in searched if search} == {"DEFAULT"}
    words = level_sessions.QUICK_KERNELS + level_sessions.AS_SERVED * bool(served)
    assert f"cuda, default math: {words}" in found.notes


class Chain(list[Any]):
    """A chain of providers that knows whose it is."""

    way: Way


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, cpu_for_cuda: None) -> Counter[str]:
    """How many sessions there are on each provider."""
    counts, session = Counter[str](), sessions.session

    def chain(way: Way, *how: Any, **more: Any) -> Chain:
        found = Chain([(CPU, {})])
        found.way = way
        return found

    def counted(model: Any, made: Any, asked: Any) -> Any:
        counts[asked.way.words] += 1
        return session(model, made, asked)

    monkeypatch.setattr(providers, "chain", chain)
    monkeypatch.setattr(providers, "without_tensorrt", chain)
    monkeypatch.setattr(sessions, "session", counted)
    return counts


ON_CUDA = {"cuda, strict math": 4, "cuda, default math": 6}


@pytest.mark.parametrize("name", NETS)
def test_a_gpu_has_a_session_for_each_model_and_one_for_noise(name: str, loaded: Counter[str]) -> None:
    """What does not depend on its kernels the CPU shows: sizes, conditioning, and whether both are the same graph."""
    weights = NETS[name].weights(0)
    found = verify(NETS[name].original(weights), NETS[name].folded(NETS[name].fold(weights)), providers=["cuda"])
    assert found.passed
    assert {words: loaded[words] for words in loaded if words} == ON_CUDA
    assert {t.rms_noise for each in found.levels if each.math == STRICT for t in each.tensors} == {0}


@pytest.mark.usefixtures("cpu_for_cuda")
def test_where_the_cpu_does_not_run_the_original_the_gpu_shows_its_conditioning(
    loaded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = sessions.session

    def without_cpu(model: Any, made: Any, asked: Any) -> Any:
        if not asked.way.gpu:
            raise sessions.CannotRun("no kernel")
        return session(model, made, asked)

    monkeypatch.setattr(sessions, "session", without_cpu)
    weights = CONV.weights(0)
    original, folded = CONV.original(weights), CONV.fold(weights)
    assert verify(original, CONV.folded(folded), providers=["cuda"]).passed
    assert sum(loaded.values()) == 19
    wrong = CONV.folded({**folded, "w": one_channel(folded["w"])})
    assert verify(original, wrong, providers=["cuda"]).verdict == "FAIL"


@pytest.mark.usefixtures("cuda_in_tf32")
def test_what_constants_move_is_measured_on_the_cpu_in_units_of_the_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CUDA that rounds to TF32 moves no further by it: the scale is that of a CPU in float32."""
    weights = CONV.weights(0)
    scales: dict[int, float] = {}
    add = Tally.add

    def noted(self: Tally, truth: Any, original: Any, folded: Any, moved: Any, *rest: Any) -> None:
        if self.name == "y" and len(moved):
            distances = [np.linalg.norm(run - original) for run in moved]
            scales[self.dropped] = float(np.mean(distances) / np.linalg.norm(original))
        add(self, truth, original, folded, moved, *rest)

    monkeypatch.setattr(Tally, "add", noted)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"], levels=["off"])
    assert found.passed
    assert scales[13] / scales[0] == pytest.approx(2**13, rel=0.7)


@pytest.mark.usefixtures("cpu_for_cuda")
def test_the_float64_evaluation_is_made_once_for_all_arithmetics(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, evaluate = [], Oracle.evaluate

    def counted(self: Oracle, *rest: Any) -> Any:
        asked.append(self.rounds)  # other oracles, of pieces, expect none
        return evaluate(self, *rest)

    monkeypatch.setattr(Oracle, "evaluate", counted)
    weights = CONV.weights(0)
    for maths in ([STRICT, DEFAULT], [STRICT], [DEFAULT]):
        asked.clear()
        assert verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), providers=["cuda"], maths=maths).passed
        assert len([*filter(None, asked)]) == 3


@pytest.mark.usefixtures("cpu_for_cuda")
def test_the_second_arithmetic_takes_the_inputs_of_one_shape() -> None:
    weights = CONV.weights(0)
    models = CONV.original(weights), CONV.folded(CONV.fold(weights))
    found = verify(*models, providers=["cuda"])
    sizes = {each.title: [case.rpartition(" ")[2] for case in each.cases] for each in found.levels}
    assert sizes["cuda off, strict math"] == ["2", "2", "1"]
    assert sizes["cuda off, default math"] == sizes["cuda default, default math"] == ["2", "2"]
    words = "cuda, default math: 2 of 3 inputs, those of one shape, were used, to save time"
    assert words in found.notes
    alone = verify(*models, providers=["cuda"], maths=["default"])
    wide = verify(*models, providers=["cuda"], dims={"N": [1, 2, 3]})
    assert {len(each.cases) for each in (*alone.levels, *wide.levels)} == {3}
    full = verify(*models, providers=["cuda"], effort="full")
    assert {len(each.cases) for each in full.levels} == {7}
    own = [case.partition("batch ")[2] for case in full.levels[0].cases]
    assert [size for size, _ in itertools.groupby(own)] == [*dict.fromkeys(own)]


def test_a_child_sees_the_environment_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = launcher.started

    def started(*job: Any, environment: dict[str, str], **limits: Any) -> Any:
        seen.append(environment.get("NVIDIA_TF32_OVERRIDE", "unset"))
        return real(*job, environment=environment, **limits)

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(launcher, "started", started)
    for way in (Way("tensorrt", STRICT), Way("tensorrt")):
        launcher.run(probe, {"provider": "cpu"}, seconds=60, environment=way.environment)
    assert seen == ["0", "unset"]


# A provider that is not there


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return written(GEMM, tmp_path)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_a_provider_that_cannot_run_is_exit_4_and_the_missing_library(
    provider: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    health = examine(provider)
    if health.works:
        pytest.skip(f"{provider} works here")
    assert run(["verify", *files, "--ep", f"cpu,{provider}"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"error: {health.name} cannot run here: {health.why}", f"hint: {health.fix}"]
    assert any(words in health.why for words in ("missing", "installed without it", "is not installed"))
    assert "pip install" in health.fix or "driver" in health.fix
    with pytest.raises(EnvironmentProblem):
        verify(files[0], files[0], providers=[provider])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ep", "gpu"], "unknown execution provider 'gpu'"),
        (["--placement", "some"], "'some' is not one of 'strict', 'compute', 'any'"),
        (["--math", "strict,loose"], "unknown arithmetic 'loose'"),
    ],
)
def test_what_verify_does_not_know_is_exit_2(
    options: list[str], words: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", *files, *options]) == 2
    assert words in capsys.readouterr().err


# On a GPU: python -m pytest -m gpu


@pytest.fixture(scope="module")
def cuda() -> None:
    health = examine("cuda")
    if not health.works:
        pytest.skip(f"no CUDA here: {health.why}")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("net", [CONV, GEMM], ids=["conv", "gemm"])
def test_a_faultless_fold_passes_on_cuda(net: Any) -> None:
    weights = net.weights(0)
    found = verify(net.original(weights), net.folded(net.fold(weights)), providers=["cpu", "cuda"])
    assert found.passed, found.reasons
    gpu = [each for each in found.levels if each.provider == "cuda"]
    assert {(each.level, each.math) for each in gpu} >= {
        (o, m) for o in ("off", "default") for m in ("strict", "default")
    }
    for each in gpu:
        assert all(set(placed.ran) == {CUDA} for placed in each.placements)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_planted_fault_fails_on_cuda() -> None:
    weights = CONV.weights(0)
    folded = CONV.fold(weights)
    wrong = CONV.folded({**folded, "w": one_channel(folded["w"])})
    found = verify(CONV.original(weights), wrong, providers=["cuda"])
    assert found.verdict == "FAIL"
    assert "cuda, strict math" in found.reasons[0]


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_batch_normalization_over_65536_rows_runs_on_cuda_only_folded() -> None:
    weights = GEMM.weights(0)
    models = GEMM.original(weights), GEMM.folded(GEMM.fold(weights))
    assert verify(*models, providers=["cuda"], shapes={"x": [65535, 12]}).passed
    found = verify(*models, providers=["cuda"], shapes={"x": [65536, 12]})
    if not found.passed:  # a later onnxruntime may do it
        assert found.verdict == "INCONCLUSIVE"
        assert found.reasons[0].endswith("; it runs the folded model")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_an_option_that_cuda_does_not_know_is_refused_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "checked_options", lambda provider, options: dict(options))
    with pytest.raises(sessions.CannotRun):
        sessions.session(sized().SerializeToString(), sessions.options("off"), [(CUDA, {"no_such_option": "1"})])


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_shape_arithmetic_may_sit_on_the_cpu_and_strict_placement_sees_it() -> None:
    lines = "s = Shape (x)  n = Gather (s, i)  f = Flatten (x)  g = BatchNormalization (f, a, a, a, a)  {}  y = Reshape (h, s)"
    original, folded = (sized(lines.format(last)) for last in ("h = Relu (g)", "q = Identity (g)  h = Relu (q)"))
    for model in (original, folded):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "a"))
    assert verify(original, folded, providers=["cuda"]).passed
    strict = verify(original, folded, providers=["cuda"], placement="strict")
    assert strict.verdict == "FAIL"
    assert "(Shape)" in strict.reasons[0] or "(Gather)" in strict.reasons[0]
