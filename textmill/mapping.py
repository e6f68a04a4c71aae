"""Where a stage's function is called for each of its shards: in this process, in others, or on a cluster.

A step of a stage is written once, as a function of one shard, and handed to an `Executor`:

    for file in executor.map(partial(encode_shard, threads=executor.threads(config.threads)), shards):
        progress(...)

The function can be pickled, writes finished files at absolute paths, and returns little: it may run on another machine
that sees the same folders. What it writes depends neither on where it ran nor on how often (a worker that dies costs
the shard it had; a cluster may run a shard twice), so every executor gives the same bytes. `HERE` is the executor of
this process; `flows.engine.executors` has those of processes, Dask and Ray.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

__all__ = ["HERE", "Executor", "Here", "Threads", "map_in_order", "stream_in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Callback = TypeVar("Callback", bound=Callable[..., None])

STREAM_AHEAD = 2  # results of one item that wait for the consumer


class Executor(Protocol):
    """Calls a function for many items and hands on the results in the order of the items."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Like the builtin `map`. An exception of a call is raised here, in its turn."""

    def stream(
        self, function: Callable[[Item], Iterator[Result]], items: Iterable[Item], spool: Path, threads: int = 1
    ) -> Iterator[Iterator[Result]]:
        """Like `map`, for a function whose results are too many to be held: it yields Arrow tables, one by one.

        Args:
            function: yields the tables of one item; an exception after some of them is raised after these.
            items: consumed in order, only a few ahead.
            spool: an empty folder for tables on their way from another process.
            threads: how many items are worked on at once where the executor works in this process.

        Yields:
            for each item in turn, the iterator of its tables; consume one before asking for the next.
        """

    def threads(self, wanted: int) -> int:
        """How many threads or children one call may use: `wanted` if calls follow one another in this process, else 1,
        because other calls have the other processors."""

    def report(self, callback: Callback) -> Callback:
        """What a call may tell how far it is: `callback` if it runs in this process, else one that does nothing."""


class Here:
    """The executor of this process: one call after the other, each with all the threads it wants."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)

    def stream(
        self, function: Callable[[Item], Iterator[Result]], items: Iterable[Item], spool: Path, threads: int = 1
    ) -> Iterator[Iterator[Result]]:
        return stream_in_order(function, items, threads)

    def threads(self, wanted: int) -> int:
        return wanted

    def report(self, callback: Callback) -> Callback:
        return callback


HERE = Here()


class Threads(ThreadPoolExecutor):
    """Threads that work in the context of whoever gives them the work: what they log belongs to the same run."""

    def submit(self, function: Callable[..., Result], /, *args: Any, **named: Any) -> Future[Result]:
        return super().submit(copy_context().run, function, *args, **named)


def map_in_order(
    submit: Callable[[Callable[[Item], Result], Item], Future[Result]],
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """Like `map`, with calls handed to `submit` and at most `ahead` items taken whose results were not yet handed on.

    Example:
        >>> with Threads(2) as pool:
        ...     list(map_in_order(pool.submit, abs, [-1, 2, -3], ahead=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def stream_in_order(
    function: Callable[[Item], Iterator[Result]], items: Iterable[Item], threads: int
) -> Iterator[Iterator[Result]]:
    """The results of `function` for `threads` items at a time, each worked on in a thread and `STREAM_AHEAD` results
    ahead of the consumer: an iterator of results for each item, in order.

    Example:
        >>> [list(results) for results in stream_in_order(lambda n: iter(range(n)), [1, 3], threads=2)]
        [[0], [0, 1, 2]]
    """
    stop = threading.Event()
    running: deque[queue.Queue[Any]] = deque()
    end = object()

    def put(results: queue.Queue[Any], result: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                results.put(result, timeout=0.2)
                return

    def work(item: Item, results: queue.Queue[Any]) -> None:
        try:
            for result in function(item):
                put(results, (result, None))
                if stop.is_set():
                    return
            put(results, (end, None))
        except BaseException as error:  # for the consumer to raise
            put(results, (end, error))

    def results_of(results: queue.Queue[Any]) -> Iterator[Result]:
        while True:
            result, error = results.get()
            if error is not None:
                raise error
            if result is end:
                return
            yield result

    with Threads(threads, thread_name_prefix="stream") as pool:
        try:
            for item in items:
                results: queue.Queue[Any] = queue.Queue(STREAM_AHEAD)
                pool.submit(work, item, results)
                running.append(results)
                if len(running) == threads:
                    yield results_of(running.popleft())
            while running:
                yield results_of(running.popleft())
        finally:
            stop.set()
