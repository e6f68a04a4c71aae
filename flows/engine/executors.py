"""Where shards are worked on: in this process, in several, or on a Dask or a Ray cluster.

    with open_executor(ExecutorConfig(kind="dask", workers=4)) as executor:
        for answer in executor.map(function, shards):
            ...

The domain packages are given a `textmill.mapping.Executor` and know of no cluster.

A shard is not a Prefect task, although Prefect has task runners for all of these: a task on Dask or Ray costs 60 to
80 ms and 20 KB of the server's database, a call a few milliseconds and nothing. The stage stays the task; it reports
after every shard.

Workers need what the run has: the same environment, and the same files at the same paths. For a cluster of several
machines that is a shared folder for the store, or for a bucket's copies (NFS: mounted with `lookupcache=positive`, so
that a file which another machine has just written is seen). Anyone who reaches a cluster's ports may run code on it.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, Field, field_validator, model_validator

from flows.engine.clusters import BatchSystem, JobConfig, check_batch_system, job_cluster, jobs_of, watching_jobs
from textmill.addresses import expand, not_masked
from textmill.errors import UserError
from textmill.files import atomic_path
from textmill.mapping import HERE, Callback, Executor, map_in_order

if TYPE_CHECKING:
    import pyarrow as pa

AHEAD = 4  # shards handed out for each worker: some wait at the worker, so that it is never idle
ATTEMPTS = 4  # how often one shard may lose its worker; Dask's and Ray's own limit
CONNECT_SECONDS = 10
WORKER_SECONDS = 60  # for the workers of a cluster to join

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
Submit = Callable[[Callable[[Item], Result], Item], "Future[Result]"]


class ExecutorConfig(BaseModel, extra="forbid"):
    """Where shards are worked on (reading, extraction, filtering, counting, encoding); the artifacts are the same."""

    kind: Literal["threads", "processes", "dask", "ray"] = Field(
        "threads",
        description="threads: one shard after the other, each by the stage's own threads and children; otherwise "
        "many shards at once, one a worker",
    )
    workers: int | None = Field(
        None, gt=0, description="Worker processes to start here, at first one for each processor; or by a batch system"
    )
    address: str | None = Field(
        None, description="A running cluster to work on instead: Dask's scheduler (tcp://HOST:8786), Ray's (HOST:6379)"
    )

    cluster: BatchSystem | None = Field(
        None, description="A batch system whose jobs are Dask's workers: slurm, pbs, sge, lsf or oar"
    )
    job: JobConfig = Field(default_factory=JobConfig)

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        return address and not_masked(address)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "threads" and self.workers:
            raise ValueError("threads take no workers: set the stages' own, such as pretokenize.threads")
        if self.kind in ("threads", "processes") and self.address:
            raise ValueError(f"{self.kind} run on this machine and take no address: set kind to dask or ray")
        if self.workers and self.address:
            raise ValueError("give workers to start some here, or the address of a running cluster, not both")
        if self.cluster and (self.kind != "dask" or self.address):
            raise ValueError("cluster submits Dask's workers as jobs: set kind to dask, and no address")
        if self.cluster and not self.workers:
            raise ValueError("cluster needs workers: how many the jobs are to have together")
        if self.job != JobConfig() and not self.cluster:
            raise ValueError("job describes the jobs of a batch system: name it by cluster, such as slurm")
        return self

    def local_workers(self) -> int:
        return self.workers or os.cpu_count() or 1


@contextmanager
def open_executor(config: ExecutorConfig) -> Iterator[Executor]:
    """The executor that the configuration names, while the block lasts.

    Processes start, or the cluster is joined, at the first call.

    Raises:
        UserError: in the block: as `check_executor` raises it, or because workers died again and again.
    """
    if config.kind == "threads":
        yield HERE
        return
    with ExitStack() as stack:

        @cache
        def join() -> tuple[Submit[Any, Any], int]:
            _check_installed(config)
            return stack.enter_context(_OPEN[config.kind](config))

        yield Workers(join)


class Workers:
    """The executor of other processes, here or elsewhere: many calls at once, each with one thread.

    `join` starts or finds them: how to submit a call, and how many there are.
    """

    def __init__(self, join: Callable[[], tuple[Submit[Any, Any], int]]) -> None:
        self.join = join

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        submit, workers = self.join()
        return map_in_order(submit, function, items, AHEAD * workers)

    def stream(
        self, function: Callable[[Item], Iterator[pa.Table]], items: Iterable[Item], spool: Path, threads: int = 1
    ) -> Iterator[Iterator[pa.Table]]:
        """The tables of an item come in a file of Arrow's stream format that its worker left in `spool`."""
        jobs = ((item, spool / f"{number:06d}.arrow") for number, item in enumerate(items))
        for spooled in self.map(partial(_spool, function=function), jobs):
            yield _tables_of(spooled)

    def threads(self, wanted: int) -> int:
        return 1

    def report(self, callback: Callback) -> Callback:
        return _unheard  # type: ignore[return-value]


