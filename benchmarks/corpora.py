"""Texts for the tokenizer benchmarks, about 30 MB each: documents as lists of strings."""

import base64
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
TARGET = 30_000_000


def campus() -> list[str]:
    """The pages of a university's site, navigation and all: the same template on every page."""
    import pyarrow.parquet as pq

    return pq.read_table(SHARED / "umb_site_text.parquet")["text"].to_pylist()


def openwebtext() -> list[str]:
    """600 documents of OpenWebText, repeated in another order each time."""
    import pyarrow.parquet as pq

    files = sorted((SHARED / "openwebtext").glob("*.parquet"))
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


def available() -> dict[str, list[str]]:
    """The corpora that exist here, by name; the first two need ../shared/data."""
    found = {"multilingual": multilingual, "source code": source_code, "base64": base64_noise}
    if SHARED.is_dir():
        found = {"campus": campus, "openwebtext": openwebtext} | found
    return found


def size_of(texts: list[str]) -> int:
    """Bytes of UTF-8."""
    return sum(len(text.encode()) for text in texts)
