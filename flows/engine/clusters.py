"""Dask workers as jobs of a batch system (Slurm, PBS, SGE, LSF, OAR), by dask-jobqueue.

The run is Dask's scheduler; it submits jobs, each of as many workers as the job has processors, and ends them with
itself. It may wait long for them to start, and works with those that have. A job that the batch system ends, for its
wall time or otherwise, gives its shards back to the others.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from textmill.errors import UserError
from textmill.processes import python_environment

BatchSystem = Literal["slurm", "pbs", "sge", "lsf", "oar"]

# The class of dask-jobqueue, the command that submits, and what the class calls an account.
SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch", "account"),
    "pbs": ("PBSCluster", "qsub", "account"),
    "sge": ("SGECluster", "qsub", "project"),
    "lsf": ("LSFCluster", "bsub", "project"),
    "oar": ("OARCluster", "oarsub", "project"),
}
LOOK_SECONDS = 10.0
LOOKS = 30  # in a row at which no worker is left, after there were some
logger = logging.getLogger(__name__)


class JobConfig(BaseModel, extra="forbid"):
    """One job of a batch system: what it asks for. A worker works on each of its processors."""

    queue: str | None = Field(None, description="Queue; Slurm's partition")
    account: str | None = Field(None, description="Account, or project, that pays")
    cores: int = Field(1, gt=0, description="Processors of a job")
    memory: str = Field(
        "4GB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$", description="Memory of a job, for all its workers (16GB)"
    )
    walltime: str = Field(
        "01:00:00", pattern=r"^(\d+-)?\d{1,3}:\d\d(:\d\d)?$", description="Time after which the job is ended"
    )
    directives: list[str] = Field([], description="Further options as the batch system writes them (--qos=high)")
    prologue: list[str] = Field([], description="Lines of shell before the workers start (module load gcc)")
    interface: str | None = Field(None, description="Network interface that reaches the other machines (ib0)")
    folder: str = Field("jobs", description="For the jobs' logs and the keys to the scheduler; all machines see it")


def check_batch_system(system: BatchSystem) -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        UserError: a package or the command is missing.
    """
    command = SYSTEMS[system][1]
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise UserError(f"runner.cluster {system} needs a package that is missing: pip install 'textmill[dask]'")
    if shutil.which(command) is None:
        raise UserError(
            f"runner.cluster {system} needs the command {command}, which is missing here: start the run where "
            "jobs can be submitted"
        )


def job_cluster(system: BatchSystem, job: JobConfig, workers: int) -> Any:
    """The `dask_jobqueue.JobQueueCluster` of so many workers; its jobs are submitted.

    Raises:
        UserError: the folder cannot be written, or the batch system refuses a job.
    """
    import dask_jobqueue

    name, command, account = SYSTEMS[system]
    folder = Path(job.folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"runner.job.folder {folder} cannot be made ({error.strerror}): name another") from error
    path = shlex.quote(python_environment()["PYTHONPATH"])
    cluster = getattr(dask_jobqueue, name)(
        cores=job.cores,
        processes=job.cores,
        memory=job.memory,
        queue=job.queue,
        walltime=job.walltime,
        job_extra_directives=job.directives,
        job_script_prologue=[*job.prologue, f"export PYTHONPATH={path}"],
        job_name="textmill",
        interface=job.interface,
        log_directory=str(folder),
        shared_temp_directory=str(folder),
        security=True,  # keys of its own: anyone who may connect may run code
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
        worker_extra_args=["--memory-limit", "0"],  # the job's memory is the batch system's to guard
        config_name=system,
        **{account: job.account},
    )

    async def submit() -> None:
        """As `cluster.scale` does, which leaves an error to a log."""
        while len(cluster.worker_spec) < jobs_of(job, workers):
            cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster._correct_state()

    try:
        cluster.sync(submit)
    except (RuntimeError, ValueError) as error:  # an exit status, an answer that is not understood
        with suppress(Exception):
            cluster.close()
        raise UserError(f"{command} refused a job ({_refusal(error)}): correct runner.job") from error
    return cluster


def _refusal(error: Exception) -> str:
    """What the batch system said, out of dask-jobqueue's report."""
    said = f"{error.__cause__ or error}".partition("stderr:\n")[2]
    return " ".join(said.split()) or str(error).partition("\n")[0]


def jobs_of(job: JobConfig, workers: int) -> int:
    return math.ceil(workers / job.cores)


@contextmanager
def watching_jobs(client: Any, ended: Callable[[], None]) -> Iterator[None]:
    """Call `ended` once there have been workers and for some minutes none is left: no job comes back by itself."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    stop, joined = threading.Event(), threading.Event()

    class Joined(SchedulerPlugin):  # type: ignore[misc]
        """Notes that a worker has joined, however shortly it stayed."""

        def add_worker(self, *_: Any, **__: Any) -> None:
            joined.set()

    client.cluster.scheduler.add_plugin(Joined(), name="textmill-joined")

    def watch() -> None:
        without, said = 0, False
        while not stop.wait(LOOK_SECONDS) and without < LOOKS:
            there = bool(client.nthreads())
            if there and not said:
                logger.info("The first job's workers are at work")
                said = True
            without = 0 if there or not joined.is_set() else without + 1
        if not stop.is_set():
            ended()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
