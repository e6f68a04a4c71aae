"""Training as a process of its own: `python -m modeling.training.process TASK …`, also for torchrun.

A process of its own starts with the allocator set for training (`device.training_environment`), can be told to stop
without taking its parent along, and can be many. It prints one JSON object a line on stdout:

    {"done": 10, "total": 300, "unit": "steps", "loss": 5.1, …}     progress
    {"error": "…"}                                                  a mistake of the user's, with exit status 2
    {"error": "…", "diverged": true}                                the same: numbers became not finite

SIGTERM saves a checkpoint and ends the process; the same command continues, also with another number of ranks.

On several machines that share the folders, start this on each, with torchrun's own rendezvous:

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \\
    torchrun --nnodes=4 --nproc-per-node=8 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=FIRST-HOST:29500 \\
        -m modeling.training.process pretrain --config CONFIG.json --tokens TOKENS --origin TOKENIZER --out OUT

The variable matters once a rank dies. Without it torchrun lends the ranks its own key-value store, the same one for
every restart, and a restarted rank may read there where its peers listened before they died: it fails to connect, or
waits half an hour for a process that is gone. With it, each start has a store of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
from pydantic import ValidationError

from modeling.answering.config import AnsweringConfig
from modeling.answering.tune import tune
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from modeling.training.distributed import under_torchrun
from modeling.training.finetune import finetune
from modeling.training.pretrain import pretrain
from textmill.disk import disk_complaint
from textmill.errors import Diverged, UserError
from textmill.processes import die_with_parent, python_command

__all__ = ["command", "main"]

MODULE = "modeling.training.process"
Config = PretrainConfig | FinetuneConfig | AnsweringConfig
TASKS: dict[str, type[Config]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "answering": AnsweringConfig}
SECONDS_FOR_RANK_0 = 5.0
# For the ranks: a store of their own at every start, see above, and no import from the working directory
TORCHRUN_ENVIRONMENT = ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "PYTHONSAFEPATH=1")


def command(config: Config, tokens: Path, origin: Path, out: Path) -> list[str]:
    """Arguments that start this module; run them in the environment of `device.training_environment`.

    More than one of `config.processes` are ranks started by torchrun on this machine, on a free port, and restarted
    together up to three times if one dies; across machines, call torchrun with its own rendezvous options.

    Args:
        config: its type says whether to pretrain, to fine-tune or to tune on questions.
        tokens: folder of token arrays, or of questions.
        origin: the tokenizer to pretrain with, or the checkpoint to tune.
        out: folder to fill.
    """
    task = next(name for name, kind in TASKS.items() if isinstance(config, kind))
    paths = ["--tokens", str(tokens), "--origin", str(origin), "--out", str(out)]
    arguments = [task, "--config", config.model_dump_json(), *paths]
    if config.processes == 1:
        return python_command(MODULE, *arguments)
    options = ["--standalone", f"--nproc-per-node={config.processes}", "--max-restarts=3", "-m", MODULE]
    return ["env", *TORCHRUN_ENVIRONMENT, *python_command("torch.distributed.run", *options, *arguments)]


def write_line(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def is_rank_0() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def write_progress(done: float, total: float | None = None, **details: object) -> None:
    """A `Progress` that a parent process reads."""
    if is_rank_0():
        write_line({"done": done, "total": total} | details)


def main(arguments: list[str] | None = None) -> int:
    """Run the task that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m modeling.training.process", description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--config", required=True, help="settings as JSON, or a file that holds them")
    parser.add_argument("--tokens", required=True, type=Path, help="folder of token arrays (answering: questions)")
    parser.add_argument("--origin", required=True, type=Path, help="tokenizer (pretrain) or checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder to fill; what a killed run left is continued")
    given = parser.parse_args(arguments)
    if under_torchrun():  # ranks are in sessions of their own: nothing else ends them if torchrun is killed outright
        die_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        config = TASKS[given.task].model_validate_json(read_config(given.config))
        given.out.mkdir(parents=True, exist_ok=True)
        match config:
            case PretrainConfig():
                pretrain(given.tokens, given.origin, config, given.out, write_progress)
            case FinetuneConfig():
                finetune(given.origin, given.tokens, config, given.out, write_progress)
            case AnsweringConfig():
                tune(given.origin, given.tokens, config, given.out, write_progress)
    except ValidationError as error:
        first = error.errors()[0]
        return report_mistake(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except UserError as error:
        return report_mistake(str(error), diverged=isinstance(error, Diverged))
    except torch.OutOfMemoryError as error:  # outside of a step, which says what would fit
        return report_mistake(
            f"the device's memory does not suffice ({str(error).splitlines()[0]}); set micro_batch lower"
        )
    except Exception as error:
        if complaint := disk_complaint(error, given.out):
            return report_mistake(complaint)
        raise
    return 0


def read_config(given: str) -> str:
    """The value of `--config` if it is JSON, else the content of the file that it names."""
    if given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {given} cannot be read ({error}); give JSON, or a file that holds it") from error


def report_mistake(error: str, *, diverged: bool = False) -> int:
    """Tell the parent what the user has to put right, and end all ranks; the exit status.

    Ranks started again would only make the same mistake. Any rank may be the one that meets it, as each has a device
    and a memory of its own. Mostly all of them do, so the others wait for rank 0 to tell it, and are ended meanwhile.
    """
    if under_torchrun() and not is_rank_0():
        time.sleep(SECONDS_FOR_RANK_0)
    write_line({"error": error} | ({"diverged": True} if diverged else {}))
    if under_torchrun():
        os.kill(os.getppid(), signal.SIGTERM)
    return 2


if __name__ == "__main__":
    sys.exit(main())
