"""The stage contract: a stage is a declaration; this one mechanism gives it identity, reuse, resumption and sealing.

    stage = Stage(name="pretrain", version=1, build=build, ...)
    outcome = materialize(stage, config, {"tokens": artifact}, store)

`assess` decides, without doing any work, whether the store already holds what the stage would make, and says why not.
`materialize` acts on that: it returns the sealed artifact, or builds it in a work folder that survives crashes and
seals it.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from flows.store.fingerprint import canonical, digest
from flows.store.local import Artifact, Manifest, Store, count_rows, describe_files, now
from textmill.errors import UserError
from textmill.mapping import HERE, Executor

Config = TypeVar("Config", bound=BaseModel)
Inputs = Mapping[str, Artifact | list[Artifact] | None]


@dataclass(frozen=True)
class Job(Generic[Config]):
    """What a stage's build function works with.

    `out` is private to this build and may hold what a killed build left: continue from it. `previous` is the artifact
    that this one replaces, if it is whole (a forced or expired build). `executor` is
    where to work on shards; paths are absolute, for workers elsewhere.
    """

    config: Config
    inputs: Inputs
    out: Path
    progress: Callable[..., None]
    previous: Artifact | None
    store: Store
    executor: Executor = HERE

    @property
    def map_shards(self) -> Any:
        return None if self.executor is HERE else self.executor.map

    def path(self, name: str) -> Path:
        """The folder of an input, its files brought to this machine where they are not."""
        return self.inputs[name].fetch(self.progress).absolute()

    def paths(self, name: str) -> list[Path]:
        return [artifact.fetch(self.progress).absolute() for artifact in self.inputs[name]]


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """One step of the chain.

    Attributes:
        name: also the key of its section in the configuration and its folder in the store.
        version: raise it when the same settings and inputs now give other bytes; older artifacts are then rebuilt.
        build: fills `job.out`; called again after a crash, it continues there.
        headline: the one line that says what came out, from the stage's own figures.
        label: what this run of the stage is about, for run names and tables ("python-docs", "4 layers x 256").
        identity: what decides the output: the settings as they are, unless the bytes come from elsewhere (local files).
        records: file patterns that hold clocks and rates: sealed and verified, but outside the digest.
        count: rows, tokens or lines of one file, for the manifest.
        expired: why an intact artifact is too old to be reused, or None (snapshots of the outside world age).
        available: raises a user's mistake where what the stage reads from outside is not there.
        optional: whether the chain goes on without this stage then.
        retries: how often Prefect tries again after a failure of the outside world.
    """

    name: str
    version: int
    build: Callable[[Job[Config]], None]
    headline: Callable[[dict[str, Any]], str]
    label: Callable[[Config], str] = lambda config: ""
    identity: Callable[[Config, Store], Any] = lambda config, store: config
    records: tuple[str, ...] = ()
    count: Callable[[Path], int | None] = count_rows
    expired: Callable[[Config, Manifest], str | None] = lambda config, manifest: None
    available: Callable[[Config], object] = lambda config: None
    optional: Callable[[Config], bool] = lambda config: False
    retries: int = 0

    def title(self, config: Config) -> str:
        return f"{self.name} {self.label(config)}".strip()


@dataclass(frozen=True)
class Verdict:
    """Reuse `artifact`, or build; `reason` says why in words. `stale` is what is there but may not be reused."""

    identity: dict[str, Any]
    fingerprint: str
    artifact: Artifact | None
    reason: str
    stale: Artifact | None = None


@dataclass(frozen=True)
class Options:
    """How to treat what the store already holds."""

    force: bool = False
    verify: bool = False
    accept_expired: bool = False
    pipeline: str = field(default="", compare=False)


def identify(stage: Stage[Config], config: Config, inputs: Inputs, store: Store) -> dict[str, Any]:
    """Everything that decides the stage's output, as JSON types. Inputs are known by what is in them."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": canonical(stage.identity(config, store), stage.name),
        "inputs": {name: [artifact.digest for artifact in given] for name, given in _listed(inputs)},
    }


class NotThere(UserError):
    """What an optional stage reads from outside is not there: it is left out."""


@contextmanager
def _or_left_out(stage: Stage[Config], config: Config) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if stage.optional(config):
            raise NotThere(str(error)) from error
        raise


def assess(stage: Stage[Config], config: Config, inputs: Inputs, store: Store, options: Options = Options()) -> Verdict:
    """Reuse or build, and why. Reads only manifests and sizes (contents too with `options.verify`).

    Raises:
        NotThere: the stage is optional, and what it reads from outside is not there.
    """
    with _or_left_out(stage, config):
        identity = identify(stage, config, inputs, store)
        fingerprint = digest(identity)[:16]
        found = store.find(stage.name, fingerprint)
    if found is None:
        return Verdict(identity, fingerprint, None, _what_changed(stage, identity, store))
    if damage := found.damage(options.verify):
        return Verdict(identity, fingerprint, None, f"damaged: {damage}")
    if options.force:
        reason = "forced"
    elif not options.accept_expired and (expired := stage.expired(config, found.manifest)):
        reason = expired
    else:
        return Verdict(identity, fingerprint, found, f"built {found.manifest.finished:%Y-%m-%d %H:%M} UTC")
    return Verdict(identity, fingerprint, None, reason, stale=found)


def check_available(stage: Stage[Config], config: Config) -> None:
    """Raise a user's mistake where what the stage is to be built from is not there; NotThere where it is optional."""
    with _or_left_out(stage, config):
        stage.available(config)