def _unheard(*arguments: object, **metrics: object) -> None:
    """A worker has no way to the run's progress; the end of its shard is seen there."""


class _Spooled(NamedTuple):
    """The tables that a worker made of one item."""

    path: Path
    tables: int
    error: Exception | None  # raised after them


def _spool(job: tuple[Item, Path], function: Callable[[Item], Iterator[pa.Table]]) -> _Spooled:
    """In a worker: write the tables of an item. A table's metadata stay with its batch."""
    import pyarrow as pa

    item, path = job
    count, error = 0, None
    with atomic_path(path, durable=False) as unfinished, ExitStack() as stack:
        file = stack.enter_context(pa.OSFile(str(unfinished), "wb"))
        writer: Any = None
        try:
            for table in function(item):
                if writer is None:
                    writer = stack.enter_context(pa.ipc.new_stream(file, table.schema.remove_metadata()))
                batches = table.replace_schema_metadata(None).combine_chunks().to_batches()
                batch = batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema.remove_metadata())
                writer.write_batch(batch, custom_metadata=table.schema.metadata)
                count += 1
        except Exception as raised:  # for the run to raise, after what came before it
            error = raised
    return _Spooled(path, count, error)


def _tables_of(spooled: _Spooled) -> Iterator[pa.Table]:
    """Read the tables back and remove their file."""
    import pyarrow as pa

    if spooled.tables:
        with pa.memory_map(str(spooled.path)) as file, pa.ipc.open_stream(file) as stream:
            for _ in range(spooled.tables):
                batch, metadata = stream.read_next_batch_with_custom_metadata()
                yield pa.Table.from_batches([batch]).replace_schema_metadata(metadata)
    spooled.path.unlink()
    if spooled.error:
        raise spooled.error


def check_executor(config: ExecutorConfig) -> None:
    """Make sure, before any work, that the executor can be used.

    Raises:
        UserError: its package is not installed, no cluster answers at its address, or no job can be submitted.
    """
    _check_installed(config)
    if config.cluster:
        check_batch_system(config.cluster)
    if config.address:
        with _OPEN[config.kind](config):
            pass


def _check_installed(config: ExecutorConfig) -> None:
    package = {"dask": "distributed", "ray": "ray"}.get(config.kind)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"runner {config.kind} needs a package that is missing: pip install 'textmill[{config.kind}]'")


def _lost(config: ExecutorConfig) -> UserError:
    return UserError(
        f"runner {config.kind}: one shard lost its worker {ATTEMPTS} times, most likely to a lack of memory; "
        "lower runner.workers, or give the workers more memory. What was finished is kept: run again"
    )


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _open_processes(config: ExecutorConfig) -> Iterator[tuple[Submit[Any, Any], int]]:
    workers = config.local_workers()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="shard")
    with closing(_Processes(workers, config)) as processes:
        try:
            # A thread for each process sees its shard through, whatever becomes of the process.
            yield lambda function, item: threads.submit(processes.call, function, item), workers
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


