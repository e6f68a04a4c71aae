"""A corpus without personal data and evaluation texts: what went is counted, and nowhere left."""

from __future__ import annotations

import json
import random

import pytest

from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.corpus.config import PrepareConfig
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.shards import read_rows, shards
from textmill.errors import UserError

pytestmark = pytest.mark.long

WORDS = ["river", "stone", "window", "letter", "garden", "morning", "winter", "captain", "market", "signal", "paper"]
QUESTION = "Which of the seven rivers of the old kingdom flows north through the marble gorge before the sea?"


def prose(seed):
    word = random.Random(seed)
    sentences = ("the " + " ".join(word.choice(WORDS) for _ in range(9)) for _ in range(12))
    return " ".join(sentence.capitalize() + "." for sentence in sentences)


def silent(*_, **__):
    pass


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    texts = [prose(number) for number in range(20)]
    texts[3] += f" He asks: {QUESTION.upper()}"
    texts[4] += " Write to ann@site.org or call +1 415 555 0132."
    texts[5] = "Write to ben@site.org."  # dropped as too short
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ingest(IngestConfig(path=str(folder / "texts.jsonl")), folder / "out", silent)
    return folder / "out"


def build(documents, out, **settings):
    prepare(CorpusInputs(documents=[documents]), PrepareConfig(workers=1, **settings), out, silent)
    kept = [row for split in ("train", "validation") for row in read_rows(shards(out, split))]
    return json.loads((out / "stats.json").read_text()), kept, list(read_rows(shards(out / "dropped")))


def test_nothing_is_redacted_or_looked_for_unless_it_is_asked_for(documents, tmp_path):
    stats, kept, _ = build(documents, tmp_path / "out")
    text = " ".join(row["text"] for row in kept)
    assert "ann@site.org" in text and "+1 415 555 0132" in text and QUESTION.upper() in text
    assert "evaluation" not in stats and not any(key.startswith("redacted") for key in stats)


def test_personal_data_is_nowhere_in_the_corpus_and_is_counted(documents, tmp_path):
    stats, kept, dropped = build(documents, tmp_path / "out", redact=["email", "ip"])
    text = " ".join([row["text"] for row in kept] + [row["excerpt"] for row in dropped])
    assert "@site.org" not in text and text.count("<EMAIL>") == 2 and "+1 415 555 0132" in text
    assert all(row["n_chars"] == len(row["text"]) for row in kept)
    assert (stats["redacted_email"], stats["redacted_ip"]) == (2, 0)


def test_documents_with_a_part_of_an_evaluation_text_are_dropped_with_that_reason(documents, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "The last one."}) + "\n")
    stats, kept, dropped = build(documents, tmp_path / "out", decontaminate={"paths": [str(tmp_path / "test.jsonl")]})
    [row] = [row for row in dropped if row["reason"] == "evaluation text"]
    assert row["detail"] == f"13 words of test.jsonl, record 1: {' '.join(QUESTION.lower().split()[:13])}"
    assert len(kept) == 18 and stats["dropped"] == {"evaluation text": 1, "too short": 1}
    assert stats["evaluation"] == {"texts": 1, "too_short": 1, "without_text": 0}


def test_a_mistake_in_evaluation_files_is_told_before_any_page_is_read(documents, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    phases = []
    settings = {"paths": [str(tmp_path / "test.jsonl")], "fields": ["qestion"]}
    with pytest.raises(UserError, match="has no record with qestion"):
        prepare(
            CorpusInputs(documents=[documents]),
            PrepareConfig(workers=1, decontaminate=settings),
            tmp_path / "out",
            lambda *_, phase, **__: phases.append(phase),
        )
    assert phases == ["reading evaluation texts"]
