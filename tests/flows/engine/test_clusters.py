"""Workers as jobs of a batch system: what is submitted, and runs on a Slurm whose `sbatch` starts jobs right here."""

from __future__ import annotations

import importlib.util
import operator
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.engine import clusters
from flows.engine.executors import ExecutorConfig, check_executor, open_executor
from textmill.errors import UserError

needs_jobqueue = pytest.mark.skipif(
    not importlib.util.find_spec("dask_jobqueue"), reason="needs pip install textmill[dask]"
)
pytestmark = pytest.mark.long

KEEP = 'cp "$1" "$SCRIPTS/job-$$"; echo "Submitted batch job $$, OAR_JOB_ID=$$"'
# A script is deleted as soon as it was submitted: a batch system has its own copy by then.
START = (
    'cp "$1" "$SCRIPTS/job-$$"; setsid bash "$SCRIPTS/job-$$" >"$SCRIPTS/log-$$" 2>&1 & echo "Submitted batch job $!"'
)
ACCOUNT_PROBLEM = "echo 'sbatch: error: Invalid account or partition' >&2; exit 1"


@pytest.fixture
def batch_system(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Give this machine commands of a batch system, by their shell scripts; the folder they write to."""

    def commands(**scripts: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("SCRIPTS", str(tmp_path))
        return tmp_path

    return commands


def config(folder: Path, system: str = "slurm", workers: int = 4, **job) -> ExecutorConfig:
    return ExecutorConfig(
        kind="dask", cluster=system, workers=workers, job={"folder": str(folder / "jobs"), "cores": 2, **job}
    )


@needs_jobqueue
@pytest.mark.parametrize(
    ("system", "command", "lines"),
    [
        ("slurm", "sbatch", ["-p long", "-A lab", "-t 04:00:00", "--cpus-per-task=2", "--mem=15G", "-J textmill"]),
        ("pbs", "qsub", ["-q long", "-A lab", "-l walltime=04:00:00", "-l select=1:ncpus=2:mem=15GB"]),
        ("sge", "qsub", ["-q long", "-P lab", "-l h_rt=04:00:00"]),
        ("oar", "oarsub", ["-q long", "--project lab", "-l /nodes=1/core=2,walltime=04:00:00"]),
    ],
)
def test_a_job_asks_for_what_was_configured(system, command, lines, batch_system):
    folder = batch_system(**{command: KEEP, "scancel": "", "qdel": "", "oardel": ""})
    wanted = config(
        folder, system, queue="long", account="lab", memory="16GB", walltime="04:00:00",
        directives=["--comment=ours"], prologue=["module load gcc"],
    )  # fmt: skip
    check_executor(wanted)
    with clusters.job_cluster(system, wanted.job, 4) as cluster:
        scripts = [path.read_text() for path in folder.glob("job-*")] or [cluster.job_script()] * 2
    assert len(scripts) == 2  # two workers a job
    for line in [*lines, "--comment=ours"]:
        assert any(directive.endswith(line) for directive in scripts[0].splitlines() if directive.startswith("#")), line
    module, path, worker = [line for line in scripts[0].splitlines() if line and line[0] != "#"][-3:]
    assert module == "module load gcc" and path.startswith("export PYTHONPATH=")
    assert worker.startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://")
    assert "--nworkers 2" in worker and "--nthreads 1" in worker and "--tls-key" in worker


@needs_jobqueue
@pytest.mark.slow
def test_shards_are_worked_on_by_jobs_of_slurm(batch_system):
    folder = batch_system(sbatch=START, scancel='kill -- -"$1"')
    with open_executor(config(folder)) as executor:
        assert list(executor.map(operator.neg, range(20))) == [-number for number in range(20)]
    assert len(list(folder.glob("log-*"))) == 2


@needs_jobqueue
@pytest.mark.slow
def test_a_run_whose_jobs_have_ended_says_so(batch_system, monkeypatch):
    monkeypatch.setattr(clusters, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(clusters, "LOOKS", 3)
    folder = batch_system(sbatch=START, scancel="")
    with (
        pytest.raises(UserError, match=r"all jobs of the cluster have ended; what was finished is kept: run again"),
        open_executor(config(folder, workers=2)) as executor,
    ):
        list(executor.map(_end_job, [1]))


def _end_job(_: int) -> None:
    """As the batch system does at the wall time."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


@needs_jobqueue
def test_a_job_that_is_refused_is_one_line(batch_system):
    folder = batch_system(sbatch=ACCOUNT_PROBLEM)
    with (
        pytest.raises(UserError, match=r"^sbatch refused a job \(sbatch: error: Invalid account or .*\)"),
        open_executor(config(folder)) as executor,
    ):
        list(executor.map(operator.neg, [1]))


def test_what_is_missing_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dask_jobqueue" else found(name))
    with pytest.raises(UserError, match=r"runner.cluster slurm needs a package .*: pip install 'textmill\[dask\]'"):
        check_executor(config(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=r"runner.cluster slurm needs the command sbatch, which is missing here"):
        check_executor(config(tmp_path))


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"kind": "ray", "cluster": "slurm", "workers": 2}, "set kind to dask, and no address"),
        ({"kind": "dask", "cluster": "slurm", "address": "tcp://a:1"}, "set kind to dask, and no address"),
        ({"kind": "dask", "cluster": "slurm"}, "cluster needs workers"),
        ({"kind": "dask", "workers": 2, "job": {"cores": 4}}, "job describes the jobs of a batch system"),
        ({"kind": "dask", "cluster": "slurm", "workers": 2, "job": {"memory": "much"}}, "memory"),
        ({"kind": "dask", "cluster": "slurm", "workers": 2, "job": {"walltime": "long"}}, "walltime"),
    ],
)
def test_what_does_not_fit_is_a_mistake(settings, mistake):
    with pytest.raises(ValidationError, match=mistake):
        ExecutorConfig(**settings)
