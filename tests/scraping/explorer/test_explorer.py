"""Questions to a corpus: every answer is drawn from the files, its numbers add up, and it is the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from scraping.crawling.snapshot import URLS
from scraping.crawling.source import Source
from scraping.explorer.corpus import Corpus, Sampling
from scraping.explorer.difference import NOT_SEEN, difference
from scraping.explorer.documents import sample, sample_dropped, search
from scraping.explorer.duplicates import duplicates
from scraping.explorer.left_out import sample_records, sample_urls
from scraping.explorer.passage import NEWER, UNACCOUNTED, Origins, passage
from scraping.explorer.templates import Removed, removed
from scraping.explorer.trace import trace
from scraping.shards import DOCUMENTS, DROPPED, write_shard
from textmill.errors import UserError

SITE = "https://site.example"


def id_of(number: int) -> str:
    return f"{number:032x}"


def document(number, text=None, source="site", url=None):
    text = text or f"Document {number} is about river {number % 3} and its stones."
    url = url or f"{SITE}/{number}"
    return {
        "id": id_of(number), "source": source, "url": url, "title": f"Page {number}", "lang": "en", "text": text,
        "n_chars": len(text), "extractor": "main",
    }  # fmt: skip


def dropped(number, reason, detail="", source="site", excerpt="The beginning of it."):
    row = {"id": id_of(number), "source": source, "url": f"{SITE}/{number}", "reason": reason, "detail": detail}
    return {**row, "excerpt": excerpt}


def of(number, similarity=1.0):
    return f"of {id_of(number)}, similarity {similarity:.3f}"


def write_corpus(folder: Path, train, validation=(), left_out=()) -> Path:
    folder.mkdir(parents=True)
    for split, rows in (("train", train), ("validation", validation)):
        if rows:
            write_shard(folder / f"{split}-00000.parquet", sorted(rows, key=lambda row: row["id"]), DOCUMENTS)
    (folder / "dropped").mkdir()
    if left_out:
        write_shard(folder / "dropped" / "part-00000.parquet", left_out, DROPPED)
    return folder


def write_urls(path: Path, *rows) -> Path:
    names = ("url", "outcome", "reason", "status", "depth", "found_on")
    write_shard(path, (dict(zip(names, row, strict=False)) for row in rows), URLS)
    return path


@pytest.fixture
def folder(tmp_path):
    """38 documents of two sources, and 7 that were dropped."""
    documents = [document(number, source="owt" if number % 2 else "site") for number in range(38)]
    left_out = [
        dropped(100, "too short", "12 characters", excerpt="All rights RESERVED,\n(really)."),
        dropped(101, "too short", "13 characters"),
        dropped(102, "no text", excerpt=None),
        dropped(200, "near-duplicate", of(4, 0.85)),
        dropped(200, "duplicate", of(200)),  # of a text that is a near-duplicate itself
        dropped(201, "near-duplicate", of(4, 0.9), source="owt"),
        dropped(202, "duplicate", of(7), source="owt"),
    ]
    return write_corpus(tmp_path / "it's a corpus", documents[:30], documents[30:], left_out)


@pytest.fixture
def corpus(folder):
    with Corpus(folder) as opened:
        yield opened


def test_a_seed_draws_the_same_documents_and_another_seed_others(corpus):
    drawn = [[row.id for row in sample(corpus, Sampling(5, seed=seed))] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5
    assert {row.id for row in sample(corpus, Sampling(100))} == {id_of(number) for number in range(38)}


def test_a_sample_is_of_one_source_and_shows_so_many_characters(corpus):
    documents = sample(corpus, Sampling(100, source="owt", characters=8))
    assert {row.source for row in documents} == {"owt"} and len(documents) == 19
    assert {row.text for row in documents} == {"Document"}
    assert {row.split for row in documents} == {"train", "validation"}


def test_what_a_rule_dropped_is_shown_with_the_number_that_decided(corpus):
    rows = sample_dropped(corpus, Sampling(10), "too short")
    assert {(row.id, row.detail) for row in rows} == {(id_of(100), "12 characters"), (id_of(101), "13 characters")}
    assert len(sample_dropped(corpus, Sampling(10))) == 7


@pytest.mark.parametrize(
    ("ask", "listed"),
    [
        (lambda corpus: sample_dropped(corpus, Sampling(1), "spam"), "duplicate, near-duplicate, no text, too short"),
        (lambda corpus: sample(corpus, Sampling(1, source="web")), "owt, site"),
        (lambda corpus: search(corpus, " \n", Sampling(1)), "give a word or a phrase"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(corpus, ask, listed):
    with pytest.raises(UserError, match=listed):
        ask(corpus)


def test_a_phrase_is_found_whatever_its_case_and_space_and_all_occurrences_are_counted(corpus):
    matches = search(corpus, "RIVER  1 and", Sampling(2))
    wanted = [number for number in range(38) if number % 3 == 1]
    assert sum(sum(counts.values()) for counts in matches.documents.values()) == len(wanted)
    assert matches.documents["site"] == {
        "train": sum(number % 2 == 0 and number < 30 for number in wanted),
        "validation": sum(number % 2 == 0 and number >= 30 for number in wanted),
    }
    assert len(matches.found) == 2 and all("river 1 and" in row.text for row in matches.found)


def test_a_phrase_is_no_pattern_and_is_found_in_what_was_dropped(corpus):
    matches = search(corpus, "reserved, (really).", Sampling(3))
    assert matches.documents == {} and matches.dropped == {"site": {"too short": 1}}
    assert [row.id for row in matches.found_dropped] == [id_of(100)]
    assert search(corpus, ".*", Sampling(3)).documents == {}


def test_the_surroundings_of_a_match_are_shown_not_the_whole_text(tmp_path):
    text = "begin " + "word " * 500 + "the leaked phrase " + "word " * 500
    with Corpus(write_corpus(tmp_path / "long", [document(1, text)])) as corpus:
        [found] = search(corpus, "leaked phrase", Sampling(1)).found
    assert "the leaked phrase" in found.text and len(found.text) < 300


def test_a_duplicate_of_a_near_duplicate_belongs_to_what_was_kept(corpus):
    found = duplicates(corpus, Sampling(10))
    assert (found.groups, found.dropped) == (2, 4)
    first, second = found.largest
    assert (first.kept.id, first.size) == (id_of(4), 3)
    assert [(row.id, row.reason) for row in first.dropped] == [
        (id_of(200), "duplicate"), (id_of(201), "near-duplicate"), (id_of(200), "near-duplicate"),
    ]  # fmt: skip
    assert (second.kept.id, second.size) == (id_of(7), 1)
    assert sorted(found.sources) == [("owt", "owt", 1), ("owt", "site", 1), ("site", "site", 2)]


def test_the_duplicates_of_a_source_are_those_that_were_dropped_of_it(corpus):
    found = duplicates(corpus, Sampling(10, source="owt"))
    assert (found.groups, found.dropped) == (2, 2)
    assert [[row.id for row in cluster.dropped] for cluster in found.largest] == [[id_of(201)], [id_of(202)]]


def test_the_difference_of_two_corpora_adds_up_and_says_why(tmp_path):
    before = write_corpus(
        tmp_path / "before",
        [document(1), document(2), document(3, "Menu\nThe text."), document(4)],
        left_out=[dropped(5, "too short", "12 characters")],
    )
    after = write_corpus(
        tmp_path / "after",
        [document(1), document(3, "The text."), document(5)],
        [document(6)],
        left_out=[dropped(2, "bullet lines", "0.97")],
    )
    with Corpus(after) as corpus:
        found = difference(corpus, before, Sampling(10))
    assert (found.before, found.after, found.same, found.changed) == (4, 4, 1, {"site": 1})
    assert found.went == {"site": {"bullet lines": 1, NOT_SEEN: 1}}
    assert found.came == {"site": {"too short": 1, NOT_SEEN: 1}}
    assert {(row.document.id, row.reason, row.detail) for row in found.went_examples} == {
        (id_of(2), "bullet lines", "0.97"), (id_of(4), NOT_SEEN, ""),
    }  # fmt: skip
    assert {row.document.id for row in found.came_examples} == {id_of(5), id_of(6)}
    [changed] = found.changed_examples
    assert "-Menu" in changed.diff and "+The text." not in changed.diff


def test_corpora_that_are_compared_part_by_part_differ_as_at_once(tmp_path, monkeypatch):
    def spread(number):  # ids over the whole range
        return {**document(number), "id": f"{number * 0x0F0F0F0F % 2**32:08x}{number:024x}"}

    before = write_corpus(tmp_path / "before", [spread(number) for number in range(40)])
    after = write_corpus(tmp_path / "after", [spread(number) for number in range(10, 60)])
    found = []
    for part in (1_000_000, 7):
        monkeypatch.setattr("scraping.explorer.difference._PART", part)
        with Corpus(after) as corpus:
            found.append(difference(corpus, before, Sampling(100)))
    assert found[0] == found[1]
    assert (found[1].same, found[1].went, found[1].came) == (30, {"site": {NOT_SEEN: 10}}, {"site": {NOT_SEEN: 20}})


def test_copies_of_a_text_are_counted_one_by_one(tmp_path):
    before = write_corpus(tmp_path / "before", [document(1, url=f"{SITE}/{n}") for n in range(3)])
    after = write_corpus(tmp_path / "after", [document(1)], left_out=[dropped(1, "duplicate", of(1))] * 2)
    with Corpus(after) as corpus:
        found = difference(corpus, before, Sampling(1))
        same = difference(corpus, after, Sampling(1))
    assert (found.before, found.after, found.same, found.went) == (3, 1, 1, {"site": {"duplicate": 2}})
    assert (same.before, same.after, same.same, same.went, same.came) == (1, 1, 1, {}, {})


def test_from_urls_and_records_to_documents_every_number_adds_up(corpus, tmp_path):
    urls = write_urls(
        tmp_path / "urls.parquet",
        *((f"{SITE}/{number}", "stored", None, 200, 1) for number in range(24)),
        (f"{SITE}/old", "redirected", f"{SITE}/1", 301, 1),
        (f"{SITE}/older", "redirected", f"{SITE}/2", 301, 1),
        ("https://other.example/", "skipped", "other host", None, 1),
        (f"{SITE}/waiting", None, None, None, 2),
        (f"{SITE}/vanished", None),  # known from the crawl before
    )
    stats = {"documents": 21, "empty": 2, "sampled_out": 0, "characters": 900}
    stats |= {"skipped": {"not JSON": 3}, "unread": {"not a text": 1}}
    steps = passage(corpus, Origins({"site": urls}, {"owt": stats}, notes={"site": "24 of at least 26 pages"}))
    assert [(step.source, step.name) for step in steps] == [
        ("owt", "ingest"), ("owt", "prepare"), ("site", "crawl"), ("site", "prepare"),
    ]  # fmt: skip
    for step in steps:
        assert step.read + step.gained == step.written + sum(step.left_out.values())
    ingested, from_owt, crawled, from_site = steps
    assert (ingested.read, ingested.left_out) == (26, {"empty": 2, "not JSON": 3})
    assert ingested.note == "files and members that were not read: not a text 1"
    assert crawled.note == "24 of at least 26 pages"
    assert (from_owt.read, from_owt.written, from_owt.left_out) == (21, 19, {"duplicate": 1, "near-duplicate": 1})
    assert (crawled.read, crawled.written) == (28, 24)
    assert crawled.left_out == {"redirected": 2, "skipped: other host": 1, "not fetched": 1}
    assert from_site.read == crawled.written and from_site.unit == "pages"


def test_what_no_record_explains_is_a_reason_of_its_own(corpus, tmp_path):
    urls = write_urls(tmp_path / "urls.parquet", *((f"{SITE}/{n}", "stored", None, 200, 1) for n in range(30)))
    crawled, of_pages = [step for step in passage(corpus, Origins({"site": urls})) if step.source == "site"]
    assert of_pages.left_out[UNACCOUNTED] == 30 - 24 and crawled.written == 30
    crawled, of_pages = [
        step for step in passage(corpus, Origins({"site": urls}, newer=frozenset(["site"]))) if step.source == "site"
    ]
    assert crawled.note == NEWER and UNACCOUNTED not in of_pages.left_out


def test_urls_and_records_that_were_left_out_are_drawn_by_reason(corpus, tmp_path):
    urls = write_urls(
        tmp_path / "urls.parquet",
        *((f"{SITE}/{number}.pdf", "skipped", "file type", None, 1) for number in range(20)),
        (f"{SITE}/old", "redirected", f"{SITE}/1", 301, 1),
        (f"{SITE}/waiting", None, None, None, 2),
        (f"{SITE}/vanished", None),
    )
    drawn = [sample_urls(corpus, "site", urls, "skipped: file type", Sampling(3, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {row.told for row in drawn[0]} == {"skipped: file type"}
    [step] = [step for step in passage(corpus, Origins({"site": urls})) if step.name == "crawl"]
    assert step.left_out == {"skipped: file type": 20, "redirected": 1, "not fetched": 1}
    assert [len(sample_urls(corpus, "site", urls, key, Sampling(99))) for key in step.left_out] == [20, 1, 1]

    reasons = ("not JSON", "null")
    lines = [{"file": "a.jsonl", "place": f"line {n}", "reason": reasons[n % 2], "detail": ""} for n in range(9)]
    (tmp_path / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = [sample_records("owt", tmp_path / "skipped.jsonl", "null", Sampling(2, seed=seed)) for seed in (1, 1)]
    assert records[0] == records[1] and len(records[0]) == 2
    assert {row.reason for row in records[0]} == {"null"}


@pytest.fixture
def why(corpus, tmp_path):
    urls = write_urls(
        tmp_path / "urls.parquet",
        (f"{SITE}/4", "stored", None, 200, 1),
        (f"{SITE}/200", "stored", None, 200, 1),
        (f"{SITE}/new", "stored", None, 200, 1),
        (f"{SITE}/old", "redirected", f"{SITE}/older", 301, 1),
        (f"{SITE}/older", "redirected", f"{SITE}/4", 302, 2),
        (f"{SITE}/a.pdf", "skipped", "file type", None, 2, f"{SITE}/4"),
        (f"{SITE}/gone", "failed", "HTTP 404", 404, 1),
        (f"{SITE}/waiting", None, None, None, 2),
        (f"{SITE}/vanished", None),
    )
    source = Source(name="site", start=[f"{SITE}/"], contact="me@example.org", deny=["/private"])
    return lambda url: trace(corpus, url, {"site": urls}, {"site": source.scope()})


@pytest.mark.parametrize(
    ("url", "conclusion"),
    [
        (f"{SITE}/4", "in the corpus (train)"),
        ("http://www.site.example/4/#part", "in the corpus (train)"),
        (f"{SITE}/old", "in the corpus (train)"),
        (f"{SITE}/102", "dropped by prepare: no text"),
        (f"{SITE}/201", f"dropped by prepare: near-duplicate ({of(4, 0.9)}); kept instead: {SITE}/4"),
        (f"{SITE}/new", "stored by the crawl, but unknown to this corpus: it was made of an earlier snapshot"),
        (f"{SITE}/a.pdf", f"never a page of the corpus; skipped: file type, found on {SITE}/4"),
        (f"{SITE}/gone", "never a page of the corpus; failed: HTTP 404"),
        (f"{SITE}/waiting", "never a page of the corpus; found, but not fetched: the crawl ended before its turn"),
        (f"{SITE}/vanished", "never a page of the corpus; stored by an earlier crawl, but not found by the last one"),
        (f"{SITE}/none", "unknown: it belongs to site, but no page and no sitemap that its crawl read names it"),
        (f"{SITE}/private/x", "unknown, and no source takes it: site: denied path"),
        ("https://elsewhere.example/", "unknown: elsewhere.example is not a host of site"),
        ("mailto:me@site.example", "unknown: it is not the address of a web page"),
    ],
)
def test_a_url_has_an_answer_whatever_became_of_it(why, url, conclusion):
    assert why(url).conclusion == conclusion


def test_an_id_is_traced_too_and_the_last_that_was_kept_is_named(why):
    copy = why(id_of(200))
    assert [row.reason for row in copy.dropped] == ["near-duplicate", "duplicate"]
    assert {document.id for document in copy.kept_instead} == {id_of(4)}
    assert why(id_of(5)).conclusion == "in the corpus (train)"
    assert why(id_of(999)).conclusion == "unknown: no document of that id was read"


def test_a_redirect_is_followed_to_its_end(why):
    found = why(f"{SITE}/old")
    assert [row.url for row in found.crawled] == [f"{SITE}/old", f"{SITE}/older", f"{SITE}/4"]
    assert [document.id for document in found.documents] == [id_of(4)]


def test_a_corpus_in_which_nothing_was_dropped_can_be_asked(tmp_path):
    with Corpus(write_corpus(tmp_path / "all", [document(1)])) as corpus:
        assert corpus.reasons() == [] and sample_dropped(corpus, Sampling(3)) == []
        assert duplicates(corpus, Sampling(3)).groups == 0
        with pytest.raises(UserError, match="nothing was dropped"):
            sample_dropped(corpus, Sampling(3), "too short")


def test_a_folder_without_a_corpus_and_a_damaged_file_are_said_in_one_line(tmp_path, folder):
    with pytest.raises(UserError, match="holds no corpus"):
        Corpus(tmp_path)
    write_shard(tmp_path / "train-00000.parquet", [{"text": "A text."}], pa.schema([("text", pa.string())]))
    with pytest.raises(UserError, match=r"holds no corpus \(.*give a folder that prepare wrote"):
        Corpus(tmp_path)
    foreign = write_corpus(tmp_path / "foreign", [document(1)]) / "dropped"
    foreign.mkdir(exist_ok=True)
    write_shard(foreign / "part-00000.parquet", [{"text": "A text."}], pa.schema([("text", pa.string())]))
    with pytest.raises(UserError, match=r"holds no corpus \(.*give a folder that prepare wrote"):
        Corpus(foreign.parent)
    shard = folder / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read") as told, Corpus(folder) as corpus:
        sample(corpus, Sampling(1))
    assert "\n" not in str(told.value) and str(folder) in str(told.value)


def test_a_corpus_says_what_was_taken_out_as_templates(corpus, folder):
    assert removed(corpus) is None
    sites = [{"site": "a.example", "pages": 9, "changed": 8, "removed_share": 0.1, "parts": []}]
    counts = {"characters_before_template_removal": 100, "characters_after_template_removal": 90}
    (folder / "stats.json").write_text(json.dumps({**counts, "templates": sites}))
    assert removed(corpus) == Removed(10, 100, sites)
