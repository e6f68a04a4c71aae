"""Duplicates: all exact ones, the near ones above the threshold, nothing else, whatever the order."""

from __future__ import annotations

import random

import pytest

from scraping.corpus import dedup
from scraping.corpus.config import DedupConfig
from scraping.corpus.dedup import (
    PERMUTATIONS,
    SignatureColumns,
    find_duplicates,
    rows_per_band,
    save_signatures,
    shingles,
    sign,
)


def sentence_text(random_word, count):
    return " ".join(f"w{random_word.randrange(5_000)}" for _ in range(count))


def edited(text, share, random_word):
    """`text` with about that share of its 5-word runs changed."""
    split = text.split()
    for place in range(0, len(split), max(1, round(5 / share))):
        split[place] = f"new{random_word.randrange(10_000)}"
    return " ".join(split)


def jaccard(first, second):
    a, b = set(shingles(first).tolist()), set(shingles(second).tolist())
    return len(a & b) / len(a | b)


def duplicates_of(ids, texts, tmp_path, **settings):
    """(text, text kept in its place, whether they are the same), signed in two parts."""
    config = DedupConfig(**settings)
    parts = [tmp_path / "first.npz", tmp_path / "second.npz"]
    half = len(texts) // 2
    for path, part in zip(parts, (slice(half), slice(half, None)), strict=True):
        save_signatures(path, sign(ids[part], texts[part], config))
    known = SignatureColumns(parts, tmp_path / "signatures")
    found = find_duplicates(known, lambda places: (texts[place] for place in places.tolist()), config, tmp_path)
    assert known.starts == [0, half, len(texts)] and found["document"].tolist() == sorted(found["document"].tolist())
    assert [ids[place] for place in found["kept"]] == [kept.decode() for kept in found["kept_id"]]
    return list(zip(*(found[name].tolist() for name in ("document", "kept", "is_exact")), strict=True))


def drops(texts, tmp_path, **settings):
    """{text: (text kept in its place, reason)}"""
    ids = [f"{hash_of(text):032x}"[:32] for text in texts]
    found = duplicates_of(ids, texts, tmp_path, **settings)
    return {texts[item]: (texts[kept], "duplicate" if same else "near-duplicate") for item, kept, same in found}


def hash_of(text):
    return sum(ord(char) * 31**i for i, char in enumerate(text[:40]))


def test_exact_duplicates(tmp_path):
    texts = ["one and the same text", "another text", "one and the same text", "one and the same text"]
    assert duplicates_of(list("3142"), texts, tmp_path, near=False) == [(0, 3, True), (2, 3, True)]


def test_near_duplicates_are_found_and_others_are_not(tmp_path):
    random_word = random.Random(3)
    originals = [sentence_text(random_word, 300) for _ in range(150)]
    close = [edited(text, 0.05, random_word) for text in originals[:50]]
    far = [edited(text, 0.6, random_word) for text in originals[50:100]]
    assert min(map(jaccard, originals, close)) > 0.85
    assert max(map(jaccard, originals[50:], far)) < 0.7
    texts = originals + close + far
    dropped = drops(texts, tmp_path, threshold=0.8)
    assert len(dropped) == 50
    assert {frozenset((text, kept)) for text, (kept, _) in dropped.items()} == {
        frozenset(pair) for pair in zip(originals, close, strict=False)
    }
    assert {reason for _, reason in dropped.values()} == {"near-duplicate"}


def test_the_longest_is_kept_whatever_the_order(tmp_path):
    random_word = random.Random(4)
    base = sentence_text(random_word, 400)
    texts = [base, base + " and a few words more", edited(base, 0.03, random_word), sentence_text(random_word, 100)]
    texts += [edited(sentence_text(random_word, 200), 0.01, random_word) for _ in range(30)]
    results = [drops(random.Random(seed).sample(texts, len(texts)), tmp_path) for seed in range(4)]
    assert all(result == results[0] for result in results)
    assert {text: kept for text, (kept, _) in results[0].items()} == {base: texts[1], texts[2]: texts[1]}


def test_what_is_left_has_no_duplicates(tmp_path):
    random_word = random.Random(5)
    texts = [sentence_text(random_word, 120) for _ in range(60)]
    for _ in range(200):
        texts.append(edited(random_word.choice(texts), random_word.choice([0.02, 0.1, 0.2]), random_word))
    texts = list(dict.fromkeys(texts))
    dropped = drops(texts, tmp_path)
    left = [text for text in texts if text not in dropped]
    assert 60 <= len(left) < len(texts)
    assert drops(left, tmp_path) == {}
    for text, (kept, _) in dropped.items():
        assert kept in left and jaccard(text, kept) >= 0.8


def test_many_copies_of_one_page_are_not_compared_pairwise(tmp_path, monkeypatch):
    random_word = random.Random(6)
    base = sentence_text(random_word, 200)
    texts = list({edited(base, 0.02, random_word) for _ in range(400)})
    comparisons = []
    original = dedup.count_common
    monkeypatch.setattr(dedup, "count_common", lambda *sets: comparisons.append(1) or original(*sets))
    assert len(drops(texts, tmp_path)) == len(texts) - 1
    assert len(texts) - 1 <= len(comparisons) < 2 * len(texts)


def test_short_and_empty_texts(tmp_path):
    assert drops(["a", "b", "", "a b c", "c b a"], tmp_path) == {}
    assert drops([], tmp_path) == {}


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_nearly_all_pairs_at_the_threshold(threshold):
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= 0.99


def test_both_switched_off(tmp_path):
    assert drops(["same text", "same text"], tmp_path, exact=False, near=False) == {}
