"""Children that hang, grow, crash or lie cost one input each, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scraping.extraction.sandbox import Call, Failure, Sandbox

pytestmark = pytest.mark.long

HERE = f"{Path(__file__).parent}"


def misbehave(payload: bytes, how: str):
    """The target that runs in the children."""
    match how:
        case "echo":
            return payload.decode()
        case "reject":
            raise ValueError("not for me")
        case "bug":
            return 1 / 0
        case "spin":
            while True:
                pass
        case "grow":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 24))
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
    return None


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)  # children look where the parent does


def answers(calls, **limits):
    with Sandbox("test_sandbox:misbehave", 2, **limits) as sandbox:
        return list(sandbox.run(calls))


def test_results_come_in_the_order_of_the_calls():
    calls = [Call({"how": "echo"}, f"page {i}".encode() * (i % 5 * 10_000)) for i in range(100)]
    assert answers(calls) == [call.payload.decode() for call in calls]


def test_each_misbehavior_costs_one_input():
    hows = ["echo", "reject", "echo", "bug", "spin", "echo", "grow", "crash", "echo"]
    results = answers([Call({"how": how}, b"fine") for how in hows], cpu_seconds=1, memory_bytes=1 << 29)
    assert [result.reason if isinstance(result, Failure) else result for result in results] == [
        "fine", "rejected", "fine", "error", "time", "fine", "memory", "died", "fine",
    ]  # fmt: skip
    assert results[1].detail == "not for me" and "ZeroDivisionError" in results[3].detail
    assert results[7].detail == "SIGSEGV"


def test_a_target_that_cannot_be_imported_is_not_an_input_s_fault():
    with (
        pytest.raises(RuntimeError, match=r"no_such_module:function did not start"),
        Sandbox("no_such_module:function", 1) as sandbox,
    ):
        list(sandbox.run([Call({})]))


def test_a_folder_called_scraping_in_the_working_directory_is_not_taken_for_ours(tmp_path):
    """A child that had the working directory ahead of what its parent imports from would not start."""
    (tmp_path / "scraping").mkdir()
    (tmp_path / "scraping/__init__.py").write_text("raise SystemExit('the wrong one')")
    assert answer_in(tmp_path, "test_sandbox:misbehave", "-P") == "fine"


def test_children_find_a_user_s_own_module_where_their_parent_does(tmp_path):
    (tmp_path / "own_reader.py").write_text("def read(payload, how): return f'my own {payload.decode()}'")
    (tmp_path / "elsewhere").mkdir()
    assert answer_in(tmp_path / "elsewhere", "own_reader:read", "-P", imports_from=str(tmp_path)) == "my own fine"
    assert answer_in(tmp_path, "own_reader:read") == "my own fine"  # "" on sys.path, as in a notebook


def answer_in(folder: Path, target: str, *options: str, imports_from: str = HERE) -> str:
    """What a sandbox answers to a program that Python, with these options, runs in `folder`."""
    program = f"""
from scraping.extraction.sandbox import Call, Sandbox
with Sandbox({target!r}, 1) as sandbox:
    print(*sandbox.run([Call({{"how": "echo"}}, b"fine")]))
"""
    paths = [*filter(None, sys.path), imports_from]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *options, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_leaving_ends_the_children():
    with Sandbox("test_sandbox:misbehave", 2) as sandbox:
        results = sandbox.run(Call({"how": "echo"}, b"x") for _ in iter(int, 1))
        assert next(results) == "x"
    with Sandbox("test_sandbox:misbehave", 2) as sandbox:
        results = sandbox.run([Call({"how": "echo"}, b"x")] * 16 + [Call({"how": "spin"})] * 2)
        assert next(results) == "x"
    assert not children_of(os.getpid())


def test_children_end_with_a_killed_parent():
    program = f"""
import sys
sys.path.insert(0, {HERE!r})
from scraping.extraction.sandbox import Call, Sandbox
with Sandbox("test_sandbox:misbehave", 2) as sandbox:
    for _ in sandbox.run(Call({{"how": "echo"}}, b"x") for _ in iter(int, 1)):
        pass
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 120
    while len(children := children_of(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(child) for child in children)


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split() if alive(int(child))]


def alive(pid: int) -> bool:
    try:
        return "sandbox" in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return False
