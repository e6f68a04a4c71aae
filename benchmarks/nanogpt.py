"""nanoGPT's training script, run from a copy of a checkout that is given by its path."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def train(
    checkout: Path, data: Path, out: Path, options: Mapping[str, object], changes: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Train on the data set in `data` (train.bin, val.bin, meta.pkl) with these options; what the script prints.

    changes: texts of the script, and what stands in their place. The copy in `out` gets the checkpoint, too.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(checkout, out, ignore=shutil.ignore_patterns(".git", "data"))
    (out / "data").mkdir()
    (out / "data" / "corpus").symlink_to(data.absolute())
    script = (out / "train.py").read_text()
    for old, new in changes.items():
        script = script.replace(old, new)
    (out / "train.py").write_text(script)
    usual = {"dataset": "corpus", "dtype": "bfloat16", "eval_iters": 1, "log_interval": 1}
    arguments = [f"--{name}={value}" for name, value in (usual | options).items()]
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(command, cwd=out, check=True, capture_output=True, env=environment, text=True).stdout


def step_milliseconds(log: str) -> list[float]:
    """What each step took, of what the script prints."""
    return [float(milliseconds) for milliseconds in re.findall(r"time ([0-9.]+)ms", log)]
