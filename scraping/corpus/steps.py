"""How the parallel steps of `prepare` run: on the executor of the stage, with progress in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from textmill.mapping import Executor
from textmill.progress import Progress

Job = TypeVar("Job")
Job_contra = TypeVar("Job_contra", contravariant=True)


class Work(Protocol[Job_contra]):
    """What a step does for one of its jobs; it can be pickled, and leaves finished files."""

    def __call__(self, job: Job_contra, /, *, children: int, report: Callable[[int], None]) -> None:
        """Do a job with so many child processes; `report` says how many of its rows are done."""


class Execution(NamedTuple):
    """Where the jobs of a step are done, and how."""

    executor: Executor
    workers: int  # child processes, where jobs are done one after the other
    progress: Progress

    @property
    def children(self) -> int:
        """How many child processes one job may start."""
        return self.executor.threads(self.workers)

    def run(self, work: Work[Job], jobs: Iterable[tuple[Job, int]], total: int, *, unit: str, phase: str) -> None:
        """Do all jobs.

        Args:
            work: what to do for each.
            jobs: each with its number of rows.
            total: rows of all jobs of the step; what is not in `jobs` was done by an earlier run.
            unit: what a row is, in the plural.
            phase: what the step is called.
        """
        jobs = list(jobs)
        done = total - sum(rows for _, rows in jobs)

        def report(rows: int) -> None:
            self.progress(done + rows, total, unit=unit, phase=phase)

        call = partial(work, children=self.children, report=self.executor.report(report))
        finished = self.executor.map(call, [job for job, _ in jobs])
        for (_, rows), _ in zip(jobs, finished, strict=True):
            done += rows
            report(0)
