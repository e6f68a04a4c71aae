"""Training as a child process of the stage: one process or, by torchrun, many.

A child starts with the allocator set for training, and a killed or failing one takes nothing along. It is in a session
of its own, so whatever interrupts us must be passed on: Prefect tells only the flow's main thread of a cancellation
(`TerminationSignal`, no `Exception`), and then allows 30 seconds, in which the child saves a checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import IO, TypeVar

from flows.engine.devices import reserved
from flows.engine.extending import bring_earlier_steps
from flows.engine.stage import Context, Job, Stage
from modeling.answering.config import AnsweringConfig
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from modeling.config.run import RunConfig
from modeling.device import training_environment
from textmill.errors import Diverged, UserError
from textmill.processes import die_with_parent

GRACE_SECONDS = 25.0
Run = TypeVar("Run", PretrainConfig, FinetuneConfig, AnsweringConfig)
logger = logging.getLogger(__name__)


def train(stage: Stage[Run], job: Job[Run], origin: str, tokens: str = "tokens") -> None:
    """Train on the job's input `tokens` into `job.out`, from its input `origin` (tokenizer or checkpoint). Steps that a
    training in the store has done alike are not done again.

    Raises:
        UserError, RuntimeError: as `launch_training` does.
    """
    from modeling.training.process import command  # torch, which no other stage needs

    bring_earlier_steps(stage, job)
    launch_training(command(job.config, job.path(tokens), job.path(origin), job.out), job.config, job.context)


def launch_training(command: list[str], config: RunConfig, context: Context) -> None:
    """Run a training command (`modeling.training.process.command`) to its end, alone on its GPUs.

    Its progress lines go to the run's progress, what it logs to our log.

    Raises:
        UserError: it wants more GPUs than there are, the child said what the user has to put right, or was killed.
        Diverged: numbers of the training became not finite.
        RuntimeError: it died of anything else; the work folder keeps its last checkpoint.
    """
    mistake: UserError | None = None
    with (
        reserved(config.device, config.processes, context) as confined,
        _child(command, training_environment() | confined) as process,
    ):
        assert process.stdout is not None
        for message in map(json.loads, process.stdout):
            if "error" in message:
                mistake = (Diverged if message.get("diverged") else UserError)(message["error"])
            else:
                context.progress(message.pop("done"), message.pop("total"), **message)
        process.wait()
    if mistake:
        raise mistake
    if process.returncode < 0:
        raise UserError(killed(-process.returncode))
    if process.returncode:
        raise RuntimeError(
            f"training ended with exit status {process.returncode}; run again to continue from its checkpoint"
        )


def killed(number: int) -> str:
    """What to say of a training that this signal has ended."""
    reason = (
        "most likely the system, for lack of memory: set batch or micro_batch lower, or "
        if number == signal.SIGKILL
        else ""
    )
    return (
        f"the training was killed on {socket.gethostname()} by {signal.Signals(number).name}, {reason}"
        "run again to continue from its last checkpoint"
    )


@contextmanager
def _child(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process group that ends with us: an interruption gives it the time to save, and then no more."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    ) as process:
        # in our context, so that Prefect knows which run the lines belong to
        listener = threading.Thread(target=copy_context().run, args=(_relay_log, process.stderr), daemon=True)
        listener.start()
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            listener.join()  # the stream ends with the process


def _relay_log(stream: IO[str]) -> None:
    for line in stream:
        logger.info(line.rstrip())
