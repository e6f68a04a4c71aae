"""Peers that are measured from a checkout of their repository, whose path is an option of the benchmark."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# a file by which a checkout is recognized
NANOGPT_FILE, NANOCHAT_FILE = "train.py", "nanochat/gpt.py"
EFFICIENT_KAN_FILE, FAST_KAN_FILE = "src/efficient_kan/kan.py", "fastkan/fastkan.py"


def add_checkout(parser: argparse.ArgumentParser, name: str, file: str) -> None:
    """Add the option `--NAME PATH`: a checkout of the peer called `name`, in which `file` exists."""

    def checkout(argument: str) -> Path:
        path = Path(argument)
        if not (path / file).is_file():
            raise argparse.ArgumentTypeError(f"no checkout of {name}: {path / file} does not exist")
        return path

    parser.add_argument(
        f"--{name}", type=checkout, metavar="PATH", help=f"checkout of {name}; without it the peer is left out"
    )


@dataclass(frozen=True)
class NanoGPT:
    """nanoGPT's training script on one data set.

    Attributes:
        checkout: a checkout of nanoGPT. The script runs from a copy.
        data: the data set (train.bin, val.bin, meta.pkl).
        out: the folder for the copy, which also gets the checkpoint.
    """

    checkout: Path
    data: Path
    out: Path

    def train(
        self, options: Mapping[str, object], changes: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> str:
        """Run the script to its end and return what it printed.

        Args:
            options: of the script.
            changes: texts of the script, and what stands in their place.
            environment: of the process; that of this process if None.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.checkout, self.out, ignore=shutil.ignore_patterns(".git", "data"))
        (self.out / "data").mkdir()
        (self.out / "data" / "corpus").symlink_to(self.data.absolute())
        script = (self.out / "train.py").read_text()
        for old, new in changes.items():
            script = script.replace(old, new)
        (self.out / "train.py").write_text(script)
        usual = {"dataset": "corpus", "dtype": "bfloat16", "eval_iters": 1, "log_interval": 1}
        command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in {**usual, **options}.items())]
        environment = dict(os.environ if environment is None else environment)
        environment.pop("PYTHONSAFEPATH", None)  # the script imports what lies beside it
        return subprocess.run(command, cwd=self.out, check=True, capture_output=True, env=environment, text=True).stdout


def step_milliseconds(log: str) -> list[float]:
    """Milliseconds of each step, of what nanoGPT's script prints."""
    return [float(milliseconds) for milliseconds in re.findall(r"time ([0-9.]+)ms", log)]
