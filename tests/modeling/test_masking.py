"""Which tokens are hidden: single ones, whole words, spans."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.config.finetune import FinetuneConfig
from modeling.masking import LONGEST_SPAN, Masking, MaskRates, own_targets, word_edges
from modeling.training.objectives import MaskedLM
from tokenization.arrays import TokenArrays

TEXT = "the cat's 12 trees, (or) a dog: <naïve> 第一 x_y  end.\nNext"
WORDS = ["the", " ", "cat", "'", "s", " ", "12", " ", "trees", ",", " ", "(", "or", ")", " ", "a", " ", "dog", ":", " ",
         "<", "naïve", ">", " ", "第一", " ", "x", "_", "y", " ", " ", "end", ".", "\n", "Next"]  # fmt: skip


def windows_of(tokenizer, text: str, rows: int = 1) -> torch.Tensor:
    return torch.tensor([[tokenizer.eot_id, *tokenizer.encode_ordinary(text)]] * rows)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_words_are_what_spaces_and_signs_leave_together(tokenizer):
    ids = windows_of(tokenizer, TEXT)
    units = Masking(tokenizer, shift=False).units(ids, MaskRates(0.1, unit="word"), generator())[0]
    starts = units.unique().tolist()
    assert starts[0] == 0  # the end of text is alone
    pieces = [
        tokenizer.decode(ids[0, a:b].tolist()) for a, b in zip(starts[1:], [*starts[2:], ids.shape[1]], strict=True)
    ]
    assert pieces == WORDS


def test_what_begins_a_word_when_a_blank_is_filled_begins_one_when_words_are_hidden():
    tokens = {b" the": 0, b"re": 1, b" ": 2, b"\xc3": 3, b"\xa9": 4, b" caf\xc3": 5, b"7": 6, b"-": 7, b"\n": 8}
    goes_on, stays_open = word_edges(tokens, 10)
    assert goes_on.nonzero().flatten().tolist() == [1, 3, 4, 6]
    assert stays_open.nonzero().flatten().tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("unit", ["word", "span"])
@given(seed=st.integers(0, 999), rate=st.sampled_from([0.01, 0.15, 0.3, 0.6, 0.99]))
@settings(max_examples=40, deadline=None)
def test_units_are_hidden_whole_and_no_more_than_asked_for(unit, shift, tokenizer, seed, rate):
    masking, rates = Masking(tokenizer, shift), MaskRates(rate, unit=unit, span_length=2.0)
    ids = windows_of(tokenizer, TEXT, rows=3)
    asked = torch.full((3,), max(1, round(rate * masking.ordinary(ids)[0].sum().item())))
    masked = masking.hide(ids, asked, rates, generator(seed))
    units = masking.units(ids, MaskRates(rate, unit="word"), generator(seed))
    assert (masked.counts >= 1).all() and (masked.counts <= asked).all()
    places = masked.positions + shift
    own = own_targets(masked.targets, masked.counts)
    for row in range(3):
        hidden = torch.zeros(ids.shape[1], dtype=torch.bool)
        hidden[places[row][own[row]]] = True
        assert hidden.sum() == masked.counts[row] == len(places[row].unique())
        assert not (hidden & ~masking.ordinary(ids)[row]).any()
        assert torch.equal(masked.ids[row], torch.where(hidden, masking.mask_id, ids[row]))
        cut = [u for u in units[row].unique() if 0 < hidden[(units[row] == u) & masking.ordinary(ids)[row]].sum()
               < ((units[row] == u) & masking.ordinary(ids)[row]).sum()]  # fmt: skip
        assert not cut or masked.counts[row] == asked[row]  # the only unit, too long for the count
        assert len(cut) <= 1


def test_lengths_of_spans_are_geometric_and_bounded(tokenizer):
    ids = torch.tensor([tokenizer.encode_ordinary("ab " * 4000)])
    units = Masking(tokenizer, shift=False).units(ids, MaskRates(0.3, unit="span", span_length=4.0), generator())
    words = Masking(tokenizer, shift=False).units(ids, MaskRates(0.3, unit="word"), generator())[0].unique()
    lengths = np.diff(np.searchsorted(words.numpy(), units[0].unique().numpy()))
    assert lengths.max() == LONGEST_SPAN
    expected = 0.25 * 0.75 ** np.arange(5)  # a piece after the longest is one as well, as lengths have no memory
    found = np.bincount(lengths)[1:6] / len(lengths)
    assert found == pytest.approx(expected, abs=0.03)


def test_spans_do_not_go_beyond_a_document(tokenizer):
    ids = torch.cat([windows_of(tokenizer, "one word"), windows_of(tokenizer, "more of it")], dim=1)
    masking = Masking(tokenizer, shift=False)
    for seed in range(20):
        units = masking.units(ids, MaskRates(0.3, unit="span", span_length=1e9), generator(seed))[0]
        assert units.unique().tolist() == [0, 1, 9, 10]


def test_tokens_of_a_span_share_their_fate(tokenizer):
    masking, rates = Masking(tokenizer, shift=False), MaskRates(0.5, 0.3, 0.3, unit="span", span_length=3.0)
    ids = windows_of(tokenizer, TEXT, rows=200)
    masked = masking.hide(ids, torch.full((200,), 30), rates, generator())
    words = masking.units(ids, MaskRates(0.5, unit="word"), generator())  # each is within a span
    shown = masked.ids.gather(1, masked.positions)
    is_mask = shown == masking.mask_id
    of_word = words.gather(1, masked.positions)
    same_word = of_word[:, 1:] == of_word[:, :-1]
    assert same_word.sum() > 500
    assert (is_mask[:, 1:] == is_mask[:, :-1])[same_word].float().mean() > 0.99  # a random token may be [MASK]
    share = is_mask.float().mean().item()
    assert share == pytest.approx(0.4, abs=0.03)


def test_whatever_is_hidden_in_training_the_evaluation_is_the_same(tokens, tokenizer):
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    variants = [{}, {"mask_unit": "word"}, {"mask_unit": "span", "mask_rate": 0.5}, {"attend": "document"},
                {"window_start": "document", "mask_random": 0.0, "mask_keep": 0.0}]  # fmt: skip
    made = [MaskedLM(*arrays, 32, FinetuneConfig(**variant), tokenizer) for variant in variants]
    for other in made[1:]:
        for ours, its in zip(made[0].validation_batch[:3], other.validation_batch[:3], strict=True):
            assert torch.equal(ours, its)
        trained = [objective.train_batch(3, 8, range(8)).ids for objective in (made[0], other)]
        assert trained[0].shape != trained[1].shape or not torch.equal(*trained) or other.config.attend == "document"


@pytest.mark.parametrize("unit", ["word", "span"])
def test_the_rows_of_two_ranks_and_of_a_later_start_are_the_global_batch(unit, tokens, tokenizer):
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    config = FinetuneConfig(mask_unit=unit, attend="document", window_start="document")
    whole = MaskedLM(*arrays, 32, config, tokenizer).train_batch(5, 8, range(8))
    again = MaskedLM(*arrays, 32, config, tokenizer)
    for part in (range(4), range(4, 8)):
        for ours, all_rows in zip(again.train_batch(5, 8, part), whole, strict=True):
            assert torch.equal(ours, all_rows[part.start : part.stop])
