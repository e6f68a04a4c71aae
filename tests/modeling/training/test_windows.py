"""The windows of a mixture: from one source each, in its order, evenly over the run, for any ranks."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.config.pretrain import PretrainConfig
from modeling.training.pretrain import pretrain
from modeling.training.windows import BLOCK, MixedWindows, TrainWindows, sources_seen, training_windows
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.arrays import TokenArrays
from tokenization.config import PretokenizeConfig
from tokenization.pretokenize import pretokenize
from tokenization.shard_writer import EncodingInputs
from tokenization.sources import SampledTokens, Sources

LENGTH = 32
LETTERS = {"few": "fF", "many": "mM", "some": "sS"}


def corpus(folder, sources=LETTERS, with_sources=True):
    """Documents of sources that are told apart by their letters, among each other, in two shards."""
    choose = random.Random(0)
    often = {"few": 5, "many": 120, "some": 40}
    rows = [(name, "".join(choose.choices(letters, k=choose.randrange(1, 200))))
            for name, letters in sources.items() for _ in range(often[name])]  # fmt: skip
    choose.shuffle(rows)
    folder.mkdir()
    half = len(rows) // 2
    for name, part in {"train-00000": rows[:half], "train-00001": rows[half:], "validation-00000": rows[:40]}.items():
        columns = {"text": [text for _, text in part]}
        columns |= {"source": [source for source, _ in part]} if with_sources else {}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tokenizer_folder):
    """Token arrays that know their sources."""
    folder = tmp_path_factory.mktemp("mixed")
    inputs = EncodingInputs(corpus(folder / "corpus"), tokenizer_folder)
    pretokenize(inputs, PretokenizeConfig(threads=1), folder / "tokens")
    return folder / "tokens"


@pytest.fixture(scope="module")
def arrays(mixed):
    return TokenArrays(mixed, "train")


def config(mixture, steps=300, batch=10, **changes):
    return PretrainConfig.model_validate({"mixture": mixture, "steps": steps, "batch": batch, "seed": 3, **changes})


WEIGHTS = {"few": {"weight": 2, "repeat": 12}, "many": {"weight": 5}, "some": {"weight": 3}}


def sources_of(windows, arrays) -> list[str]:
    """Which source each window is from, by its letters; it is from no other."""
    by_id = {ord(letter): name for name, letters in LETTERS.items() for letter in letters}
    found = []
    for window in windows.tolist():
        names = {by_id[token] for token in window if token != arrays.eot_id}
        assert len(names) == 1
        found.append(names.pop())
    return found


def test_the_tokens_of_a_source_are_its_documents_one_after_the_other(arrays):
    sources = Sources(arrays)
    names, numbers = arrays.document_sources()
    assert sources.names == names == sorted(LETTERS)
    for place, name in enumerate(names):
        whole = np.concatenate([arrays.document(index) for index in np.flatnonzero(numbers == place)])
        tokens = sources.tokens(name)
        assert len(tokens) == len(whole) == arrays.source_tokens()[name]
        starts = np.arange(len(whole) - LENGTH + 1)
        assert (tokens.windows(starts, LENGTH) == whole[starts[:, None] + np.arange(LENGTH)]).all()
        with pytest.raises(IndexError):
            tokens.windows(np.array([len(whole) - LENGTH + 1]), LENGTH)


def test_every_window_is_of_one_source_and_the_shares_hold_in_every_block(arrays):
    windows = training_windows(arrays, config(WEIGHTS), LENGTH, 1)
    assert isinstance(windows, MixedWindows)
    names = sources_of(windows.read(0, range(3_000)), arrays)
    assert Counter(names) == windows.allocated
    for count in range(BLOCK // 2, 3_000, 97):
        for name, number in Counter(names[:count]).items():
            share = windows.allocated[name] / 3_000
            assert abs(number - share * count) <= BLOCK * share * (1 - share) + 2


def test_a_source_is_seen_epoch_by_epoch_as_if_it_were_alone(arrays):
    windows = training_windows(arrays, config(WEIGHTS), LENGTH, 1)
    sources, numbers = windows.places(np.arange(3_000))
    for place, (name, count) in enumerate(windows.allocated.items()):
        chosen = numbers[sources == place]
        assert sorted(chosen.tolist()) == list(range(count))
        assert (np.abs(chosen - np.arange(count)) < BLOCK).all()
        alone = TrainWindows(Sources(arrays).tokens(name), LENGTH, 1, 3)
        assert count <= WEIGHTS[name].get("repeat", 1e9) * alone.count
        rows = np.flatnonzero(sources == place)[:20]
        read = np.concatenate([windows.read(int(row), range(1)) for row in rows])
        assert (read == np.concatenate([alone.read(int(numbers[row]), range(1)) for row in rows])).all()


@given(st.integers(0, 290), st.integers(1, 5))
@settings(max_examples=30)
def test_the_rows_of_all_ranks_at_any_step_are_the_global_batch(arrays, step, world):
    chosen = config(WEIGHTS)
    whole = training_windows(arrays, chosen, LENGTH, 1).read(0, range(3_000))
    fresh = training_windows(arrays, chosen, LENGTH, 1)
    bounds = [10 * rank // world for rank in range(world + 1)]
    parts = [fresh.read(step * 10, range(*pair)) for pair in pairwise(bounds)]
    assert (np.concatenate(parts) == whole[step * 10 : step * 10 + 10]).all()


def test_without_a_mixture_the_order_is_that_of_all_tokens_and_what_is_seen_is_counted_exactly(arrays):
    windows = training_windows(arrays, config({}), LENGTH, 1)
    assert isinstance(windows, TrainWindows)
    alone = TrainWindows(arrays, LENGTH, 1, 3)
    assert (windows.read(0, range(500)) == alone.read(0, range(500))).all()
    names, numbers = arrays.document_sources()
    of_token = np.repeat(numbers, np.diff(arrays.document_ends(), prepend=0))
    for count in (1, alone.count - 1, alone.count, 2 * alone.count + 7):
        starts = alone.starts(np.arange(count)) + 1
        expected = np.bincount(of_token[starts[:, None] + np.arange(LENGTH)].ravel(), minlength=len(names))
        seen = sources_seen(arrays, windows, config({}, steps=count, batch=1))
        assert [seen[name].seen for name in names] == expected.tolist()
        assert sum(source.share for source in seen.values()) == pytest.approx(1, abs=1e-3)


def begun_documents(arrays) -> set[int]:
    return {0, *(arrays.document_ends()[:-1] - 1).tolist()}


@pytest.mark.parametrize("length", [8, 32, 150])
def test_windows_begin_where_documents_do_or_whole_windows_later(arrays, length):
    windows = TrainWindows(arrays, length, 1, 0, "document")
    begins = np.array(sorted(begun_documents(arrays)))
    for epoch in range(3):
        numbers = np.arange(epoch * windows.count, (epoch + 1) * windows.count)
        starts = windows.starts(numbers)
        tiles = TrainWindows(arrays, length, 1, 0).starts(numbers)
        assert len(set(starts.tolist())) == windows.count  # none twice
        into = starts - begins[np.searchsorted(begins, starts, side="right") - 1]
        assert (into % length == 0).all() and (tiles >= starts).all() and (tiles - starts < length).all()
        first = windows.read(int(numbers[0]), range(windows.count))[:, 0]
        assert ((first == arrays.eot_id) | (into > 0) | (starts == 0)).all()
    assert (into == 0).mean() > {8: 0.05, 32: 0.25, 150: 0.6}[length]


def test_windows_of_a_source_begin_where_its_documents_do(arrays):
    windows = training_windows(arrays, config(WEIGHTS, window_start="document"), LENGTH, 1)
    read = windows.read(0, range(3_000))
    assert Counter(sources_of(read, arrays)) == windows.allocated
    assert (read[:, 0] == arrays.eot_id).mean() > 0.25
    unaligned = training_windows(arrays, config(WEIGHTS), LENGTH, 1).read(0, range(3_000))
    assert (unaligned[:, 0] == arrays.eot_id).mean() < 0.05
    for name in LETTERS:
        tokens = Sources(arrays).tokens(name)
        ends = tokens.document_ends()
        assert ends[-1] == len(tokens)
        assert (tokens.windows(ends - 1, 1) == arrays.eot_id).all()
        whole = tokens.windows(np.array([0]), len(tokens))[0]
        assert (whole == arrays.eot_id).sum() == len(ends)


def test_what_is_seen_of_windows_that_begin_documents_is_counted_exactly(arrays):
    aligned = config({}, steps=70, window_start="document")
    windows = training_windows(arrays, aligned, LENGTH, 1)
    starts = windows.starts(np.arange(700))
    names, numbers = arrays.document_sources()
    of_token = np.repeat(numbers, np.diff(arrays.document_ends(), prepend=0))
    seen = Counter(of_token[starts[:, None] + 1 + np.arange(LENGTH)].flatten().tolist())
    found = sources_seen(arrays, windows, aligned)
    assert {name: found[name].seen for name in names} == {name: seen[place] for place, name in enumerate(names)}


def test_what_a_run_saw_is_in_its_result_and_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    mixed, tokenizer_folder, tiny, tmp_path
):
    class Stopped(BaseException):
        pass

    def stop(done, total=None, **metrics):
        if done == 12:
            raise Stopped

    def files(folder):
        return {
            path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timing.jsonl"
        }

    chosen = tiny(mixture=WEIGHTS, steps=20, checkpoint_every=5, log_every=1)
    pretrain(mixed, tokenizer_folder, chosen, tmp_path / "whole", quiet)
    with pytest.raises(Stopped):
        pretrain(mixed, tokenizer_folder, chosen, tmp_path / "stopped", stop)
    pretrain(mixed, tokenizer_folder, chosen, tmp_path / "stopped", quiet)
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")
    sources = json.loads((tmp_path / "whole" / "stats.json").read_text())["sources"]
    assert {name: source["seen"] for name, source in sources.items()} == {
        "few": 32 * LENGTH, "many": 80 * LENGTH, "some": 48 * LENGTH,
    }  # fmt: skip
    assert sources["many"]["epochs"] == round(80 * LENGTH / sources["many"]["tokens"], 4)


def test_a_source_that_is_not_there_gives_nothing_and_one_without_sources_is_refused(
    arrays, tokenizer_folder, tmp_path
):
    asked = config(WEIGHTS | {"absent": {"weight": 10}})
    windows = training_windows(arrays, asked, LENGTH, 1)
    seen = sources_seen(arrays, windows, asked)
    assert seen["absent"] == (0, 0, 0.0, 0.0, 0.5)
    assert seen["some"].share > 0.3 > seen["some"].asked == 0.15
    assert windows.allocated == training_windows(arrays, config(WEIGHTS), LENGTH, 1).allocated
    plain = EncodingInputs(corpus(tmp_path / "corpus", with_sources=False), tokenizer_folder)
    pretokenize(plain, PretokenizeConfig(threads=1), tmp_path / "tokens")
    unknown = TokenArrays(tmp_path / "tokens", "train")
    with pytest.raises(UserError, match="does not say which source a document is from; run pretokenize again"):
        training_windows(unknown, config(WEIGHTS), LENGTH, 1)
    assert sources_seen(unknown, training_windows(unknown, config({}), LENGTH, 1), config({})) == {}


# -- a share of the text -----------------------------------------------------------------------------------------------


def documents_of(arrays):
    return [tuple(arrays.document(number)) for number in range(arrays.documents)]


def test_a_share_is_whole_documents_in_their_order_and_a_smaller_one_lies_within_a_larger(mixed, arrays):
    every, before = documents_of(arrays), set()
    for share in (0.1, 1 / 3, 0.9, 1.0):
        sampled = SampledTokens(mixed, "train", share)
        documents = documents_of(sampled)
        assert share - 0.05 < len(sampled) / len(arrays) <= share
        assert before <= set(documents)
        assert documents == [document for document in every if document in set(documents)]
        assert np.array_equal(sampled.window(0, len(sampled)), np.concatenate(documents))
        assert sampled.document_ends().tolist() == np.cumsum(list(map(len, documents))).tolist()
        before = set(documents)
    assert documents == every


def test_windows_of_a_share_are_read_through_its_documents(mixed):
    sampled = SampledTokens(mixed, "train", 0.4)
    flat = np.concatenate(documents_of(sampled))
    starts = np.arange(0, len(sampled) - LENGTH, 7)
    assert np.array_equal(sampled.windows(starts, LENGTH), np.stack([flat[s : s + LENGTH] for s in starts]))
    with pytest.raises(IndexError):
        sampled.windows(np.array([len(sampled) - LENGTH + 1]), LENGTH)


def test_a_share_knows_its_sources(mixed):
    sampled = SampledTokens(mixed, "train", 0.5)
    sources = Sources(sampled)
    sizes = {name: len(sources.tokens(name)) for name in sources.names}
    assert sampled.source_tokens() == sizes
    assert sum(sizes.values()) == len(sampled)


def test_a_training_on_a_share_sees_nothing_else_and_says_so(mixed, tokenizer_folder, tiny, tmp_path):
    pretrain(mixed, tokenizer_folder, tiny(train_share=0.25, steps=10), tmp_path, quiet)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert sum(source["tokens"] for source in stats["sources"].values()) == len(SampledTokens(mixed, "train", 0.25))
    assert json.loads((tmp_path / "config.json").read_text())["run"]["train_share"] == 0.25


def test_less_than_a_document_and_a_share_of_a_mixture_are_refused(mixed, tiny):
    with pytest.raises(UserError, match="is not a whole document; take a larger share"):
        SampledTokens(mixed, "train", 1e-9)
    with pytest.raises(ValueError, match="train_share is of all sources alike"):
        tiny(train_share=0.5, mixture={"few": {"weight": 1}})
