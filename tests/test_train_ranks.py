"""Two processes with gloo: the statistics of one, one output, no one left waiting, and a run that can go on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bnfold.errors import UsageProblem
from bnfold.train import TrainOptions, runs, train
from bnfold.train.population import population_statistics
from bnfold.train.ranks import ONE_PROCESS, Ranks, process_group
from bnfold.train.runs import read_config
from bnfold.train.session import network
from tests import two_ranks
from tests.test_train import same
from tests.test_train_sequential import bits, digits

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
CLI = ("-m", "bnfold_cli", "train", "--arch", "mlp", "--steps", "2000")  # so many that a signal comes before the end
PATIENCE = 400  # seconds; a process that hangs is what it is for


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def start(*arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun starts them."""
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of tests/two_ranks.py left."""
    folder = tmp_path_factory.mktemp("two")
    for code, _, err in ended(start("-m", "tests.two_ranks", str(folder))):
        assert code == 0, err
    return folder


def results(folder: Path) -> Iterator[dict[str, Any]]:
    return (torch.load(folder / f"{rank}.pt") for rank in (0, 1))


def test_two_processes_take_the_statistics_of_one(two: Path) -> None:
    """Exact ones whatever the threads; float32 sums, of alg2 and pooled, are compared where as many threads add."""
    exact, threads = two_ranks.statistics(ONE_PROCESS), torch.get_num_threads()
    torch.set_num_threads(1)  # as the two have
    try:
        alike = two_ranks.statistics(ONE_PROCESS)
    finally:
        torch.set_num_threads(threads)
    expected = {name: (alike if {"alg2", "pooled"} & {*name.split()} else exact)[name] for name in exact}
    assert len(expected) == 2 * 4 * 3
    for here in results(two):
        for name, (mean, var) in expected.items():
            assert torch.equal(here["statistics"][name][0].float(), mean.float()), name
            assert torch.equal(here["statistics"][name][1].float(), var.float()), name


def test_a_process_without_images_takes_part(two: Path) -> None:
    expected = two_ranks.of_one_image(ONE_PROCESS)
    for here in results(two):
        assert all(torch.equal(here["one image"][name][0], mean) for name, (mean, _) in expected.items())


def test_an_error_of_one_is_the_error_of_all(two: Path) -> None:
    zero, one = results(two)
    assert zero["order"] == one["order"] == [0, 1]
    assert zero["errors"] == one["errors"]
    of_1, of_0, unasked, led, single, nothing, uneven = zero["errors"]
    assert of_1 == led == "UsageProblem of 1 hint"
    assert of_0 == "UsageProblem of 0 hint"
    assert unasked == "none"
    assert "hidden1.norm sees 1 value per channel" in single
    assert "no mini-batch reaches a BatchNorm" in nothing
    assert "--batch-size 61 cannot be shared equally by 2 processes" in uneven
    assert not (two / "uneven").exists()


def test_shares_are_all_there_is_in_order_and_nearly_equal() -> None:
    for count in range(20):
        for size in (1, 2, 3, 7):
            parts = [list(range(count))[Ranks(rank, size).share(count)] for rank in range(size)]
            assert sum(parts, []) == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_torchrun_with_synchronized_batch_norm_trains_as_one_process(tmp_path: Path) -> None:
    """Equal but for the order in which gradients are added up; then each rank says nothing twice."""
    run = tmp_path / "two"
    command = [sys.executable, *TORCHRUN, free_port(), *CLI[:-1], "30", "--sync-bn", "--out", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out images") == 1
    assert done.stderr.count("step 30/30") == 1
    one, both = train(TrainOptions(arch="mlp", steps=30, out=tmp_path / "one")), runs.load_checkpoint(run)
    for name, weights in runs.load_checkpoint(one.run).model.items():
        torch.testing.assert_close(both.model[name], weights, rtol=1e-3, atol=1e-4)
    again = population_statistics(network(read_config(run), both.model, run), [digits()])
    for name, (mean, var) in bits(again).items():
        assert torch.equal(both.statistics[f"{name}.running_mean"], mean)
        assert torch.equal(both.statistics[f"{name}.running_var"], var)


def disturb(run: Path, processes: list[subprocess.Popen[str]], number: int, *ranks: int) -> None:
    """Send a signal once the run has got somewhere."""
    began = time.monotonic()
    while not (run / runs.METRICS).exists() or len(runs.metrics(run)) < 3:
        assert time.monotonic() < began + PATIENCE, ended(processes)
        time.sleep(0.02)
    for rank in ranks:
        processes[rank].send_signal(number)


def test_control_c_leaves_a_run_that_goes_on_to_the_same_bits(two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start(*CLI, "--out", str(run))
    disturb(run, processes, signal.SIGINT, 0, 1)
    (code, out, err), other = ended(processes)
    assert code == 130
    assert other[0] in {130, 4}, "whichever it notices first"
    assert other[1] == other[2] == ""
    assert out == ""
    assert err.splitlines()[-2].startswith("error: stopped at step")
    assert f"--resume --out {run}" in err
    with pytest.raises(UsageProblem, match="is a run of 2 process"):
        train(TrainOptions(out=run, resume=True))
    for code, _, err in ended(start("-m", "bnfold_cli", "train", "--resume", "--out", str(run))):
        assert code == 0, err
    assert same(two / "whole", run)


def test_nobody_waits_for_a_process_that_was_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start(*CLI[:-1], "100000", "--out", str(run))
    disturb(run, processes, signal.SIGKILL, 1)
    (code, _, err), killed = ended(processes)
    assert killed[0] == -signal.SIGKILL
    assert code == 4, err
    assert "error: another process of this run has stopped" in err
    assert runs.load_checkpoint(run).step > 0


def test_one_process_is_alone() -> None:
    with process_group() as ranks:
        assert ranks is ONE_PROCESS
    assert ranks.gather(3) == [3]
    assert torch.equal(ranks.sum(torch.ones(2)), torch.ones(2))
