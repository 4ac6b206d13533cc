"""The script that compares folding with what PyTorch and timm offer, where there is no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

from tests import zoo_models
from tests.benchmarks import instead, variants

SIDE = 32


def small(name: str, side: int | None = None) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A small RepVGG: blocks of up to three branches, each of which timm makes one convolution."""
    blocks = tuple(ByoBlockCfg(type="rep", d=1, c=8, s=1, gs=0) for _ in range(2))
    return ByobNet(ByoModelCfg(blocks=blocks, stem_chs=8, stem_type="rep"), num_classes=5), (3, SIDE, SIDE)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Requests are answered in this process; the titles of those that were."""
    seen: list[str] = []

    def answer(request: instead.Request) -> dict[str, Any]:
        seen.append(instead.title(request))
        return variants.main(json.loads(json.dumps(request)))

    monkeypatch.setattr(instead, "answer", answer)
    for module in (variants, zoo_models):
        monkeypatch.setattr(module, "built", small)
    monkeypatch.setattr(variants, "BLOCKS", 3)
    monkeypatch.setattr(variants, "BLOCK_SECONDS", 0.001)
    precision = torch.get_float32_matmul_precision()
    yield seen
    torch.set_float32_matmul_precision(precision)


def script(folder: Path, *more: str) -> int:
    common = ["repvgg_a0", "--ep", "cpu", "--jobs", "1", "--cache", str(folder / "cache"), "--batch", "1"]
    return instead.main([str(folder / "out.json"), *common, *more])


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "out.json").read_text())["rows"])


def test_every_variant_computes_the_same_and_is_timed_next_to_the_original(
    tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(tmp_path, "--compile-only") == 0
    assert script(tmp_path) == 0
    single, half = rows(tmp_path)
    onnx = ["onnx original", "onnx folded", "onnx timm", "onnx original again"]
    torches = ["torch timm", "torch original", "torch timm, aot_eager", "torch original, aot_eager"]
    for row, bound in ((single, 1e-5), (half, 3e-2)):
        assert [*row["variants"]] == [*onnx, *torches]
        assert row["failed"] == {}
        assert all(0 < each["error"] < bound for each in row["variants"].values())
        assert all(each["low"] <= each["ratio"] <= each["high"] for each in row["variants"].values())
        assert [*row["compiled"]] == ["timm", "original"]
        assert row["shape"] == [1, 3, SIDE, SIDE]
    assert (single["precision"], half["precision"]) == ("float32", "float16")
    norms = {kind: facts["batch_normalizations"] for kind, facts in single["files"].items()}
    assert norms["original"] > 0
    capsys.readouterr()
    assert script(tmp_path, "--table") == 0
    heads, _, *shown = capsys.readouterr().out.splitlines()
    assert heads.endswith("| timm's, aot_eager | original, aot_eager |")
    assert [line.count("|") for line in (heads, *shown)] == [13] * 3
    first = single["variants"]["onnx folded"]
    assert f" ms | {first['ratio']:.2f} [{first['low']:.2f}, {first['high']:.2f}] | " in shown[0]
    assert " |  |  |  | " in shown[0], "there is no CUDA graph here"
    assert norms["folded"] == norms["timm"] == 0


def test_what_is_there_is_not_done_again(tmp_path: Path, here: list[str]) -> None:
    one = ("--precision", "float32")
    assert script(tmp_path, *one) == 0
    assert here == ["prepare repvgg_a0", "measure repvgg_a0 float32 1"]
    assert [*rows(tmp_path)[0]["compiled"]] == []
    assert script(tmp_path, *one) == 0
    assert len(here) == 2
    assert script(tmp_path, *one, "--compile-only") == script(tmp_path, *one, "--compile-only") == 0
    assert here[2:] == ["compile repvgg_a0 float32 1 timm", "compile repvgg_a0 float32 1 original"]
    assert script(tmp_path, *one) == 0, "what was compiled since is timed"
    assert here[4:] == ["measure repvgg_a0 float32 1"]
    assert [[*row["compiled"]] for row in rows(tmp_path)] == [["timm", "original"]]


def test_a_variant_that_does_not_run_is_said_and_the_others_are_timed(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(tmp_path, "--prepare") == 0
    network = variants.network
    lazily = lambda request, kind: Broken() if kind == "timm" else network(request, kind)  # noqa: E731
    monkeypatch.setattr(variants, "network", lazily)
    assert script(tmp_path, "--precision", "float32") == 0
    (row,) = rows(tmp_path)
    assert row["failed"] == {"torch timm": "RuntimeError: no such kernel"}
    assert "torch original" in row["variants"]
    assert "no such kernel" in capsys.readouterr().out


class Broken(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")


def test_no_process_is_begun_when_the_time_is_over(
    tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(tmp_path, "--prepare") == 0
    assert script(tmp_path, "--seconds", "0") == 1
    assert "time is over" in capsys.readouterr().out
    assert here == ["prepare repvgg_a0"]
    assert not (tmp_path / "out.json").exists()


def test_a_process_ends_at_its_limit_with_those_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    begun = time.monotonic()
    with (tmp_path / "log").open("w") as log:
        text, status = instead.run([sys.executable, "-c", code], 2, dict(os.environ), log)
    assert status < 0
    assert time.monotonic() - begun < 20
    assert not running(int(text))


def test_a_signal_ends_the_processes_that_were_started(tmp_path: Path) -> None:
    inner = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""import os, sys; from tests.benchmarks import instead; instead.end_together()
instead.run([sys.executable, '-c', {inner!r}], 60, dict(os.environ), sys.stderr)"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=instead.ROOT)
    within(30, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    parent.terminate()
    assert parent.wait(20) == 128 + signal.SIGTERM
    within(5, lambda: not running(int((tmp_path / "pid").read_text())))


def within(seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def running(process: int) -> bool:
    path = Path(f"/proc/{process}/cmdline")
    return path.exists() and path.read_bytes() != b""


def test_a_process_says_why_it_failed(tmp_path: Path) -> None:
    request = {"what": "measure", "name": "pointnet", "stem": str(tmp_path / "none"), "cache": str(tmp_path)}
    found = instead.answer({**request, "ep": "cpu", "precision": "float32", "batch": 1, "limit": 120})
    assert found["failed"].startswith("FileNotFoundError")
    assert "Traceback" in next(tmp_path.glob("*.log")).read_text()


def test_the_distance_of_what_is_not_finite_is_none() -> None:
    assert variants.distance(np.array([np.nan, 1.0]), np.ones(2)) is None
    assert variants.distance(np.array([1.0, 1.5]), np.array([1.0, 2.0])) == 0.25
