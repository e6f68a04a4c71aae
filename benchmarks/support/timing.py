"""Contestants in turn, several times, in a process of their own with a fixed number of threads."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

Timed = Callable[[], object]  # what is timed
Contestants = dict[str, Callable[[], Timed]]  # each prepares, which is not timed, and returns what is


def in_turn(contestants: Contestants, repetitions: int) -> dict[str, float]:
    """Median seconds of each.

    Each runs once before, for its compilation and first-time set-up; that is not counted.
    """
    for prepare in contestants.values():
        prepare()()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repetitions):
        for name, prepare in contestants.items():
            timed = prepare()
            gc.collect()
            started = time.perf_counter()
            result = timed()
            seconds[name].append(time.perf_counter() - started)
            del result, timed
    return {name: median(values) for name, values in seconds.items()}


def child(module: str, *arguments: object, threads: int = 2) -> dict[str, Any]:
    """Run `python -m module arguments…`, with the peers' thread pools limited to `threads`.

    Returns:
        The JSON object on the last line that it prints, and its seconds from start to exit as "wall".
    """
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", module, *map(str, arguments)]
    started = time.perf_counter()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if finished.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1]) | {"wall": wall}


def peak_megabytes() -> float:
    """Peak resident memory of this process so far (Linux; getrusage would report the parent's from before exec)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
