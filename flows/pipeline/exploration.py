"""Questions to a corpus and what is shown of their answers: behind `textmill corpus`.

An answer is data for scripts, and blocks that a terminal and an HTML page draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from flows.engine.assess import changes
from flows.engine.page import Block, Sample, Table, Text
from flows.pipeline.corpus import Place, Records, records_behind
from textmill.errors import UserError

if TYPE_CHECKING:
    from scraping.explorer.corpus import Corpus, Document, Dropped, Sampling
    from scraping.explorer.difference import Moved
    from scraping.explorer.left_out import CrawledUrl, SkippedRecord
    from scraping.explorer.passage import Step

EXAMPLES = 2  # of each source, and of each reason, on a page that shows all


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        name: of the question, for scripts.
        title: for readers.
        data: of plain types.
        blocks: what is shown.
    """

    name: str
    title: str
    data: Any
    blocks: Sequence[Block]


class Exploration:
    """A corpus that answers questions; `sampling` says which documents and how many are shown."""

    def __init__(self, place: Place, corpus: Corpus, records: Records, sampling: Sampling) -> None:
        self.place, self.sampling = place, sampling
        self._corpus, self._records = corpus, records

    def counts(self) -> Answer:
        """How many of what came in, were left out and came out, by source and reason."""
        steps = self._steps()
        return Answer(
            "counts", "What came in, and what was kept", [asdict(step) for step in steps], [*self._counts(steps)]
        )

    def _steps(self) -> list[Step]:
        from scraping.explorer.passage import passage

        source = self.sampling.source
        steps = [step for step in passage(self._corpus, self._records.origins) if source in (None, step.source)]
        if not steps:
            self._corpus.check(source=source)
        return steps

    def _counts(self, steps: Sequence[Step]) -> Iterator[Block]:
        yield Table(
            ("source", "step", "came in", "left out", "came out", "characters"),
            [
                (
                    step.source, f"{step.name} of {step.unit}", step.read, sum(step.left_out.values()), step.written,
                    "" if step.characters is None else step.characters,
                )
                for step in steps
            ],
        )  # fmt: skip
        for step in steps:
            if step.gained:
                yield Text(f"{step.source}: its pages hold {step.gained:,} more documents than there are pages.")
            if step.note:
                yield Text(f"{step.source}, {step.name}: {step.note}.")
        for missing in self._records.missing:
            yield Text(f"{missing} is no longer in the store: what it left out is not known.")
        yield from _left_out([(step, reason) for step in steps for reason in step.left_out])

    def sample(self) -> Answer:
        """Random documents."""
        from scraping.explorer.documents import sample

        documents = sample(self._corpus, self.sampling)
        return Answer(
            "sample", "Random documents", [asdict(document) for document in documents], [*map(_document, documents)]
        )

    def dropped(self, reason: str) -> Answer:
        """Random documents, URLs and records of those that were left out for a reason, by whichever step.

        Raises:
            UserError: nothing was left out for it; the message lists the reasons that there are.
        """
        from scraping.explorer.documents import sample_dropped
        from scraping.explorer.left_out import sample_records, sample_urls

        steps, origins = self._steps(), self._records.origins
        found = [(step, key) for step in steps for key in step.left_out if reason in (key, key.partition(": ")[2])]
        unread = [
            source
            for source, stats in origins.collections.items()
            if reason in stats.get("unread", {}) and self.sampling.source in (None, source)
        ]
        if not found and not unread:
            raise UserError(f"nothing was left out for {reason!r}{_known_reasons(steps)}")
        documents: list[Dropped] = []
        urls: list[CrawledUrl] = []
        records: list[SkippedRecord] = []
        for step, key in found:
            of_source = replace(self.sampling, source=step.source)
            match step.name:
                case "crawl":
                    urls += sample_urls(self._corpus, step.source, origins.crawls[step.source], key, of_source)
                case "ingest" if step.source in origins.skipped:
                    records += sample_records(step.source, origins.skipped[step.source], key, of_source)
        for source in unread:
            records += sample_records(source, origins.skipped[source], reason, self.sampling)
        if any(step.name == "prepare" and key in self._corpus.reasons() for step, key in found):
            documents = sample_dropped(self._corpus, self.sampling, reason)
        blocks = [*_left_out(found), *map(_dropped, documents)]
        if urls:
            blocks.append(Table(("crawl of", "URL", "what became of it"), [(u.source, u.url, u.told) for u in urls]))
        if records:
            rows = [(record.source, record.file, record.place, record.detail) for record in records]
            blocks.append(Table(("collection", "file", "place", "detail"), rows))
        data = {
            "documents": [asdict(row) for row in documents],
            "urls": [{**asdict(row), "told": row.told} for row in urls],
            "records": [asdict(row) for row in records],
        }
        return Answer("dropped", f"Left out: {reason}", data, blocks)

    def search(self, phrase: str) -> Answer:
        """The documents that hold a phrase."""
        from scraping.explorer.documents import search

        matches = search(self._corpus, phrase, self.sampling)
        kept, dropped = _total(matches.documents), _total(matches.dropped)
        blocks: list[Block] = [
            Text(
                f"{kept:,} documents of the corpus hold it; so do {dropped:,} of the dropped ones, of which only the "
                "beginning is known."
            )
        ]
        rows = [(source, "kept", split, number) for source, split, number in _flat(matches.documents)]
        rows += [(source, "dropped", reason, number) for source, reason, number in _flat(matches.dropped)]
        if rows:
            blocks.append(Table(("source", "", "split, or reason", "documents"), rows))
        blocks += [*map(_document, matches.found), *map(_dropped, matches.found_dropped)]
        return Answer("search", f"“{phrase}”", asdict(matches), blocks)

    def templates(self) -> Answer:
        """What was taken out of the pages as their sites' templates."""
        from scraping.explorer.templates import removed

        found = removed(self._corpus)
        if found is None:
            return Answer("templates", "Templates", None, [Text("This corpus does not say what was taken out.")])
        share = found.characters / max(1, found.before)
        blocks: list[Block] = [
            Text(f"{found.characters:,} of {found.before:,} characters ({share:.1%}) were taken out at pages' edges.")
        ]
        if found.sites:
            rows = [
                (site["site"], site["pages"], site["changed"], f"{site['removed_share']:.1%}") for site in found.sites
            ]
            blocks.append(Table(("site", "pages looked at", "with a template", "its share of their text"), rows))
        for site in found.sites[: self.sampling.number]:
            blocks += [
                Sample(f"Removed from {part['pages']:,} of {site['pages']:,} pages of {site['site']}", part["text"])
                for part in site["parts"]
            ]
        return Answer("templates", "Templates", asdict(found), blocks)

    def duplicates(self) -> Answer:
        """The largest groups of duplicates, each with what was kept."""
        from scraping.explorer.duplicates import duplicates

        found = duplicates(self._corpus, self.sampling)
        blocks: list[Block] = [
            Text(f"Dropped as duplicates: {found.dropped:,}; kept in their place: {found.groups:,}.")
        ]
        if len({source for pair in found.sources for source in pair[:2]}) > 1:
            blocks.append(Table(("dropped of", "kept of", "documents"), found.sources))
        for cluster in found.largest:
            if cluster.kept:
                blocks.append(_document(cluster.kept, f"Kept, {cluster.size:,} dropped · "))
            blocks.append(
                Table(
                    ("reason", "detail", "source", "document"),
                    [(row.reason, row.detail, row.source, row.url or row.id) for row in cluster.dropped],
                )
            )
        return Answer("duplicates", "Duplicates", asdict(found), blocks)

    def difference(self, before: Place) -> Answer:
        """What differs from another corpus, which came before."""
        from scraping.explorer.difference import difference

        found = difference(self._corpus, before.files(), self.sampling)
        settings = changes(before.identity, self.place.identity) if before.artifact and self.place.artifact else []
        went, came = _total(found.went), _total(found.came)
        blocks: list[Block] = [
            Text(
                f"{before.location} has {found.before:,} documents: {went:,} went, {came:,} came, {found.after:,} are "
                "here."
            ),
            Text(
                f"{found.same:,} are the same, {sum(found.changed.values()):,} have another text; {found.resplit:,} "
                "moved between train and validation."
            ),
        ]
        if settings:
            blocks.append(Table(("what else differs",), [(change,) for change in settings]))
        rows = [("went", source, f"now {reason}", number) for source, reason, number in _flat(found.went)]
        rows += [("came", source, f"before {reason}", number) for source, reason, number in _flat(found.came)]
        rows += [("another text", source, "", number) for source, number in found.changed.items()]
        if rows:
            blocks.append(Table(("", "source", "why", "documents"), rows))
        blocks += [_moved("Went", item) for item in found.went_examples]
        blocks += [_moved("Came", item) for item in found.came_examples]
        blocks += [
            Sample(
                f"Another text · {item.document.source}",
                "\n".join(item.diff)[: self.sampling.characters],
                item.document.url or "",
            )
            for item in found.changed_examples
        ]
        data = {"before_corpus": before.location, "changes": settings, **asdict(found)}
        return Answer("difference", f"Since {before.location}", data, blocks)

    def trace(self, url: str) -> Answer:
        """Why a URL is in the corpus, or is not."""
        from scraping.explorer.trace import trace

        crawls, scopes = self._records.origins.crawls, self._records.scopes
        found = trace(self._corpus, url, crawls, scopes, self.sampling.characters)
        blocks: list[Block] = [Text(f"{found.url}: {found.conclusion}.")]
        if found.crawled:
            rows = [(row.source, row.url, row.told) for row in found.crawled]
            blocks.append(Table(("crawl of", "URL", "what became of it"), rows))
        blocks += [*map(_document, found.documents), *map(_dropped, found.dropped)]
        blocks += [_document(document, "Kept instead · ") for document in found.kept_instead]
        crawled = [{**asdict(row), "told": row.told} for row in found.crawled]
        return Answer("url", f"What became of {url}", {**asdict(found), "crawled": crawled}, blocks)

    def overview(self) -> Iterator[Answer]:
        """A bit of everything, for a page."""
        few = replace(self.sampling, number=EXAMPLES)
        sources = [few.source] if few.source else self._corpus.sources()
        for source in sources:
            of_source = Exploration(self.place, self._corpus, self._records, replace(few, source=source))
            yield replace(of_source.sample(), title=f"Documents of {source}")
        examples = Exploration(self.place, self._corpus, self._records, few)
        for reason in dict.fromkeys(reason for step in self._steps() for reason in step.left_out):
            yield examples.dropped(reason)
        yield self.duplicates()
        yield self.templates()


