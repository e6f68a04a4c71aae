"""A project: a folder whose `configs/` holds pipelines and whose `sources/` may hold sources of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.pipeline.config import CONFIGS, PipelineConfig, is_relative, load_config
from scraping.crawling.source import OWN, SHIPPED, Source, load_source, shipped_sources
from textmill.errors import UserError

DEMO = "demo"  # the configuration that others give way to


@dataclass(frozen=True)
class Crawl:
    """A source as a project crawls it.

    Attributes:
        source: what is declared.
        entry: what a run in the project's folder calls it: a name or a path.
        config: path, from the project's folder, of the configuration that says where its pages are stored.
        wanted: whether the project asks for it; a source that merely comes with Textmill is not.
    """

    source: Source
    entry: str
    config: str
    wanted: bool


@dataclass(frozen=True)
class Project:
    """What the files of a folder declare.

    Attributes:
        folder: the project's.
        pipelines: configurations by their paths from the folder; the first is used where none is named.
    """

    folder: Path
    pipelines: Mapping[str, PipelineConfig]

    @classmethod
    def open(cls, folder: Path = Path()) -> Project:
        """Read every configuration of a project.

        Raises:
            UserError: the folder is not a project's, or a configuration has a mistake.
        """
        paths = sorted((folder / CONFIGS).glob("*.yaml"), key=lambda path: (path.stem != DEMO, path.stem))
        if not paths:
            raise UserError(
                f"there is no {CONFIGS}/*.yaml in {folder.absolute()}: run this in the folder of a project, or begin "
                "one with `textmill init FOLDER`"
            )
        return cls(folder, {str(path.relative_to(folder)): load_config(path) for path in paths})

    @property
    def main(self) -> str:
        """Path of the configuration that is used where none is named."""
        return next(iter(self.pipelines))

    def config_with(self, stage: str) -> str | None:
        """Path of the first configuration in which the stage takes part."""
        return next((path for path, config in self.pipelines.items() if config.has(stage)), None)

    def crawls(self) -> list[Crawl]:
        """Every source that the project can crawl, by name: those of its configurations, those in its folder `sources`,
        and those that come with Textmill.

        Raises:
            UserError: a mistake in a source's file, or two sources of one name.
        """
        own = sorted(str(path) for path in (self.folder / OWN).glob("*.yaml"))
        found: dict[str, tuple[Crawl, str]] = {}
        for crawl, origin in (*self._of_configurations(), *self._crawls(own, wanted=True), *self._shipped()):
            known, declared = found.setdefault(crawl.source.name, (crawl, origin))
            if known.entry != crawl.entry and crawl.wanted:
                raise UserError(f"{declared} and {origin} are both called {crawl.source.name}: give one another `name`")
        return [found[name][0] for name in sorted(found)]

    def _of_configurations(self) -> Iterator[tuple[Crawl, str]]:
        for path, config in self.pipelines.items():
            yield from self._crawls(config.scrape.sources, wanted=True, config=path)

    def _shipped(self) -> Iterator[tuple[Crawl, str]]:
        yield from self._crawls([str(SHIPPED / f"{name}.yaml") for name in shipped_sources()], wanted=False)

    def _crawls(self, entries: list[str], *, wanted: bool, config: str | None = None) -> Iterator[tuple[Crawl, str]]:
        for entry in entries:
            is_shipped = Path(entry).parent == SHIPPED
            called = Path(entry).stem if is_shipped else self.seen_from_folder(entry) if "/" in entry else entry
            source = load_source(entry, self.folder / OWN)
            yield Crawl(source, called, config or self.main, wanted), entry

    def seen_from_folder(self, place: str) -> str:
        """What a run in the project's folder calls a place that this process knows by `place`."""
        if not is_relative(place) and not place.startswith("/"):
            return place
        seen = os.path.relpath(place, self.folder)
        return str(Path(place).absolute()) if seen.startswith("..") else seen