class _Processes:
    """A process pool that is replaced when one of its processes dies, which breaks a pool of the standard library."""

    def __init__(self, workers: int, config: ExecutorConfig) -> None:
        self._workers, self._config = workers, config
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._theirs, self._lifeline = self._context.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._new_pool()

    def call(self, function: Callable[[Item], Result], item: Item) -> Result:
        for _ in range(ATTEMPTS):
            pool = self._pool
            try:
                return pool.submit(function, item).result()
            except BrokenProcessPool:
                self._replace(pool)
        raise _lost(self._config)

    def close(self) -> None:
        """End the processes now, also those at work."""
        self._closed = True
        self._lifeline.close()
        self._pool.shutdown()

    def _replace(self, broken: Pool) -> None:
        with self._lock:
            if self._closed:
                raise UserError("the run ended before its shards were finished: run again to continue")
            if self._pool is broken:  # the first to notice
                logger.warning("A worker process died; its shard is given to another")
                broken.shutdown(wait=False)
                self._pool = self._new_pool()

    def _new_pool(self) -> Pool:
        return ProcessPoolExecutor(self._workers, self._context, initializer=_end_with, initargs=(self._theirs,))


def _end_with(lifeline: Connection) -> None:
    """In a worker: end when the other side of the connection is gone, closed on purpose or by a kill -9 of the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the run's to handle

    def wait() -> None:
        lifeline.poll(None)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


# --- Dask -------------------------------------------------------------------------------------------------------------


@contextmanager
def _open_dask(config: ExecutorConfig) -> Iterator[tuple[Submit[Any, Any], int]]:
    from distributed import Client, KilledWorker, LocalCluster
    from distributed.client import FutureCancelledError

    with ExitStack() as stack:
        if config.address:
            client = _join_dask(expand(config.address))
        elif config.cluster:
            check_batch_system(config.cluster)
            client = Client(
                stack.enter_context(job_cluster(config.cluster, config.job, config.local_workers())),
                set_as_default=False,
            )
        else:
            cluster = LocalCluster(
                n_workers=config.local_workers(),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port, for this machine alone
                memory_limit=None,  # a worker over its share would be killed; the shards themselves are bounded
                security=True,  # certificates of its own: anyone who may connect may run code
                silence_logs=logging.ERROR,
            )
            client = Client(stack.enter_context(cluster), set_as_default=False)
        stack.enter_context(client)
        workers = sum(client.nthreads().values())
        if config.cluster:
            workers = config.local_workers()
            jobs = jobs_of(config.job, workers)
            logger.info("Submitted %d jobs; shards are worked on as they start; logs in %s", jobs, config.job.folder)
            stack.enter_context(watching_jobs(client, client.close))
        try:
            yield partial(client.submit, pure=False), workers
        except KilledWorker as error:
            if not config.address:  # a worker cannot be stopped while it is being started again
                with suppress(TimeoutError):
                    client.wait_for_workers(config.local_workers(), timeout=WORKER_SECONDS)
            raise _lost(config) from error
        except FutureCancelledError as error:
            gone = "all jobs of the cluster have ended" if config.cluster else "the Dask scheduler is gone"
            raise UserError(f"{gone}; what was finished is kept: run again to continue") from error


def _join_dask(address: str) -> Any:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, or correct runner.address"
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        client.close()
        raise UserError(f"the Dask scheduler at {address} has no workers: `dask worker {address}` adds some") from error
    return client


# --- Ray --------------------------------------------------------------------------------------------------------------


@contextmanager
def _open_ray(config: ExecutorConfig) -> Iterator[tuple[Submit[Any, Any], int]]:
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address:
        address = expand(config.address)
        _check_ray_answers(address)
        ray.init(address=address, **quiet)
    else:
        ray.init(num_cpus=config.local_workers(), include_dashboard=False, **quiet)

    def call(function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)

    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(call)
    try:
        yield lambda function, item: remote.remote(function, item).future(), int(ray.cluster_resources()["CPU"])
    except RayTaskError as error:
        raise error.cause from None  # as the function raised it
    except (OutOfMemoryError, WorkerCrashedError) as error:
        raise _lost(config) from error
    finally:
        ray.shutdown()


def _check_ray_answers(address: str) -> None:
    """Ray itself would try for a minute and more."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address}: start one with `ray start --head`, or correct runner.address"
        ) from error


_OPEN: dict[str, Callable[[ExecutorConfig], AbstractContextManager[tuple[Submit[Any, Any], int]]]] = {
    "processes": _open_processes,
    "dask": _open_dask,
    "ray": _open_ray,
}
