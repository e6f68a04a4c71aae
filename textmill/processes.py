"""Child processes: started without the working directory on their import path, and ended with their parent."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading

__all__ = ["die_with_parent", "python_command", "python_environment", "run_named_module", "tethered_command"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def python_command(module: str, *arguments: str) -> list[str]:
    """Arguments that run a module in a child with this interpreter.

    With `-P`: a folder of the working directory that is called like one of our packages is not taken for it.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def tethered_command(module: str, *arguments: str) -> list[str]:
    """Arguments that run a module in a child which ends when its standard input does.

    Give it a pipe there (`stdin=subprocess.PIPE`): the kernel closes that when the parent is gone, kill -9 included.
    """
    return python_command(__name__, module, *arguments)


def python_environment() -> dict[str, str]:
    """The environment of a child that imports from where this process does, and whose own children do too.

    That is the working directory where `sys.path` has it as "", as in a notebook.
    """
    paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a string, as the others are
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def die_with_parent() -> None:
    """Run in a child (`preexec_fn`): have the kernel kill it when its parent is gone, kill -9 included, so that it does
    not go on writing where a successor continues. Linux only; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run_named_module() -> None:
    """Go on in this process as `python -m` with the module that the first argument names, and what follows it."""
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    run_named_module()
