"""The configuration that an artifact was made with, from its manifest and those of what it was made from: behind
`textmill reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flows.pipeline.config import is_relative
from flows.store.lineage import lineage
from flows.store.local import Artifact
from textmill.errors import UserError


def write_configuration(artifact: Artifact, folder: Path) -> Path:
    """Write `pipeline.yaml` and the sources as they were then into a new folder; the path of the former.

    Sections of stages that come after the artifact's are left out.

    Raises:
        UserError: the folder exists, or what the artifact was made from has been deleted.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another with --out")
    origins = lineage([artifact], artifact.store)
    _check_complete(origins)
    document: dict[str, Any] = {
        "name": artifact.manifest.pipeline or "pipeline",
        "store": _absolute(artifact.store.location),
    }
    sources, collections = (
        [origin.manifest.settings for origin in origins if origin.manifest.stage == stage]
        for stage in ("scrape", "ingest")
    )
    sections = {
        origin.manifest.stage: origin.manifest.settings
        for origin in origins
        if origin.manifest.stage not in ("scrape", "ingest")
    }
    extractors: dict[str, Any] = {}
    if "prepare" in sections:
        extractors = sections["prepare"]["extractors"]
        sections["prepare"] = sections["prepare"]["corpus"]
    folder.mkdir(parents=True)
    names = []
    for source in sources:
        # Pages are read by the extractor that prepare was given: the snapshot may be older than that.
        source["extractor"] = extractors.get(source["name"], source["extractor"])
        path = folder / f"{source['name']}.yaml"
        path.write_text(yaml.safe_dump(source, sort_keys=False, allow_unicode=True))
        names.append(path.name)
    document["scrape"] = {"sources": names}
    document["ingest"] = [{**settings, "path": _absolute(settings["path"])} for settings in collections]
    mixed = {name for stage in ("pretrain", "finetune") for name in sections.get(stage, {}).get("mixture", {})}
    for name in sorted(mixed - {item["name"] for item in [*sources, *collections]}):
        # A mixture names it, but it was away, as it is in this folder.
        document["ingest"].append({"path": str(folder.absolute() / name), "name": name, "required": False})
    document["finetune"] = sections.pop("finetune", None)
    configuration = folder / "pipeline.yaml"
    configuration.write_text(yaml.safe_dump({**document, **sections}, sort_keys=False, allow_unicode=True))
    return configuration


def _absolute(place: str) -> str:
    """A place that the configuration can name wherever it lies."""
    return str(Path(place).absolute()) if is_relative(place) else place


def _check_complete(origins: list[Artifact]) -> None:
    there = {origin.name for origin in origins}
    for origin in origins:
        for entry in origin.manifest.origins:
            if entry.name not in there:
                raise UserError(
                    f"the settings of {entry.stage} {entry.fingerprint} are gone from the store: "
                    f"{origin.manifest.stage} {origin.manifest.fingerprint} was made from it; restore it"
                )
