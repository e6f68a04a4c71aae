"""Documents that hold a part of a text that models are tested on.

A part is a run of 13 words, as with GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C); capitals, marks and white
space do not count. A text of 8 to 12 words is a part as a whole; one of fewer occurs by chance, and is not looked for,
which `stats.json` counts. Of scripts without spaces, two characters count as a word. GPT-3 cut 200 characters out
around a part; here the document goes: what is left of a cut one is text that nobody wrote. No document is dropped on a
hash's word: the words are compared.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex

from scraping.corpus.config import DecontaminationConfig, PersonalData
from scraping.corpus.kernels.lookup import first_known, insert
from scraping.corpus.kernels.plain import normalized
from scraping.corpus.kernels.words import find_words, ngrams
from scraping.corpus.safeguards.evaluation import EvaluationRecord, evaluation_files, read_evaluation
from scraping.corpus.safeguards.redact import redact
from textmill.errors import UserError
from textmill.files import atomic_path

CONTAMINATED = "evaluation text"  # the reason, as it is written beside what is dropped
FEWEST_WORDS = 8
_SHOWN = 200  # characters of a part
_CAPITALS = bytes(range(65, 91))
_ASCII = bytes(
    byte + 32 if byte in _CAPITALS else byte if byte > 127 or chr(byte).isalnum() else 32 for byte in range(256)
)
_MARKS = regex.compile(r"[^\p{L}\p{M}\p{N}\x00-\x7f]+")
_UNSPACED = regex.compile(r"[\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}\p{Han}\p{Hiragana}\p{Katakana}ー]")


class EvaluationIndex:
    """The parts of all texts, as `write_index` wrote them to a file."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self._sizes: list[int] = arrays["sizes"].tolist()
            self._tables = {size: (arrays[f"slots{size}"], arrays[f"owners{size}"]) for size in self._sizes}
            self._words, self._ends = arrays["words"].tobytes(), arrays["ends"].tolist()
            self._places: list[str] = json.loads(arrays["places"].tobytes())

    def found_in(self, text: str) -> str | None:
        """The first part that a document holds, and of which text it is; None if it holds none."""
        words = canonical_words(text)
        starts, ends, hashes = find_words(np.frombuffer(words, np.uint8))
        for size in self._sizes:
            slots, owners = self._tables[size]
            place, slot = first_known(slots, hashes, size, 0)
            while place >= 0:
                part, owner = words[starts[place] : ends[place + size - 1]].split(), int(owners[slot])
                if self._holds(owner, b" ".join(part)):
                    shown = b" ".join(part).decode()[:_SHOWN]
                    return f"{size} words of {self._places[owner]}: {shown}"
                place, slot = first_known(slots, hashes, size, place + 1)
        return None

    def _holds(self, owner: int, part: bytes) -> bool:
        start = self._ends[owner - 1] if owner else 0
        return b" " + part + b" " in self._words[start : self._ends[owner]]


@functools.lru_cache(maxsize=1)
def load_index(path: Path) -> EvaluationIndex:
    """The index in a file, loaded once by a process."""
    return EvaluationIndex(path)


class IndexCounts(NamedTuple):
    """Of how many texts the parts are known, how many are too short to be looked for; how many records have none."""

    texts: int
    too_short: int
    without_text: int


def write_index(config: DecontaminationConfig, kinds: Sequence[PersonalData], path: Path) -> IndexCounts:
    """Write the parts of all evaluation texts, from which personal data of some kinds is taken as from documents.

    Raises:
        UserError: a file cannot be read, or no text is long enough.
    """
    records = read_evaluation(evaluation_files(config.paths), config.fields)
    known, too_short, without_text = _distinct(records, config, kinds)
    if not known:
        raise UserError(
            f"prepare.decontaminate.paths: of {too_short:,} texts none has the {min(FEWEST_WORDS, config.ngram)} words "
            f"that a text must have to be looked for; records without text: {without_text:,}"
        )
    hashes = [find_words(np.frombuffer(words, np.uint8))[2] for words in known]
    sizes = [min(config.ngram * _word_length(words), len(found)) for words, found in zip(known, hashes, strict=True)]
    arrays = {
        "sizes": np.array(sorted(set(sizes), reverse=True)),
        "words": np.frombuffer(b"".join(known), np.uint8),
        "ends": np.cumsum([len(words) for words in known]),
        "places": np.frombuffer(json.dumps([*known.values()]).encode(), np.uint8),
    }
    for size in set(sizes):
        of_size = [(owner, found) for owner, found in enumerate(hashes) if sizes[owner] == size]
        count = sum(len(found) - size + 1 for _, found in of_size)
        slots = np.zeros(1 << (2 * count).bit_length(), np.uint64)
        owners = np.zeros(len(slots), np.int32)
        for owner, found in of_size:
            insert(slots, owners, ngrams(found, size), owner)
        arrays |= {f"slots{size}": slots, f"owners{size}": owners}
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return IndexCounts(len(known), too_short, without_text)


def _distinct(
    records: Iterable[EvaluationRecord], config: DecontaminationConfig, kinds: Sequence[PersonalData]
) -> tuple[dict[bytes, str], int, int]:
    """The words of the texts that are long enough, each with the place of the first text that has them, how many are
    too short, and how many records have no word."""
    known: dict[bytes, str] = {}
    short: set[bytes] = set()
    without_text = 0
    for place, texts in records:
        found = False
        for text in texts:
            words = b" ".join(canonical_words(redact(normalized(text), kinds).text).split())
            found = found or bool(words)
            if words.count(b" ") + 1 >= min(FEWEST_WORDS, config.ngram) * _word_length(words):
                known.setdefault(b" " + words + b" ", place)
            elif words:
                short.add(words)
        without_text += not found
    return known, len(short), without_text


def _word_length(words: bytes) -> int:
    """How many of what `canonical_words` parts are about a word: two where most are characters."""
    text = words.decode("utf-8", "replace")
    return 2 if not words.isascii() and 2 * len(_UNSPACED.findall(text)) > len(text.split()) else 1


def canonical_words(text: str) -> bytes:
    """The words of a text in small letters, with spaces between; a character of a script without spaces is a word.

    Example:
        >>> canonical_words("It’s “NEW”: 学ぶ!").decode().split()
        ['it', 's', 'new', '学', 'ぶ']
    """
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", _MARKS.sub(" ", text.lower()))
    return text.encode("utf-8", "replace").translate(_ASCII)
