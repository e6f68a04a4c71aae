"""Texts to measure on: each corpus is a list of documents, about 30 MB in all.

Arrow is imported where it is needed: the processes of the `pretokenize` benchmark import this module and choose first
what Arrow may find.
"""

from __future__ import annotations

import base64
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"  # beside the checkout
CAMPUS, OPENWEBTEXT = DATA / "umb_site_text.parquet", DATA / "openwebtext"
TARGET = 30_000_000


def available() -> dict[str, Callable[[], list[str]]]:
    """The corpora that exist here, by name; the first two are files of `DATA`."""
    found = {"multilingual": multilingual, "source code": source_code, "base64": base64_noise}
    if any(OPENWEBTEXT.glob("*.parquet")):
        found = {"openwebtext": openwebtext} | found
    if CAMPUS.exists():
        found = {"campus": campus} | found
    return found


def campus(limit: int | None = None) -> list[str]:
    """The pages of a university's site, navigation and all: the same template on every page.

    Args:
        limit: return only so many documents, the first ones.
    """
    import pyarrow.parquet as pq

    if not CAMPUS.exists():
        raise SystemExit(f"{CAMPUS} is missing: this benchmark needs it, a Parquet file with a column `text`")
    return pq.read_table(CAMPUS, columns=["text"])["text"].to_pylist()[:limit]


def openwebtext() -> list[str]:
    """600 documents of OpenWebText, repeated in another order each time."""
    import pyarrow.parquet as pq

    files = sorted(OPENWEBTEXT.glob("*.parquet"))
    return _repeated([text for file in files for text in pq.read_table(file)["text"].to_pylist()])


def multilingual() -> list[str]:
    """Names of territories, languages, months, … in all languages of the Unicode CLDR (from the package `babel`)."""
    from babel import Locale, localedata

    texts = []
    for identifier in sorted(localedata.locale_identifiers()):
        locale = Locale.parse(identifier)
        names = [*locale.territories.values(), *locale.languages.values(), *locale.scripts.values()]
        names += [*locale.currencies.values(), *locale.variants.values()]
        texts.append(" ".join(map(str, names)))
    return _repeated(texts)


def source_code() -> list[str]:
    """The Python standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    return _repeated([_text(file) for file in files if "site-packages" not in file.parts])


def base64_noise() -> list[str]:
    """Random bytes in base64, in lines of 76 characters: hardly a word comes twice."""
    noise = random.Random(0)
    return [base64.encodebytes(noise.randbytes(6000)).decode() for _ in range(TARGET // 8100)]


def size_of(texts: list[str]) -> int:
    """Bytes of UTF-8."""
    return sum(len(text.encode()) for text in texts)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _repeated(texts: list[str]) -> list[str]:
    """The documents again and again, shuffled each time, to about `TARGET` bytes."""
    return list(_until(texts, TARGET))


def _until(texts: list[str], target: int) -> Iterator[str]:
    order = random.Random(0)
    size = 0
    while True:
        for text in order.sample(texts, len(texts)):
            yield text
            size += len(text.encode(errors="replace"))
            if size >= target:
                return
