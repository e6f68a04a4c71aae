"""Masked fine-tuning from causal weights."""

import json

import pytest

from modeling.checkpoint import load_model
from modeling.config import FinetuneConfig
from modeling.training.finetune import finetune
from textmill.errors import UserError
from textmill.progress import quiet


def test_it_fills_blanks_far_better_than_the_most_frequent_token(finetuned):
    stats = json.loads((finetuned / "stats.json").read_text())
    assert stats["most_frequent_accuracy"] < 0.3  # a space or an e, in this language
    assert stats["masked_accuracy"] > stats["most_frequent_accuracy"] + 0.3


def test_the_checkpoint_says_what_it_is(finetuned, pretrained):
    model, config = load_model(finetuned)
    assert config.objective == "masked"
    assert not model.causal
    assert config.model == load_model(pretrained)[1].model


def test_the_weights_it_starts_from_matter(pretrained, finetuned, tokens, tiny, tmp_path):
    # as many steps from weights that have seen almost nothing
    from modeling.training.pretrain import pretrain

    raw = tmp_path / "raw"
    raw.mkdir()
    pretrain(tokens, pretrained, tiny(steps=1, evaluate_every=1), raw, quiet)
    few = FinetuneConfig(steps=20, batch=8, evaluate_every=20, evaluate_tokens=1024)
    accuracy = {}
    for name, start in {"raw": raw, "trained": pretrained}.items():
        out = tmp_path / f"from-{name}"
        out.mkdir()
        finetune(start, tokens, few, out, quiet)
        accuracy[name] = json.loads((out / "stats.json").read_text())["masked_accuracy"]
    assert accuracy["trained"] > accuracy["raw"] + 0.1


def test_what_is_no_checkpoint_is_an_error_at_once(tokens, tmp_path):
    with pytest.raises(UserError, match=r"is not a checkpoint \(config.json is missing\); give the folder"):
        finetune(tokens, tokens, FinetuneConfig(), tmp_path, pytest.fail)
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(UserError, match="is not a checkpoint this version reads"):
        finetune(tmp_path, tokens, FinetuneConfig(), tmp_path, pytest.fail)