def materialize(
    stage: Stage[Config],
    config: Config,
    inputs: Inputs,
    store: Store,
    options: Options = Options(),
    progress: Callable[..., None] = lambda *args, **figures: None,
    announce: Callable[[str], None] = lambda line: None,
    executor: Executor = HERE,
) -> tuple[Artifact, bool]:
    """The artifact of this stage, and whether it was reused. `announce` is told, before any work, what will be done.

    Whoever is killed in the middle leaves a work folder, and the next call continues in it. Two calls for the same
    artifact build it once. An exception of `stage.build` passes through; the work folder stays.

    Raises:
        NotThere: the stage is optional, and what it reads from outside is not there. A build that fails half-way is no
            reason to leave it out: what follows would silently be another.
        UserError: another run rebuilt or removed an input while this one read it.
    """
    verdict = assess(stage, config, inputs, store, options)
    if verdict.artifact:
        return verdict.artifact, True

    store.check_writable()
    with store.lock(stage.name, verdict.fingerprint):
        store.recover(stage.name, verdict.fingerprint, progress)
        if not options.force:  # while we waited for the lock, another run may have built it
            verdict = assess(stage, config, inputs, store, options)
            if verdict.artifact:
                return verdict.artifact, True

        check_available(stage, config)
        out = store.workdir(stage.name, verdict.fingerprint)
        continued = ", continuing an interrupted build" if out.exists() else ""
        announce(f"Building {stage.title(config)} ({verdict.reason}{continued})")
        out.mkdir(exist_ok=True)
        started, clock = now(), time.perf_counter()
        with _inputs_that_stay(inputs, out):
            stage.build(Job(config, inputs, out.absolute(), progress, verdict.stale, store, executor))
        manifest = Manifest(
            stage=stage.name,
            version=stage.version,
            label=stage.label(config),
            pipeline=options.pipeline,
            fingerprint=verdict.fingerprint,
            identity=verdict.identity,
            settings=config.model_dump(mode="json"),
            inputs={name: [artifact.reference() for artifact in given] for name, given in _listed(inputs)},
            files=describe_files(out, stage.records, stage.count),
            code=code_version(),
            started=started,
            finished=now(),
            seconds=time.perf_counter() - clock,
        )
        return store.seal(out, manifest, progress), False


@contextmanager
def _inputs_that_stay(inputs: Inputs, out: Path) -> Iterator[None]:
    """Accept what was built in `out`, or why it could not be, only if every input is still the one that was given.

    Raises:
        UserError: another run rebuilt or removed an input. What was made of a mix must not be continued, so it goes.
    """
    try:
        yield
    except Exception as error:
        _check_inputs(inputs, out, error)
        raise
    _check_inputs(inputs, out)


def _check_inputs(inputs: Inputs, out: Path, cause: Exception | None = None) -> None:
    for artifact in each_of(inputs):
        found = artifact.store.in_place_of(artifact)
        if found is None:
            raise UserError(f"{artifact.location} was removed while it was read; run again") from cause
        if found.digest != artifact.digest:
            shutil.rmtree(out)
            raise UserError(f"{artifact.location} was rebuilt by another run while it was read; run again") from cause


@cache
def code_version() -> str:
    """The package's version and, in a checkout, the commit."""
    version = importlib.metadata.version("textmill")
    if not shutil.which("git"):  # as in a container
        return version
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{version}+{commit}" if commit else version


def each_of(inputs: Mapping[str, Any]) -> Iterator[Any]:
    """Every input that is there, or what stands for it, whatever its name."""
    for _, given in _listed(inputs):
        yield from given


def _listed(inputs: Inputs) -> Iterator[tuple[str, list[Artifact]]]:
    """Inputs by name, each as a list; an optional input that is not there is left out."""
    for name, given in inputs.items():
        if given is not None:
            yield name, given if isinstance(given, list) else [given]


def what_changed(stage: Stage[Config], config: Config, store: Store) -> str | None:
    """How the stage's version and settings differ from the nearest artifact's, whatever its inputs; None if equal."""
    return _what_changed(stage, identify(stage, config, {}, store), store, leave_out="inputs.") or None


def _what_changed(stage: Stage[Config], identity: dict[str, Any], store: Store, leave_out: str | None = None) -> str:
    """How this identity differs from the nearest one in the store, e.g. "steps: 300 → 400"."""

    def comparable(identity: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in _leaves(identity) if not (leave_out and key.startswith(leave_out))}

    wanted = comparable(identity)
    others = [comparable(artifact.manifest.identity) for artifact in store.artifacts(stage.name)]
    if not others:
        return "not built yet"
    changes = [
        {
            key: (other.get(key), wanted.get(key))
            for key in sorted(wanted.keys() | other.keys())
            if other.get(key) != wanted.get(key)
        }
        for other in others
    ]
    nearest = min(reversed(changes), key=len)  # reversed: the newest of equally near ones
    shown = [_describe_change(key, *values) for key, values in nearest.items()]
    return ", ".join(dict.fromkeys(shown[:4])) + (f" and {len(shown) - 4} more changes" if len(shown) > 4 else "")


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _describe_change(key: str, old: Any, new: Any) -> str:
    if key == "version":
        return f"the stage's code changed (version {old} → {new})"
    if key.startswith("inputs."):
        return f"{key.removeprefix('inputs.')} changed"
    return f"{key.removeprefix('settings.')}: {_brief(old)} → {_brief(new)}"


def _brief(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "…"
