"""Text that corpora are judged by: what one sets aside, without what any of them would train on."""

from __future__ import annotations

import random

import pytest

from scraping.corpus.safeguards import held_out as module
from scraping.corpus.safeguards.held_out import HELD_OUT, write_held_out
from scraping.shards import DOCUMENTS, read_rows, write_shard
from textmill.errors import UserError


def prose(seed, words=200):
    word = random.Random(seed)
    return " ".join(f"word{word.randrange(5000)}" for _ in range(words))


def corpus(folder, *, train=(), validation=(), source="site"):
    folder.mkdir()
    for split, texts in {"train": train, "validation": validation}.items():
        rows = [{"id": f"{split}-{text[:20]}", "source": source, "text": text} for text in texts]
        write_shard(folder / f"{split}-00000.parquet", rows, DOCUMENTS)
    return folder


def held(folder, *corpora):
    folder.mkdir()
    counts = write_held_out(corpora[0], corpora, folder)
    return counts["site"], {row["text"] for row in read_rows([folder / HELD_OUT])}


def test_what_a_corpus_trains_on_is_not_held_out(tmp_path):
    fresh, copied, quoted, mentioned = (prose(seed) for seed in range(4))
    clean = corpus(tmp_path / "clean", train=[prose(10)], validation=[fresh, copied, quoted, mentioned])
    near = prose(11) + " " + " ".join(quoted.upper().split()[:60])  # 30 % of it
    little = " ".join(mentioned.split()[:20])  # 10 %
    other = corpus(tmp_path / "other", train=[copied, near, little], validation=[fresh])
    counts, texts = held(tmp_path / "out", clean, other)
    assert texts == {fresh, mentioned}
    assert counts == (2, sum(map(len, texts)), 4, 2)
    assert held(tmp_path / "alone", clean)[1] == {fresh, copied, quoted, mentioned}


def test_which_other_corpora_there_are_does_not_change_what_they_leave(tmp_path):
    clean = corpus(tmp_path / "clean", train=[prose(10)], validation=[prose(seed) for seed in range(5)])
    other = corpus(tmp_path / "other", train=[prose(20)])
    held(tmp_path / "a", clean)
    held(tmp_path / "b", clean, other)
    assert (tmp_path / "a" / HELD_OUT).read_bytes() == (tmp_path / "b" / HELD_OUT).read_bytes()


def test_a_large_source_is_judged_by_a_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SOURCE_BYTES", 3_000)
    clean = corpus(tmp_path / "clean", validation=[prose(seed) for seed in range(9)])
    counts, texts = held(tmp_path / "out", clean)
    assert 3_000 <= counts.bytes < 3_000 + max(map(len, texts))
    assert (counts.documents, counts.set_aside) == (len(texts), 9)


def test_a_corpus_that_sets_nothing_aside_judges_nothing(tmp_path):
    clean = corpus(tmp_path / "clean", train=[prose(1)], validation=[prose(1)])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="of 1 documents that clean sets aside none is new to all that train"):
        write_held_out(clean, [clean], tmp_path / "out")
