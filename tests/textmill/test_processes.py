"""Children import what their parent does, whatever lies in the working directory, and end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from textmill.processes import die_with_parent, python_command, python_environment, tethered_command


def test_a_folder_of_the_working_directory_is_not_taken_for_a_package(tmp_path):
    for package in ("textmill", "json"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')")
    command = python_command("textmill.errors")
    done = subprocess.run(command, cwd=tmp_path, env=python_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_child_ends_with_a_parent_that_is_killed_outright(tmp_path):
    note = tmp_path / "child"
    parent = os.fork()
    if not parent:
        child = subprocess.Popen(["sleep", "600"], preexec_fn=die_with_parent)
        note.with_suffix(".tmp").write_text(str(child.pid))
        note.with_suffix(".tmp").rename(note)
        time.sleep(600)
        os._exit(0)
    deadline = time.monotonic() + 120
    while not note.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while Path(f"/proc/{note.read_text()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_tethered_module_ends_when_its_parent_lets_go(tmp_path):
    child = subprocess.Popen(
        tethered_command("http.server", "0", "--bind", "127.0.0.1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, cwd=tmp_path, env={**python_environment(), "PYTHONUNBUFFERED": "1"}, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline().startswith("Serving HTTP on 127.0.0.1")  # its arguments are its own
        child.stdin.close()  # as the kernel does when the parent is gone
        assert child.wait(120) == 1
    finally:
        child.kill()
