"""What a stage is: one class, with its declaration, its code, and what is shown of its result.

    class Count(Stage[CountConfig]):
        name = "count"
        version = 1
        inputs = ("corpus",)

        def build(self, job: Job[CountConfig]) -> None:
            (job.out / "stats.json").write_text(count(job.path("corpus"), job.config))

        def headline(self, stats: dict[str, Any]) -> str:
            return f"{stats['words']:,} words"

    outcome = materialize(Count(), CountConfig(), {"corpus": corpus}, Context(store))

Everything else has a default. `flows.engine.materialize` gives a stage identity, reuse, resumption and sealing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel

from flows.engine.page import Block
from flows.store.local import Artifact, Store
from flows.store.manifest import count_rows, title_of
from textmill.mapping import HERE, Executor
from textmill.progress import Clock, Progress, quiet

Config = TypeVar("Config", bound=BaseModel)
Inputs = Mapping[str, Artifact | list[Artifact] | None]


@dataclass(frozen=True)
class Pending:
    """Stands for an artifact that is to be built, so that what follows from it cannot be known.

    Attributes:
        stage: which stage's it is.
        config: what it is to be built with.
        is_first: nothing like it was built before, so neither was anything from it.
    """

    stage: str
    config: BaseModel
    is_first: bool


Expected = Mapping[str, Artifact | Pending | list[Any] | None]


class Slots(Protocol):
    """How to hold a slot of each of these limits of the Prefect server, over all its machines, while a block lasts."""

    def __call__(self, names: Iterable[str], *, create: int | None = None) -> AbstractContextManager[None]:
        """A limit that the server lacks is made with `create` slots, or else left out."""


def no_slots(names: Iterable[str], *, create: int | None = None) -> AbstractContextManager[None]:
    """Outside of a server nothing is held."""
    return nullcontext()


class Log(Protocol):
    """Where to say, in one line, what is about to be done."""

    def __call__(self, line: str, /) -> None: ...


def unlogged(line: str, /) -> None:
    """A `Log` that keeps nothing."""


@dataclass(frozen=True)
class Options:
    """How to treat what the store already holds.

    Attributes:
        force: build although an artifact is there.
        verify: compare SHA-256 too before an artifact is reused.
        accept_expired: reuse a snapshot of the outside world although it is too old.
    """

    force: bool = False
    verify: bool = False
    accept_expired: bool = False


@dataclass(frozen=True)
class Context:
    """The run that a stage is part of.

    Attributes:
        store: where artifacts are found and sealed.
        pipeline: name of the configuration, for the manifest.
        options: how to treat what the store already holds.
        executor: where shards are worked on.
        progress: called with how far the build is.
        log: called, before any work, with what will be done.
        clock: tells work from waiting.
        slots: limits of the Prefect server that the stage may hold.
    """

    store: Store
    pipeline: str = ""
    options: Options = Options()
    executor: Executor = HERE
    progress: Progress = quiet
    log: Log = unlogged
    slots: Slots = no_slots
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Job(Generic[Config]):
    """What a stage's `build` works with.

    Attributes:
        config: the stage's configuration.
        inputs: the artifacts it is made from, by name.
        out: an absolute path, private to this build; it may hold what a killed build left: continue from it.
        previous: the artifact that this one replaces, if it is whole (a forced or an expired build).
        context: the run.
        read: the inputs whose files `build` was given.
    """

    config: Config
    inputs: Inputs
    out: Path
    previous: Artifact | None
    context: Context
    read: list[Artifact] = field(default_factory=list)

    @property
    def progress(self) -> Progress:
        return self.context.progress

    @property
    def executor(self) -> Executor:
        return self.context.executor

    def given(self, name: str) -> list[Artifact]:
        """The artifacts of an input: one, several, or none of an optional one."""
        given = self.inputs[name]
        return given if isinstance(given, list) else [given] if given else []

    def paths(self, name: str) -> list[Path]:
        """The absolute folders of an input, their files brought to this machine where they are not, each compared with
        its SHA-256.

        Raises:
            Damaged: one differs.
        """
        folders = []
        for artifact in self.given(name):
            folders.append(artifact.fetch(self.progress).absolute())
            self.read.append(artifact)
        return folders

    def path(self, name: str) -> Path:
        """The folder of an input that is one artifact."""
        [path] = self.paths(name)
        return path


class Stage(ABC, Generic[Config]):
    """One step of the chain.

    Attributes:
        name: also the key of its section in the configuration, its folder in the store, and its module here.
        version: raise it when the same configuration and inputs now give other bytes; older artifacts are then rebuilt.
        inputs: names of what it is made from, as `chain` gives them.
        records: patterns of files about the build, such as clocks and rates: sealed and verified, outside the digest.
        retries: how often Prefect tries again after a failure of the outside world.
        label_is_subject: artifacts of another label are of another thing (another site), not this one with other
            settings, so a reason to build never compares with them.
        noun: what its pages in the Prefect UI are called ("pretraining"); its name if there is none.
        beside: whether it mostly waits on the outside world, so that others of its kind are built at the same time.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    inputs: ClassVar[tuple[str, ...]] = ()
    records: ClassVar[tuple[str, ...]] = ()
    retries: ClassVar[int] = 0
    label_is_subject: ClassVar[bool] = False
    noun: ClassVar[str] = ""
    beside: ClassVar[bool] = False

    # -- what it does --------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, job: Job[Config]) -> None:
        """Fill `job.out`, `stats.json` with the stage's metrics included. After a crash it is called again and goes on
        from what is there."""

    def identity(self, config: Config, store: Store) -> Any:
        """What decides the output: the configuration, and whatever else bytes come from (local files)."""
        return config

    def count(self, file: Path) -> int | None:
        """Rows, tokens or lines of one file, for the manifest."""
        return count_rows(file)

    # -- the outside world ---------------------------------------------------------------------------------------

    def expired(self, config: Config, artifact: Artifact) -> str | None:
        """Why an intact artifact is not to be reused, or None: snapshots of the outside world age, and may lack
        something that is there by now."""
        return None

    def check_available(self, config: Config) -> None:
        """Look whether what the stage reads from outside is there.

        Raises:
            UserError: it is not, and what to do about it.
        """

    def foresee(self, config: Config, inputs: Expected) -> str:
        """What can be said of a build before it, in a few words; empty for nothing. Some inputs may yet be built.

        Raises:
            UserError: these inputs do not give what the configuration asks for.
        """
        return ""

    def optional(self, config: Config) -> bool:
        """Whether the pipeline leaves this stage out when `check_available` fails."""
        return False

    # -- what is shown of it -------------------------------------------------------------------------------------

    @abstractmethod
    def headline(self, stats: dict[str, Any]) -> str:
        """One line that says what came out."""

    def incomplete(self, out: Path) -> str:
        """What is in the folder that was built, in one line that says what is missing of it; empty if nothing is."""
        return ""

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        """The one number that says most of the result, and what it counts, for the drawing of the chain; by default
        the amount processed."""
        amount, unit = self.work(stats)
        return (f"{amount:,}", unit) if amount else ("", "")

    def label(self, config: Config) -> str:
        """What this run of the stage is about, for run names and tables ("python-docs", "4 layers x 256")."""
        return ""

    def title(self, config: Config) -> str:
        return title_of(self.name, self.label(config))

    def timeline(self, label: str, pipeline: str) -> str:
        """What the pages are about that its runs leave in the Prefect UI, one after the other ("pretraining of demo").

        Args:
            label: of its configuration.
            pipeline: name of the configuration that it is part of.
        """
        return f"{self.noun or self.name} of {pipeline}"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        """The amount processed and its unit, for the rate in the report."""
        return 0, ""

    def page(self, artifact: Artifact) -> Iterator[Block]:
        """What to show of the result on its page in the Prefect UI and in the report, before the table of `stats`."""
        yield from ()


@dataclass(frozen=True)
class Outcome:
    """What became of a stage in a run: its artifact, and whether it was there already."""

    stage: Stage[Any]
    artifact: Artifact
    reused: bool

    @property
    def headline(self) -> str:
        return self.stage.headline(self.artifact.stats)


def each_of(inputs: Mapping[str, Any]) -> Iterator[Any]:
    """All inputs that are there as one flat sequence, a planner's placeholders included."""
    for _, given in listed(inputs):
        yield from given


def listed(inputs: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Inputs by name, each as a list; an optional input that is not there is left out."""
    for name, given in inputs.items():
        if given is not None:
            yield name, given if isinstance(given, list) else [given]
