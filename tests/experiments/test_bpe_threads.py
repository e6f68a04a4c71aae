"""What the experiment on threads and trainers measures."""

import pytest

from experiments.catalog import load
from experiments.claims.tokenizers.bpe_threads import hugging_faces, measure, ours, tiktokens
from textmill.errors import Unavailable
from textmill.progress import quiet

TEXTS = [f"def move_{name}(self, value):\n    return self.{name} + value\n" * 3 for name in ("left", "right", "up")]


@pytest.mark.parametrize(("threads", "shards"), [(2, 1), (1, 2), (2, 3)])
def test_threads_and_shards_make_the_same_tokens(threads, shards):
    assert ours(TEXTS, 30, threads, shards) == ours(TEXTS, 30, 1, 1)


def test_all_trainers_do_the_same_work():
    """Of pairs that are equally frequent, each takes another first."""
    text = ["aaaa bbb cc aaaa bbb aaaa"]
    assert ours(text, 3, 1, 1)[0] == b"aa"
    assert tiktokens(text, 3)[0] == b"aa"
    assert len(ours(TEXTS, 20, 1, 1)) == len(tiktokens(TEXTS, 20)) == 20


def test_hugging_faces_trainer_learns_as_many_merges():
    pytest.importorskip("tokenizers")
    seconds, tokens = hugging_faces(["aaaa bbb cc aaaa bbb aaaa"], 3, 1)
    assert (seconds > 0, len(tokens), tokens[0]) == (True, 3, b"aa")


def test_a_measurement_gives_seconds_and_what_tells_tokens_apart():
    settings = load("bpe_threads").variants["ours, one thread"] | {"bytes": 20_000, "merges": 50}
    one, two, other = (
        measure(settings | changes, seed, quiet).figures for changes, seed in (({}, 0), ({"threads": 2}, 0), ({}, 1))
    )
    assert one["checksum"] == two["checksum"] != other["checksum"]
    assert one["merges"] == 50
    assert 10 ** one["log10_seconds"] == pytest.approx(one["seconds"])


def test_a_trainer_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tiktoken._educational", None)
    settings = load("bpe_threads").variants["tiktoken, small text"]
    with pytest.raises(Unavailable, match="tiktoken is not installed; pip install"):
        measure(settings, 0, quiet)
