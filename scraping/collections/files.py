"""The files of a collection that lies here, found before any of them is read."""

from __future__ import annotations

from pathlib import Path

from scraping.collections.config import IngestConfig
from scraping.collections.names import files_of_one_layout
from scraping.collections.remote import check_reachable, is_remote
from textmill.addresses import expand
from textmill.errors import UserError


def ingest_files(config: IngestConfig) -> list[Path]:
    """The local files that `ingest` will read, in order; none if the collection is elsewhere.

    Raises:
        UserError: there is nothing to read there.
        Unavailable: it cannot be reached now.
    """
    address = expand(config.path)
    if is_remote(address):
        check_reachable(address)
        return []
    path = Path(address).expanduser()
    if path.is_file():
        return [path.absolute()]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        parent = Path(path.anchor) if path.is_absolute() else Path()
        try:
            found = sorted(file for file in parent.glob(str(path.relative_to(parent))) if file.is_file())
        except ValueError as error:
            raise UserError(f"{config.path} is not a glob ({error}): write one such as data/*.parquet.") from error
    files = files_of_one_layout(found)
    if not files:
        raise UserError(
            f"no text collection at {config.path}: set the path to Parquet, .jsonl.zst, .tar.xz or .txt files, "
            "or set required: false to go on without it."
        )
    return [file.absolute() for file in files]
