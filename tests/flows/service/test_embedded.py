"""The server of a run for which none is named: quiet, and gone when the run is, whatever ended that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TEXTMILL = str(Path(sys.executable).parent / "textmill")


@pytest.fixture
def run(config, tmp_path):
    """`textmill run` of the small pipeline, with a Prefect home of its own."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return subprocess.Popen(
            [TEXTMILL, "run", str(config), *arguments],
            cwd=tmp_path, env=outside | {"PREFECT_HOME": str(tmp_path / "home"), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_that_is_named_and_does_not_answer_is_one_line_at_once(run):
    out, err = run(PREFECT_API_URL="http://127.0.0.1:9/api").communicate(timeout=240)
    assert out == ""
    assert err.startswith("textmill: no Prefect server answers at http://127.0.0.1:9/api (PREFECT_API_URL)")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_it_writes_nothing_on_the_terminal_and_is_gone_with_the_run(run, tmp_path):
    process = run("--only", "scrape")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    for noise in ("Traceback", "uvicorn", "Stopping", "docs.prefect.io"):
        assert noise not in out + err
    assert (tmp_path / "home" / "logs" / "run-server.log").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_server(run):
    process = run()
    deadline = time.monotonic() + 240
    while "Beginning flow run" not in process.stderr.readline():
        assert time.monotonic() < deadline
    started = children(process.pid)
    assert any(b"uvicorn" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 120
    while any(map(is_alive, started)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_not_tried_again(run, tmp_path):
    (tmp_path / "tiny").mkdir()
    tiny = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", tmp_path / "tiny"], check=False)
    if tiny.returncode:
        pytest.skip("only root may mount a file system")
    try:
        process = run(f"--set=store={tmp_path}/tiny/store")
        _, err = process.communicate(timeout=240)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "tiny"], check=True)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("textmill: the disk is full: ")
    assert "Traceback" not in err
    assert "retry" not in err