@contextmanager
def explored(place: Place, sampling: Sampling) -> Iterator[Exploration]:
    """The corpus of a place, to be asked for as long as the block lasts.

    Raises:
        UserError: its files are damaged, cannot be had, or are no corpus.
    """
    from scraping.explorer.corpus import Corpus

    with Corpus(place.files()) as corpus, records_behind(place) as records:
        yield Exploration(place, corpus, records, sampling)


def _left_out(found: Sequence[tuple[Step, str]]) -> Iterator[Block]:
    rows = [
        (step.source, step.name, reason, number, f"{number / (step.read + step.gained):.1%}")
        for step, reason in found
        for number in [step.left_out[reason]]
    ]
    if rows:
        yield Table(("source", "left out by", "reason", "number", "share"), rows)


def _known_reasons(steps: Sequence[Step]) -> str:
    by_step: dict[str, dict[str, None]] = {}
    for step in steps:
        by_step.setdefault(step.name, {}).update(dict.fromkeys(step.left_out))
    listed = [f"{name}: {', '.join(reasons)}" for name, reasons in by_step.items() if reasons]
    return "; the reasons are, of " + "; of ".join(listed) if listed else "; nothing was left out at all"


def _document(document: Document, before: str = "") -> Sample:
    known = [document.source, document.title, f"{document.n_chars:,} characters", document.lang, document.split]
    return Sample(before + " · ".join(filter(None, known)), document.text, document.url or "")


def _dropped(row: Dropped) -> Sample:
    detail = f" ({row.detail})" if row.detail else ""
    return Sample(f"Dropped: {row.reason}{detail} · {row.source}", row.text or "(no text was read)", row.url or "")


def _moved(what: str, moved: Moved) -> Sample:
    detail = f" ({moved.detail})" if moved.detail else ""
    return _document(moved.document, f"{what}: {moved.reason}{detail} · ")


def _flat(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, int]]:
    return [(source, key, number) for source, of_source in counts.items() for key, number in of_source.items()]


def _total(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(number for _, _, number in _flat(counts))
