"""One training a GPU: real processes that hold and wait; only how many GPUs there are is made up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from flows.engine.devices import reserved
from flows.engine.stage import Context
from flows.engine.training import launch_training
from flows.store.local import Store
from modeling.config.pretrain import PretrainConfig
from textmill.errors import UserError

# Says which GPU it got, and keeps it until its input ends.
HOLDER = """
import logging, sys
from pathlib import Path
from flows.engine import devices
from flows.engine.stage import Context
from flows.store.local import Store
logging.basicConfig(level=logging.INFO)
devices.gpus = lambda: sys.argv[1].split(",")
context = Context(Store(Path("store")))
with devices.reserved("auto", int(sys.argv[2]), context) as confined:
    print(confined["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""
SHOW_GPU = (
    "import json, os; print(json.dumps({'done': 1, 'total': 1, 'gpu': os.environ.get('CUDA_VISIBLE_DEVICES', 'any')}))"
)


@pytest.fixture
def hold(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a process that holds one of these GPUs or more; the locks are in a folder of the test's own."""
    started = []

    def start(gpus: str, processes: int = 1) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, gpus, str(processes)],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_two_trainings_take_turns_on_one_gpu(hold):
    first = hold("0")
    assert first.stdout.readline() == "0\n"
    second = hold("0")
    assert "Another training uses the GPU" in second.stderr.readline()
    first.stdin.close()
    assert first.wait(120) == 0
    assert second.stdout.readline() == "0\n"


def test_a_killed_holder_leaves_its_gpu_to_the_next(hold):
    first = hold("0")
    assert first.stdout.readline() == "0\n"
    second = hold("0")
    assert "waiting" in second.stderr.readline()
    first.kill()
    assert second.stdout.readline() == "0\n"


@pytest.mark.slow
def test_two_gpus_are_used_at_once_and_the_third_training_gets_the_one_that_is_freed(hold):
    first, second = hold("2,3"), hold("2,3")
    got = {process.stdout.readline().strip(): process for process in (first, second)}
    assert got.keys() == {"2", "3"}
    third = hold("2,3")
    assert "waiting" in third.stderr.readline()
    got["3"].stdin.close()
    assert third.stdout.readline() == "3\n"


@pytest.mark.slow
def test_a_training_on_two_gpus_waits_for_both_and_holds_neither_meanwhile(hold):
    first = hold("0,1")
    assert first.stdout.readline() == "0\n"
    wide = hold("0,1", 2)
    assert "waiting" in wide.stderr.readline()
    third = hold("0,1")
    assert third.stdout.readline() == "1\n"
    first.stdin.close()
    third.stdin.close()
    assert wide.stdout.readline() == "0,1\n"


def test_more_processes_than_gpus_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("flows.engine.devices.gpus", lambda: ["0", "1"])
    with (
        pytest.raises(UserError, match="3 processes want a GPU each and there are 2"),
        reserved("auto", 3, Context(Store(tmp_path))),
    ):
        pass


@pytest.mark.parametrize(("device", "seen"), [("auto", "GPU-7f"), ("cpu", "any")])
def test_a_trainings_process_sees_the_gpu_it_holds_and_no_other(monkeypatch, tmp_path, device, seen):
    monkeypatch.setattr("flows.engine.devices.gpus", lambda: ["GPU-7f"])
    monkeypatch.setattr("flows.engine.devices.LOCKS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = []
    context = Context(Store(tmp_path), progress=lambda done, total, **metrics: told.append(metrics["gpu"]))
    launch_training([sys.executable, "-c", SHOW_GPU], PretrainConfig(device=device), context)
    assert told == [seen]


def test_a_training_that_is_killed_is_one_line(tmp_path):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(UserError, match=r"killed on .* by SIGKILL, most likely .* memory.* from its last checkpoint$"):
        launch_training([sys.executable, "-c", killed], PretrainConfig(device="cpu"), Context(Store(tmp_path)))
