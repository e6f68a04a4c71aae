"""What the experiment on directions in embeddings measures."""

import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser

from experiments.claims.objectives import embeddings
from experiments.claims.objectives.embeddings import (
    DRAWN,
    NEAR,
    measure,
    neighborhoods,
    ranks,
    relations,
    text,
    trained,
    vectors,
)
from experiments.library import library_files
from textmill.progress import quiet


@pytest.fixture
def small(monkeypatch):
    """A part of the library as the text to learn from."""
    files = [path for path in library_files() if path.stem in ("argparse", "inspect", "tarfile", "typing", "socket")]
    monkeypatch.setattr(embeddings, "library_files", lambda: files)
    for cached in (text, vectors):
        cached.cache_clear()
    yield
    for cached in (text, vectors):
        cached.cache_clear()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_direction_that_is_there_is_found_and_without_it_or_with_another_pair_it_is_not():
    draw = np.random.default_rng(0)
    first, near, direction = draw.standard_normal((40, 16)), draw.standard_normal((40, 16)), draw.standard_normal(16)
    words = unit(np.concatenate([np.ones((1, 16)), first, first + direction, first + 0.2 * near]))
    pairs = np.stack([np.arange(1, 41), np.arange(41, 81)], 1)
    places = {
        method: np.log(ranks(words, pairs, method, np.random.default_rng(1))).mean()
        for method in ("pairs", "none", "shuffled")
    }
    assert places["pairs"] < 0.5 * places["none"]
    assert places["pairs"] < 0.5 * places["shuffled"]


@pytest.mark.parametrize("method", ["pairs", "shuffled", "none"])
def test_the_place_is_counted_among_all_words_but_those_of_the_question(method):
    draw = np.random.default_rng(0)
    words = unit(draw.standard_normal((30, 8)))
    pairs = draw.permutation(np.arange(1, 29)).reshape(-1, 2)
    found = ranks(words, pairs, method, np.random.default_rng(1))
    assert len(found) == embeddings.QUESTIONS * len(pairs)
    assert found.min() >= 1
    assert found.max() <= 30 - 4  # the unknown word, and three of the question
    assert 8 < found.mean() < 19  # as by chance
    assert (found == ranks(words, pairs, method, np.random.default_rng(1))).all()


def test_rules_and_opposites_make_pairs_of_words_that_are_there():
    words = ["", "file", "files", "name", "names", "use", "used", "using", "is", "iss", "File", "FILE", "open", "close"]
    found = {name: [(words[a], words[b]) for a, b in pairs] for name, pairs in relations(words).items()}
    assert found == {
        "opposite": [("open", "close")], "plural": [("file", "files"), ("name", "names")], "past": [("use", "used")],
        "gerund": [("use", "using")], "capital": [("file", "File")], "upper": [("file", "FILE")],
    }  # fmt: skip


def test_a_model_learns_the_same_vectors_each_time_and_others_of_another_seed(small):
    first = trained(4, 0)
    assert first.shape == (embeddings.VOCAB_SIZE, embeddings.WIDTH)
    assert (first == trained(4, 0)).all()
    assert not (first == trained(4, 1)).all()
    assert not (first == trained(0, 0)).all()


def test_the_variants_of_a_seed_are_measured_on_the_same_vectors(small):
    figures = {offset: measure({"steps": 0, "offset": offset}, 0, quiet) for offset in ("pairs", "none")}
    for measured in figures.values():
        assert 2.5 < measured.figures["log10_rank"] < 3.2  # nothing is learned: by chance 2.9 of 2,048 words
        assert measured.figures["found"] < 0.05
    assert figures["pairs"].figures["plural_pairs"] == figures["none"].figures["plural_pairs"] > 20
    [(title, svg)] = figures["pairs"].pictures.items()
    labels = [node.text() for node in LexborHTMLParser(svg).css("text")]
    assert title == "Words and their nearest"
    assert set(DRAWN) <= set(labels)
    assert len(DRAWN) < len(labels) == len(set(labels)) <= len(DRAWN) * (1 + NEAR)
    assert svg == neighborhoods(vectors(0, 0), text().words)
