"""Training as a process of its own: `python -m modeling.training.process pretrain|finetune …`, also for torchrun.

A process of its own starts with the allocator set for training (`device.training_environment`), can be told to stop
without taking its parent along, and can be many. It prints one JSON object a line on stdout:

    {"done": 10, "total": 300, "unit": "steps", "loss": 5.1, …}     progress
    {"error": "…"}                                                  a mistake of the user's, with exit status 2

SIGTERM saves a checkpoint and ends the process; the same command continues, also with another number of ranks.

On several machines that share the folders, start this on each, with torchrun's own rendezvous:

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \\
    torchrun --nnodes=4 --nproc-per-node=8 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=FIRST-HOST:29500 \\
        -m modeling.training.process pretrain --config CONFIG.json --tokens TOKENS --origin TOKENIZER --out OUT

The variable matters once a rank dies. Without it torchrun lends the ranks its own key-value store, the same one for
every restart, and a restarted rank may read there where its peers listened before they died: it fails to connect, or
waits half an hour for a stranger. With it, each start has a store of its own.
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
from pydantic import BaseModel, ValidationError

from modeling.config import FinetuneConfig, PretrainConfig
from modeling.training.distributed import under_torchrun
from modeling.training.finetune import finetune
from modeling.training.pretrain import pretrain
from textmill.errors import UserError
from textmill.processes import die_with_parent

SECONDS_FOR_THE_FIRST = 5.0
FRESH_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"  # for every start of the ranks, see above


def command(config: PretrainConfig | FinetuneConfig, tokens: Path, origin: Path, out: Path) -> list[str]:
    """Arguments that start this module: `origin` is the tokenizer to pretrain with, or the checkpoint to fine-tune.

    More than one of `config.processes` are ranks started by torchrun on this machine, on a free port, and restarted
    together up to three times if one dies; across machines, call torchrun with its own rendezvous options.
    """
    launcher = [sys.executable]
    if config.processes > 1:
        count = f"--nproc-per-node={config.processes}"
        torchrun = [*launcher, "-m", "torch.distributed.run"]
        launcher = ["env", FRESH_STORE, *torchrun, "--standalone", count, "--max-restarts=3"]
    task = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
    paths = ["--tokens", str(tokens), "--origin", str(origin), "--out", str(out)]
    return [*launcher, "-m", "modeling.training.process", task, "--config", config.model_dump_json(), *paths]


def say(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def is_first() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def report(done: int, total: int | None = None, **figures: object) -> None:
    if is_first():
        say({"done": done, "total": total} | figures)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m modeling.training.process", description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["pretrain", "finetune"])
    parser.add_argument("--config", required=True, help="settings as JSON, or a file that holds them")
    parser.add_argument("--tokens", required=True, type=Path, help="folder of token arrays")
    parser.add_argument("--origin", required=True, type=Path, help="tokenizer (pretrain) or checkpoint (finetune)")
    parser.add_argument("--out", required=True, type=Path, help="folder to fill; what a killed run left is continued")
    given = parser.parse_args(arguments)
    if under_torchrun():  # ranks are in sessions of their own: nothing else ends them if torchrun is killed outright
        die_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    kind: type[BaseModel] = PretrainConfig if given.task == "pretrain" else FinetuneConfig
    try:
        config = kind.model_validate_json(settings(given.config))
        given.out.mkdir(parents=True, exist_ok=True)
        if given.task == "pretrain":
            pretrain(given.tokens, given.origin, config, given.out, report)
        else:
            finetune(given.origin, given.tokens, config, given.out, report)
    except ValidationError as error:
        first = error.errors()[0]
        return give_up(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except UserError as error:
        return give_up(str(error))
    except torch.OutOfMemoryError as error:  # outside of a step, which says what would fit
        return give_up(f"the device's memory does not suffice ({str(error).splitlines()[0]}); set micro_batch lower")
    return 0


def settings(given: str) -> str:
    """The JSON that was given, or that the file holds which was."""
    if given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {given} cannot be read ({error}); give JSON, or a file that holds it") from error


def give_up(error: str) -> int:
    """Say what the user has to put right; the exit status. Ranks started again would only make the same mistake.

    Any rank may be the one that meets it: each has a device and a memory of its own. Mostly all do, so the others let
    the first tell it, and are ended meanwhile.
    """
    if under_torchrun() and not is_first():
        time.sleep(SECONDS_FOR_THE_FIRST)
    say({"error": error})
    if under_torchrun():
        os.kill(os.getppid(), signal.SIGTERM)
    return 2


if __name__ == "__main__":
    sys.exit(main())
