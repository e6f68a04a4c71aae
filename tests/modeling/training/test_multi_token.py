"""Multi-token prediction: which tokens are predicted ahead, with which weight, and that nothing of it stays."""

import json

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import safe_open

from modeling.config.network import TransformerConfig
from modeling.config.objective import MultiTokenConfig
from modeling.config.pretrain import PretrainConfig
from modeling.networks.transformer import GPT
from modeling.training.multi_token import MultiTokenLM, with_targets_ahead
from modeling.training.objectives import Batch
from modeling.training.pretrain import objective_on, pretrain, recipe
from textmill.progress import quiet
from tokenization.arrays import TokenArrays

EOT = 9
AHEAD = {"weights": [0.5, 0.25], "until": 0.75}


def objective(tokens, tokenizer, config) -> MultiTokenLM:
    return objective_on(TokenArrays(tokens, "train"), TokenArrays(tokens, "validation"), config, tokenizer)


def test_targets_ahead_end_with_the_window_and_with_the_document():
    batch = with_targets_ahead(
        Batch(torch.tensor([[1, 2, 3, 9, 4, 5]]), torch.tensor([[2, 3, 9, 4, 5, 6]])), [0.5, 0.25], EOT
    )
    assert batch.targets[0, :, 0].tolist() == [2, 3, 9, 4, 5, 6]
    after_next, third = batch.weights[0, :, 1], batch.weights[0, :, 2]
    assert after_next.tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0]  # nothing after the end of text, nothing after the window
    assert third.tolist() == [0.25, 0, 0, 0.25, 0, 0]
    assert batch.targets[0, after_next > 0, 1].tolist() == [3, 9, 5, 6]
    assert batch.targets[0, third > 0, 2].tolist() == [9, 6]


def test_a_window_shorter_than_the_distance_has_no_such_targets():
    batch = with_targets_ahead(Batch(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])), [1.0, 1.0, 1.0], EOT)
    assert batch.weights[0].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("changes", [{}, {"softcap": 5.0}, {"tied": True}], ids=["plain", "capped", "tied"])
def test_loss_and_gradients_are_those_of_each_distance_by_itself(changes):
    torch.manual_seed(0)
    model = GPT(TransformerConfig(layers=2, width=32, heads=2, context=16, **changes), 12)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    windows = torch.randint(12, (3, 17))  # few tokens: a position often has the same one twice
    batch = with_targets_ahead(Batch(windows[:, :-1], windows[:, 1:]), [0.5, 0.25], EOT)

    logits, expected = model(batch.ids), torch.zeros(())
    for row in range(3):
        for place in range(16):
            ended = False
            for distance, weight in enumerate([1.0, 0.5, 0.25], start=1):
                if ended or place + distance > 16:
                    break
                target = windows[row, place + distance]
                expected = expected + weight * F.cross_entropy(logits[row, place], target) / 48
                ended = bool(target == EOT)
    naive = torch.autograd.grad(expected, list(model.parameters()))
    loss = model(**batch._asdict())
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), naive, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_the_weights_fall_to_nothing_and_then_batches_are_those_of_next_tokens(tokens, tokenizer, tiny):
    assert MultiTokenConfig(**AHEAD).at(0, 40) == [0.5, 0.25]
    assert MultiTokenConfig(**AHEAD).at(15, 40) == [0.25, 0.125]
    assert MultiTokenConfig(**AHEAD).at(30, 40) == []
    ours = objective(tokens, tokenizer, tiny(multi_token=AHEAD))
    plain = objective(tokens, tokenizer, tiny())
    assert not isinstance(plain, MultiTokenLM)
    for step in (0, 29, 30, 39):
        batch, other = ours.train_batch(step, 8, range(2, 5)), plain.train_batch(step, 8, range(2, 5))
        assert isinstance(batch, Batch) == (step >= 30)
        assert torch.equal(batch.ids, other.ids)
        targets = batch.targets if isinstance(batch, Batch) else batch.targets[..., 0]
        assert torch.equal(targets, other.targets)


def test_without_it_nothing_is_said_of_it(tiny):
    assert {"multi_token", "train_share"} & recipe(tiny(), {}).keys() == set()
    assert "embedding_decay" not in recipe(tiny(), {})["optimizer"]
    assert recipe(tiny(multi_token=AHEAD), {})["multi_token"] == AHEAD


def test_a_killed_run_comes_to_the_same_bytes_and_its_model_has_no_more_than_another(
    interrupted_at, tokens, tokenizer_folder, tiny, tmp_path, pretrained
):
    config = tiny(multi_token=AHEAD, attend="document", log_every=1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pretrain(tokens, tokenizer_folder, config, whole, quiet)
    interrupted_at(25, tokens, tokenizer_folder, config, killed)  # between checkpoints, while the weights fall
    pretrain(tokens, tokenizer_folder, config, killed, quiet)
    for name in ("model.safetensors", "metrics.jsonl", "config.json", "stats.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    with (
        safe_open(whole / "model.safetensors", "pt") as ours,
        safe_open(pretrained / "model.safetensors", "pt") as plain,
    ):
        assert set(ours.keys()) == set(plain.keys())
    stats = json.loads((whole / "stats.json").read_text())
    assert stats["validation_loss"] < stats["unigram_entropy"]


def test_micro_batches_change_nothing(tokens, tokenizer, tiny):
    ours = objective(tokens, tokenizer, tiny(multi_token=AHEAD))
    torch.manual_seed(0)
    model = GPT(ours.config.model, tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    whole = model(**ours.train_batch(3, 8, range(8))._asdict())
    parts = [len(rows) / 8 * model(**ours.train_batch(3, 8, rows)._asdict()) for rows in (range(3), range(3, 8))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": "mixed"}, "multi_token is of objective: causal"),
        ({"model": {"kind": "recurrent"}}, "model.kind: transformer; leave it out"),
        ({"model": {"kind": "encoder-decoder"}}, "model.kind: transformer; leave it out"),
        ({"multi_token": {"weights": []}}, "at least 1 item"),
        ({"multi_token": {"weights": [0.5], "until": 0}}, "greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        PretrainConfig.model_validate({"multi_token": {"weights": [0.5]}} | changes)
