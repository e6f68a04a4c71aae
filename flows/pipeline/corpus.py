"""The corpus that a configuration, an artifact or a folder stands for, and the records behind it: what
`textmill corpus` asks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.pipeline.config import load_config
from flows.pipeline.gc import references
from flows.stages.prepare import prepare
from flows.store.lineage import lineage
from flows.store.local import Artifact, Store, sizes_below
from flows.store.manifest import MANIFEST, InputEntry
from flows.store.open import is_remote, open_artifact, open_store
from scraping.collections.skipped import SKIPPED
from scraping.crawling.source import Source
from textmill.errors import UserError
from textmill.progress import Progress, quiet

if TYPE_CHECKING:
    from scraping.crawling.scope import Scope
    from scraping.explorer.passage import Origins

CONFIGURATIONS = (".yaml", ".yml")
PREVIOUS = "previous"  # instead of a corpus's name: the one before


@dataclass(frozen=True)
class Place:
    """Where a corpus is: an artifact of a store, or a folder that is none."""

    location: str
    artifact: Artifact | None

    def files(self, progress: Progress = quiet) -> Path:
        """The folder of its files, downloaded if need be. Of those that are here only the sizes are compared.

        Raises:
            UserError: they are damaged, or cannot be had.
        """
        if self.artifact is None:
            return Path(self.location)
        if self.artifact.manifest.damage(sizes_below(self.artifact.path)):
            self.artifact.fetch(progress)
        return self.artifact.path

    @property
    def store(self) -> Store | None:
        return self.artifact.store if self.artifact else None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its documents; nothing is known of a mere folder."""
        return dict(self.artifact.manifest.identity) if self.artifact else {}


def find_corpus(named: str, overrides: Mapping[str, Any], store: Store | None = None) -> Place:
    """The corpus of a name.

    Args:
        named: a configuration's file, an artifact (STORE/STAGE/FINGERPRINT, of prepare or made from one), a folder that
            holds a corpus, or the fingerprint of one in the store.
        overrides: of a configuration.
        store: where a fingerprint is sought; `store` in the working directory if left out.

    Raises:
        UserError: there is no such corpus, or it is not built yet.
    """
    if not is_remote(named) and named.endswith(CONFIGURATIONS):
        return _of_configuration(Path(named), overrides)
    if overrides:
        raise UserError(f"--set goes with a configuration, and {named} is none")
    if is_remote(named) or (Path(named) / MANIFEST).is_file():
        return _of_artifact(open_artifact(named))
    if Path(named).is_dir():
        return Place(named, None)
    store = store or open_store("store")
    if found := store.find(prepare.name, named) if "/" not in named else None:
        return Place(found.location, found)
    raise UserError(
        f"{named} is not a corpus: give a configuration, STORE/prepare/FINGERPRINT, a folder with a corpus, or a "
        f"fingerprint of the store {store.location} (`textmill status` lists them)"
    )


def _of_configuration(path: Path, overrides: Mapping[str, Any]) -> Place:
    """The newest corpus that a run of the configuration would use, however old its snapshots are."""
    config = load_config(path, overrides)
    store = open_store(config.store)
    names = [name for name in references(store, config) if name[0] == prepare.name]
    built = [artifact for artifact in (store.find(*name) for name in names) if artifact]
    if built:
        newest = max(built, key=lambda artifact: artifact.manifest.finished)
        return Place(newest.location, newest)
    message = f"the corpus of {path} is not built yet: textmill run {path} --only {prepare.name} --build-missing"
    others = [made for made in store.artifacts(prepare.name) if made.manifest.pipeline == config.name]
    if others:
        message += f"; the last one of {config.name}, of other settings or pages, is {others[-1].location}"
    raise UserError(message)


def compared_corpus(place: Place, named: str) -> Place:
    """The corpus to compare one with: of a name, or `previous`, the last one of its pipeline that was built before.

    Raises:
        UserError: there is none.
    """
    if named != PREVIOUS:
        return find_corpus(named, {}, place.store)
    if place.artifact is None:
        raise UserError(f"{place.location} is a mere folder: name the corpus to compare it with")
    made = place.artifact.manifest
    earlier = [
        other
        for other in place.artifact.store.artifacts(prepare.name)
        if other.manifest.pipeline == made.pipeline and other.manifest.finished < made.finished
    ]
    if not earlier:
        raise UserError(f"{place.location} is the first corpus of {made.pipeline}: name another to compare it with")
    return Place(earlier[-1].location, earlier[-1])


def _of_artifact(artifact: Artifact) -> Place:
    found = [made for made in lineage([artifact], artifact.store) if made.manifest.stage == prepare.name]
    if not found:
        raise UserError(f"{artifact.location} is not a corpus and was not made from one: give one of {prepare.name}")
    return Place(found[-1].location, found[-1])


@dataclass(frozen=True)
class Records:
    """What crawls and collections left behind of the sources of a corpus.

    Attributes:
        origins: their records.
        scopes: which URLs belong to each crawled source.
        missing: titles of what the store no longer holds.
    """

    origins: Origins
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@contextmanager
def records_behind(place: Place) -> Iterator[Records]:
    """The records of what a corpus was made from, as far as its store still has them. Those of a bucket are copied for
    as long as the block lasts."""
    from scraping.explorer.passage import Origins
    from scraping.shards import URLS_FILE

    with tempfile.TemporaryDirectory(prefix="textmill-records-") as copies:
        crawls: dict[str, Path] = {}
        scopes: dict[str, Scope] = {}
        collections: dict[str, Mapping[str, Any]] = {}
        skipped: dict[str, Path] = {}
        notes: dict[str, str] = {}
        newer, missing = set(), []
        for entry, origin in _origins(place.artifact):
            if origin is None:
                missing.append(f"{entry.stage} {entry.fingerprint}")
                continue
            if entry.stage == "scrape":
                name = str(origin.manifest.settings["name"])
                crawls[name] = _copied(origin, URLS_FILE, Path(copies))
                notes[name] = origin.manifest.incomplete
                with suppress(ValidationError):  # of a version with other settings
                    scopes[name] = Source.model_validate(origin.manifest.settings).scope()
            else:
                name = str(origin.stats["source"])
                collections[name] = origin.stats
                if SKIPPED in origin.manifest.files:
                    skipped[name] = _copied(origin, SKIPPED, Path(copies))
            if origin.digest != entry.digest:
                newer.add(name)
        yield Records(Origins(crawls, collections, skipped, notes, frozenset(newer)), scopes, tuple(missing))


def _origins(artifact: Artifact | None) -> Iterator[tuple[InputEntry, Artifact | None]]:
    for entry in artifact.manifest.origins if artifact else ():
        yield entry, artifact.store.find(*entry.name) if artifact else None


def _copied(artifact: Artifact, name: str, folder: Path) -> Path:
    """A file of an artifact, as a path on this machine."""
    if (here := artifact.path / name).exists():
        return here
    copy = folder / f"{artifact.manifest.fingerprint}-{name}"
    with artifact.open(name) as file, copy.open("wb") as out:
        shutil.copyfileobj(file, out)
    return copy
