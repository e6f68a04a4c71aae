"""What a model is shown: the order of windows, masks, and the metrics of an evaluation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from modeling.config.finetune import FinetuneConfig
from modeling.masking import Masked, Masking, MaskRates, own_targets
from modeling.networks.transformer import rotary_table
from modeling.training.distributed import Ranks
from modeling.training.objectives import CausalLM, MaskedLM, evaluation_rows
from modeling.training.windows import TrainWindows, validation_windows
from textmill.errors import UserError
from tokenization.arrays import TokenArrays

CPU = torch.device("cpu")


class Counting:
    """Token arrays whose tokens are their own positions."""

    split, vocab_size, eot_id = "train", 1 << 30, -1

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert ((starts >= 0) & (starts + length <= self.length)).all()
        return starts[:, None] + np.arange(length)


@given(st.integers(1, 20), st.integers(0, 1), st.integers(0, 300), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_shows_every_window_once_and_another_epoch_another_order(length, extra, more, seed, epoch):
    windows = TrainWindows(Counting(length + extra + more), length, extra, seed)
    shown = windows.read(epoch * windows.count, range(windows.count))
    starts = np.sort(shown[:, 0])
    assert (np.diff(starts) == length).all()  # a tiling: nothing twice, nothing left out but the edges
    assert starts[0] < length
    assert len(windows.tokens) - (starts[-1] + length + extra) < 2 * length


@given(st.integers(1, 8), st.integers(0, 50), st.integers(1, 24))
def test_the_rows_of_all_ranks_are_the_global_batch(world, step, batch):
    windows = TrainWindows(Counting(500), 7, 1, seed=3)
    whole = windows.read(step * batch, range(batch))
    parts = [windows.read(step * batch, Ranks(rank, world).share(batch)) for rank in range(world)]
    assert (np.concatenate(parts) == whole).all()


def test_inputs_and_targets_are_one_token_apart(tokens):
    arrays = TokenArrays(tokens, "train")
    batch = CausalLM(TrainWindows(arrays, 16, 1, 0), arrays, 16, 64).train_batch(3, 4, range(4))
    assert batch.ids.shape == batch.targets.shape == (4, 16)
    assert (batch.ids[:, 1:] == batch.targets[:, :-1]).all()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_an_evaluation_counts_every_validation_window_once(world, batch):
    windows = validation_windows(Counting(16 * 10 + 1), 16, 1, budget=16 * 7)
    assert len(windows) == 7
    counts = torch.zeros(7, dtype=torch.int64)
    rounds = set()
    for rank in range(world):
        given = list(evaluation_rows(len(windows), Ranks(rank, world), batch))
        rounds.add(len(given))
        for rows, weight in given:
            assert 0 < len(rows) <= batch
            counts[rows] += weight
    assert (counts == 1).all()
    assert len(rounds) == 1  # sharded models need every rank in every round


def test_bits_per_byte_of_a_uniform_guess(tokens, tokenizer):
    arrays = TokenArrays(tokens, "validation")
    objective = CausalLM(TrainWindows(arrays, 32, 1, 0), arrays, 32, 512)

    def uniform(ids, targets, **_):
        return torch.tensor(math.log(tokenizer.vocab_size))

    metrics = objective.evaluate(uniform, Ranks(), CPU, batch=3)
    targets = objective.validation[:, 1:]
    text = tokenizer.decode_bytes([i for i in targets.flatten().tolist() if i != tokenizer.eot_id])
    assert metrics["validation_loss"] == pytest.approx(math.log(tokenizer.vocab_size))
    assert metrics["bits_per_byte"] == pytest.approx(math.log2(tokenizer.vocab_size) * targets.numel() / len(text))


@pytest.mark.parametrize("attend", ["window", "document"])
def test_losses_early_and_late_in_a_window_are_of_the_tokens_that_are_there(attend, tokens):
    arrays = TokenArrays(tokens, "validation")
    objective = CausalLM(TrainWindows(arrays, 32, 1, 0), arrays, 32, 32 * 7, attend)
    told = []

    def cheaper_by_position(ids, targets, positions, documents):
        rows = objective.validation[len(told) // 2 * 3 :][: len(ids)]
        told.append(positions[0].tolist())
        assert torch.equal(ids, rows[:, : ids.shape[1]])
        assert torch.equal(targets, rows.gather(1, positions + 1))
        assert (documents is None) == (attend == "window")
        return (100.0 - positions).mean()

    metrics = objective.evaluate_positions(cheaper_by_position, Ranks(), CPU, batch=3)
    assert told == 3 * [[4, 5, 6, 7], [24, 25, 26, 27, 28, 29, 30, 31]]
    assert metrics == pytest.approx({"early_loss": 94.5, "late_loss": 72.5, "late_minus_early": -22.0})
    short = CausalLM(TrainWindows(arrays, 7, 1, 0), arrays, 7, 64)
    assert short.evaluate_positions(cheaper_by_position, Ranks(), CPU, batch=3) == {}


@pytest.fixture
def masked(tokens, tokenizer) -> MaskedLM:
    config = FinetuneConfig(mask_rate=0.25, mask_random=0.2, mask_keep=0.1)
    return MaskedLM(TokenArrays(tokens, "train"), TokenArrays(tokens, "validation"), 32, config, tokenizer)


def test_masks_hide_the_chosen_share_and_leave_special_tokens_alone(masked, tokenizer):
    mask = tokenizer.special_tokens["[MASK]"]
    hidden = shown_random = kept = 0
    for step in range(60):
        ids, targets, positions, _ = masked.train_batch(step, 8, range(8))
        assert targets.shape == positions.shape == (8, 8)  # a quarter of 32
        places = positions + 1  # shifted: position i - 1 predicts token i
        assert places.min() >= 1 and (places.diff(dim=1) > 0).all()
        assert not torch.isin(targets, masked.masking.special).any()
        shown = ids.gather(1, places)
        hidden += (shown == mask).sum().item()
        kept += (shown == targets).sum().item()
        shown_random += ((shown != mask) & (shown != targets)).sum().item()
        # what is not chosen is as it was
        assert (ids == mask).sum() == (shown == mask).sum()
    total = 60 * 64
    assert (hidden / total, shown_random / total, kept / total) == pytest.approx((0.7, 0.2, 0.1), abs=0.03)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("rate", [0.01, 0.5, 0.99, 1 - 1e-9])
def test_windows_of_mostly_special_tokens_hide_what_they_have(rate, shift, tokenizer, masked, monkeypatch):
    eot, mask = tokenizer.eot_id, tokenizer.special_tokens["[MASK]"]
    ids = torch.full((4, 32), eot)
    ids[0] = torch.arange(32)  # nothing special
    ids[1, 5] = ids[2, 0] = 7
    masking = Masking(tokenizer, shift)
    monkeypatch.setattr(masked, "masking", masking)
    batch, counts = masked.masked(ids, MaskRates(rate), torch.Generator().manual_seed(0))
    places = batch.positions + shift
    assert batch.positions.min() >= 0 and places.max() < 32
    assert counts.tolist() == [min(max(1, round(rate * 32)), 32 - shift), 1, 1, 1]
    for row, own in zip(range(4), counts.tolist(), strict=True):
        assert (batch.ids[row] == mask).sum() == len(places[row].unique()) == own
    assert batch.targets[1].unique().tolist() == [7]
    assert batch.targets[3].unique().tolist() == [eot]


def test_repeated_targets_of_an_evaluation_count_once(masked, tokenizer, monkeypatch):
    ids = torch.full((2, 32), tokenizer.eot_id)
    ids[0] = torch.arange(32)
    ids[1, 5] = 7
    masked.validation_batch, counts = masked.masked(ids, MaskRates(0.5), torch.Generator().manual_seed(0))
    masked.counted = own_targets(masked.validation_batch.targets, counts)
    masked.validation_targets = masked.validation_batch.targets[masked.counted]
    assert len(masked.validation_targets) == 17

    def sevens(batch, positions, documents):
        return F.one_hot(torch.full(positions.shape, 7), tokenizer.vocab_size) * 9.0

    right = (masked.validation_targets == 7).double().mean().item()
    assert masked.evaluate(sevens, Ranks(), CPU, batch=2)["masked_accuracy"] == pytest.approx(right)


def test_an_empty_validation_split_is_an_error_at_once(tokens, tokenizer):
    empty, train = Counting(0), TokenArrays(tokens, "train")
    empty.split = "validation"
    with pytest.raises(UserError, match=r"needs 33 tokens but the validation split has 0; lower model.context"):
        CausalLM(TrainWindows(train, 32, 1, 0), empty, 32, 512)
    with pytest.raises(UserError, match=r"needs 32 tokens but the validation split has 0; lower model.context"):
        MaskedLM(train, empty, 32, FinetuneConfig(), tokenizer)
    with pytest.raises(UserError, match="window holds 1 token"):
        MaskedLM(train, train, 1, FinetuneConfig(), tokenizer)


def test_the_masked_rows_of_two_ranks_are_the_global_batch(masked):
    whole = masked.train_batch(5, 8, range(8))
    for part in (range(4), range(4, 8)):
        for ours, all_rows in zip(masked.train_batch(5, 8, part)[:3], whole[:3], strict=True):
            assert (ours == all_rows[part.start : part.stop]).all()


def test_the_micro_batches_of_a_step_draw_its_masks_once(masked, monkeypatch):
    drawn = []
    monkeypatch.setattr(masked.masking, "hide", lambda ids, *rest: drawn.append(len(ids)) or Masked(ids, ids, ids, ids))
    for step in (100, 101):
        for start in range(0, 8, 2):
            masked.train_batch(step, 8, range(start, start + 2))
    assert drawn == [8, 8]


def test_masked_accuracy_is_counted_on_blanks_hidden_for_good(masked, tokenizer):
    ids, targets, positions, _ = masked.validation_batch
    assert (ids.gather(1, positions + 1) == tokenizer.special_tokens["[MASK]"]).all()
    assert targets.shape[1] == round(0.15 * 32)
    favourite = int(targets.flatten().mode().values)

    def always(batch, positions, documents):
        return F.one_hot(torch.full(positions.shape, favourite), tokenizer.vocab_size) * 9.0

    metrics = masked.evaluate(always, Ranks(), CPU, batch=4)
    assert metrics["masked_accuracy"] == pytest.approx((targets == favourite).float().mean().item())


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_documents_of_a_window_begin_with_the_end_of_text_before_them(objective, tokens, tokenizer):
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    if objective == "causal":
        made = CausalLM(TrainWindows(arrays[0], 900, 1, 0), arrays[1], 900, 1800, "document")
        batches = [made.train_batch(0, 4, range(4)), made.batch_of(made.validation)]
        originals = [batch.ids for batch in batches]
    else:
        config = FinetuneConfig(attend="document", mask_random=1.0, mask_keep=0.0)
        made = MaskedLM(*arrays, 900, config, tokenizer)
        batches = [made.train_batch(0, 4, range(4)), made.validation_batch]
        originals = [batch.ids.scatter(1, batch.positions + 1, batch.targets) for batch in batches]
    for batch, original in zip(batches, originals, strict=True):
        begins = original == tokenizer.eot_id
        assert begins.any()
        assert torch.equal(batch.documents, begins.cumsum(1))
        places = torch.arange(900).expand(original.shape) if batch.positions is None else batch.positions
        targets = original if batch.positions is None else batch.targets
        predicting = batch.documents.gather(1, places)
        if objective == "masked":  # what is hidden is predicted from its own document
            assert torch.equal(predicting, batch.documents.gather(1, places + 1))
        assert targets.shape == predicting.shape


def test_the_first_token_after_an_end_of_text_is_predicted_as_that_of_a_prompt_is(pretrained, tokens, tokenizer):
    from modeling.checkpoint import load_model

    model, _ = load_model(pretrained)
    arrays = TokenArrays(tokens, "validation")
    made = CausalLM(TrainWindows(arrays, 900, 1, 0), arrays, 900, 900, "document")
    (place,) = (made.validation[0, :-1] == tokenizer.eot_id).nonzero()[:1].flatten().tolist() or (0,)
    model.rotary_cos, model.rotary_sin = rotary_table(model.config.model_copy(update={"context": 900}))
    batch = made.batch_of(made.validation)
    with torch.no_grad():
        packed = model(batch.ids, documents=batch.documents)[0, place : place + 20]
        alone = model(batch.ids[:, place : place + 20])[0]
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)
