"""Collections that lie elsewhere: at a URL, at those of a list (Common Crawl's), or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

from scraping.collections.names import files_of_one_layout, is_data, is_hidden, named_layout
from scraping.collections.skipped import Skipped, beside
from textmill.errors import Unavailable, UserError, first_line
from textmill.files import atomic_write
from textmill.progress import Progress

COMMON_CRAWL = "https://data.commoncrawl.org/"


def is_remote(path: str) -> bool:
    """Whether a collection's path is an address, by which it is known, and not a place of local files.

    Example:
        >>> is_remote("hf://datasets/Skylion007/openwebtext"), is_remote("data/*.parquet")
        (True, False)
    """
    return path.startswith(("hf://", "http://", "https://"))


def is_path_list(name: str) -> bool:
    """Whether a file lists the paths of others, one a line, as Common Crawl publishes them for each crawl.

    Example:
        >>> is_path_list("crawl-data/CC-MAIN-2026-43/wet.paths.gz"), is_path_list("a.warc.gz")
        (True, False)
    """
    return name.endswith((".paths", ".paths.gz"))


def may_hold_web_archives(path: str) -> bool:
    """Whether there may be a web archive at an address: unless its name promises another layout, which holds none.

    Example:
        >>> may_hold_web_archives("http://a.example/x.jsonl.gz?x=1"), may_hold_web_archives("hf://datasets/a/b")
        (False, True)
    """
    return named_layout(path.partition("?")[0]) not in ("parquet", "json", "csv")


def check_reachable(path: str) -> None:
    """Make sure, before any work, that a remote collection can be had.

    Raises:
        UserError: the address is not one of a collection, or its server refuses it.
        Unavailable: it cannot be reached now.
    """
    if path.startswith("hf://"):
        _hub_files(path)
        return
    from requests import RequestException

    from scraping.collections.download import check_answers, file_name

    name = file_name(path)
    if not is_data(name) and not is_path_list(name):
        known = "Parquet, .jsonl.zst, .csv, .tar.xz, .warc.gz, .txt or .paths.gz"
        raise UserError(f"{path} is not the URL of a {known} file: name one.")
    try:
        check_answers(path)
    except RequestException as error:
        raise _unreachable(path, error) from error


def fetch_files(path: str, folder: Path, progress: Progress) -> Iterator[Path | Skipped]:
    """The files at `path`, fetched one after the other; in `folder` a download that broke off goes on. Those of a data
    set that are not read come as `Skipped`.

    Raises:
        UserError, Unavailable: as `check_reachable` raises them.
    """
    if path.startswith("hf://"):
        yield from _fetch_hub_files(path, folder / "revision")
        return
    from requests import RequestException

    from scraping.collections.download import download, file_name

    if not (folder / file_name(path)).is_file():
        check_reachable(path)  # tells at once what patience would not mend
    try:
        file = download(path, folder, progress)
    except RequestException as error:
        raise _unreachable(path, error) from error
    if is_path_list(file.name):
        yield from fetch_listed(file, urljoin(path, "/"), folder, progress)
    else:
        yield file


def fetch_listed(paths: Path, base: str, folder: Path, progress: Progress) -> Iterator[Path]:
    """The files that a list names, fetched one after the other; each stays in `folder`.

    Args:
        paths: the list, a path below `base` or a URL a line.
        base: where the paths begin.
        folder: for the downloads.
        progress: told how far each is.

    Raises:
        UserError, Unavailable: as `check_reachable` raises them.
    """
    from requests import RequestException

    from scraping.collections.archives import DECODER_ERRORS, decompressed
    from scraping.collections.download import download

    try:
        with paths.open("rb") as file:
            lines = decompressed(file).read().decode().split()
    except DECODER_ERRORS as error:
        raise UserError(f"{paths.name} is no list of paths ({error}): fetch it again.") from error
    if not lines or not all(map(is_data, lines)):
        wrong = next((line for line in lines if not is_data(line)), "nothing")[:100]
        raise UserError(f"{paths.name} lists {wrong}, not collections such as …/00000.warc.wet.gz: name another list.")
    for number, line in enumerate(lines):
        url = urljoin(base, line.removeprefix("s3://commoncrawl/"))
        try:
            yield download(url, folder / f"{number:06d}", progress)
        except RequestException as error:
            raise _unreachable(url, error) from error


class _DataSet(NamedTuple):
    """What a data set on the hub holds, as of a revision: the files to read, and the others."""

    repository: str
    revision: str
    files: list[str]
    others: list[str]


def _hub_files(path: str, pinned: str | None = None) -> _DataSet:
    """The data set at hf://datasets/OWNER/NAME[@REVISION][/FOLDER], as of `pinned` if given."""
    match = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", path)
    if not match:
        raise UserError(f"{path} is not a data set on the hub: write hf://datasets/OWNER/NAME.")
    repository, revision, folder = match.groups()
    from huggingface_hub import HfApi

    try:
        about = HfApi().dataset_info(repository, revision=pinned or revision, timeout=10)
    except Exception as error:
        raise _unreachable(path, error) from error
    names = sorted(file.rfilename for file in about.siblings or [] if file.rfilename.startswith(folder or ""))
    files = files_of_one_layout(names)
    if not files:
        raise UserError(f"{path} holds none of the layouts read here: name a data set of Parquet or archives.")
    others = [name for name in names if name not in set(files) and not is_hidden(name)]
    return _DataSet(repository, about.sha or "", files, others)


def _fetch_hub_files(path: str, pinned: Path) -> Iterator[Path | Skipped]:
    """The files of a data set, in the hub's own cache. `pinned` keeps the revision of the first attempt: a job that is
    taken up skips what it has read, which another revision may hold elsewhere."""
    repository, revision, files, others = _hub_files(path, pinned.read_text() if pinned.exists() else None)
    pinned.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(pinned, revision)
    from huggingface_hub import hf_hub_download

    yield from map(beside, others)
    for name in files:
        try:
            yield Path(hf_hub_download(repository, name, revision=revision, repo_type="dataset"))
        except Exception as error:
            raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> UserError:
    """What to raise where a remote collection could not be had; `Unavailable` unless its server refuses it."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    kind = UserError if 400 <= status < 500 and status not in (408, 429) else Unavailable
    return kind(
        f"cannot fetch {path} ({first_line(error)}): go online, or set the path to a folder with the files, "
        "or set required: false to go on without it."
    )
