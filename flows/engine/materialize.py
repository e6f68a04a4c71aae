"""The artifact of a stage: reused, or built in a work folder that survives crashes, and sealed."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flows.engine.assess import Assessment, assess, check_available
from flows.engine.stage import Config, Context, Inputs, Job, Outcome, Stage, each_of, listed
from flows.store.local import Artifact, Damaged, now
from flows.store.manifest import Manifest, describe_files
from textmill.errors import UserError
from textmill.files import remove_temporary
from textmill.secrets import masked


def materialize(stage: Stage[Config], config: Config, inputs: Inputs, context: Context) -> Outcome:
    """The artifact of this stage, from the store if it is there and whole, else built and sealed.

    A killed call leaves a work folder, and the next call continues in it. Two calls for the same artifact build it
    once. An exception of `stage.build` passes through; the work folder stays.

    Raises:
        NotThere: the stage is optional, and what it reads from outside is not there. A build that fails half-way is no
            reason to leave it out: what follows would silently be another.
        Damaged: an input's files are not what was sealed: it is to be built again first.
        UserError: another run rebuilt or removed an input while this one read it.
    """
    store = context.store
    assessment = assess(stage, config, inputs, context)
    if assessment.artifact:
        return Outcome(stage, assessment.artifact, reused=True)

    store.check_writable()
    with store.lock(stage.name, assessment.fingerprint, context.clock):
        store.recover(stage.name, assessment.fingerprint, context.progress)
        if not context.options.force:  # while we waited for the lock, another run may have built it
            assessment = assess(stage, config, inputs, context)
            if assessment.artifact:
                return Outcome(stage, assessment.artifact, reused=True)

        check_available(stage, config)
        out = store.workdir(stage.name, assessment.fingerprint)
        continued = ", continuing an interrupted build" if out.exists() else ""
        context.log(f"Building {stage.title(config)} ({assessment.reason}{continued})")
        job = Job(config, inputs, out.absolute(), assessment.stale, context)
        return Outcome(stage, _build(stage, job, assessment), reused=False)


def _build(stage: Stage[Config], job: Job[Config], assessment: Assessment) -> Artifact:
    """Build in `job.out` and seal it, with the lock held."""
    config, inputs, context = job.config, job.inputs, job.context
    job.out.mkdir(exist_ok=True)
    remove_temporary(job.out)
    started, worked = now(), context.clock.seconds
    with _inputs_that_stay(job):
        stage.build(job)
    manifest = Manifest(
        stage=stage.name,
        version=stage.version,
        label=stage.label(config),
        pipeline=context.pipeline,
        fingerprint=assessment.fingerprint,
        identity=assessment.identity,
        settings=masked(config.model_dump(mode="json")),
        inputs={name: [artifact.reference() for artifact in given] for name, given in listed(inputs)},
        files=describe_files(job.out, stage.records, stage.count),
        code=code_version(),
        started=started,
        finished=now(),
        seconds=context.clock.seconds - worked,  # without what it waited for others
        incomplete=stage.incomplete(job.out),
    )
    return context.store.seal(job.out, manifest, context.progress)


@contextmanager
def _inputs_that_stay(job: Job[Config]) -> Iterator[None]:
    """Accept what was built, or why it could not be, only if every input is still the one that was given, and the files
    that were read are as they were when the build asked for them.

    Raises:
        Damaged: the files of an input are not what was sealed.
        UserError: another run rebuilt or removed an input. What was made of a mix must not be continued, so it goes.
    """
    try:
        yield
    except Exception as error:
        _check_inputs(job, error)
        if isinstance(error, Damaged):  # what an interrupted build made of these files may be wrong, too
            shutil.rmtree(job.out)
        raise
    _check_inputs(job)


def _check_inputs(job: Job[Config], cause: Exception | None = None) -> None:
    for artifact in each_of(job.inputs):
        found = artifact.store.in_place_of(artifact)
        if found is None:
            raise UserError(f"{artifact.location} was removed while it was read; run again") from cause
        if found.digest != artifact.digest:
            shutil.rmtree(job.out)
            raise UserError(f"{artifact.location} was rebuilt by another run while it was read; run again") from cause
        if artifact in job.read and (damage := found.damage_here()):
            shutil.rmtree(job.out)
            raise Damaged(artifact, damage) from cause


@cache
def code_version() -> str:
    """The package's version and, in a checkout, the commit."""
    version = importlib.metadata.version("textmill")
    commit = commit_of(Path(__file__).parent) if shutil.which("git") else ""  # not in every container
    return f"{version}+{commit}" if commit else version


def commit_of(folder: Path) -> str:
    """The commit of a checkout, `-dirty` where files of it were changed since; what experiments came to is no code, or
    the first of several would change the version of the others. Empty outside a checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)

    commit = git("describe", "--always").stdout.strip()
    no_code = (f":(top,exclude)experiments/{name}" for name in ("results", "RESULTS.md"))
    is_changed = git("diff", "--quiet", "HEAD", "--", ":(top)", *no_code).returncode == 1
    return f"{commit}-dirty" if commit and is_changed else commit
