"""What full runs of experiments came to, as files that are kept: `experiments/results/PIPELINE/NAME.json`.

Each says on which machine, at which commit and when, so that a chapter grows experiment by experiment, over days and
machines; what a claim came to on one pipeline does not take the place of what it came to on another. What was only
tried with `--quick` lies in a folder of its own.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textmill.errors import UserError
from textmill.files import atomic_write

__all__ = ["QUICK", "RESULTS", "keep", "kept", "verdicts"]

RESULTS = Path("experiments") / "results"  # in the folder of a project
QUICK = "quick"


def keep(stats: Mapping[str, Any], pipeline: str, commit: str, folder: Path = RESULTS) -> Path:
    """Write what an experiment came to, whole or not at all; an older result on the same pipeline is replaced.

    Args:
        stats: what `comparison` gave.
        pipeline: name of the configuration that its variants change.
        commit: the version of the code that built it.
        folder: of the results.
    """
    place = (folder / QUICK if stats["quick"] else folder) / _folder_name(pipeline)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{stats['experiment']}.json"
    about = {
        "date": datetime.now(UTC).date().isoformat(), "commit": commit, "machine": machine(), "pipeline": pipeline,
    }  # fmt: skip
    atomic_write(path, json.dumps({**about, **stats}, indent=1) + "\n")
    return path


def _folder_name(pipeline: str) -> str:
    """Another one for each name, none of which leads elsewhere or is hidden."""
    name = quote(pipeline, safe=" ")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def kept(folder: Path = RESULTS, *, quick: bool = False) -> list[dict[str, Any]]:
    """The results that are there, by the names of their experiments and pipelines.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    place = folder / QUICK if quick else folder
    for path in place.glob("*.json"):
        raise UserError(f"{path}: results lie in a folder of their pipeline; move it to {place}/PIPELINE/{path.name}")
    results = []
    for path in sorted(place.glob("*/*.json"), key=lambda path: (path.name, path.parent.name)):
        try:
            result = json.loads(path.read_text("utf-8"))
            _ = result["experiment"], result["pipeline"], result["verdict"], result["variants"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a result that this version reads; run the experiment again") from error
        results.append(result)
    if not results:
        raise UserError(f"there are no results in {place}: textmill experiment run NAME{' --quick' * quick}")
    return results


def machine() -> str:
    """This machine in a few words: processor, cores and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    return ", ".join([_processor(), cores, *gpus])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def verdicts(folder: Path = RESULTS) -> dict[str, dict[str, str]]:
    """The verdicts that are kept, by experiment and pipeline."""
    known: dict[str, dict[str, str]] = {}
    for result in kept(folder) if any(folder.rglob("*.json")) else []:
        known.setdefault(result["experiment"], {})[result["pipeline"]] = result["verdict"]
    return known
