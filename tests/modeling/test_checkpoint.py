"""Checkpoint folders: who may read them, and what older versions wrote."""

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.checkpoint import CONFIG, HIDDEN_PADDING, NEXT_SENTENCE, WEIGHTS, load_model, write_tensors
from modeling.config.finetune import FinetuneConfig
from modeling.inference.evaluate import evaluate
from modeling.inference.export import export
from modeling.inference.generate import Sampling, generate, load
from modeling.inference.next_sentence import next_sentence_probs
from modeling.training.finetune import finetune
from textmill.errors import UserError
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer


@pytest.fixture
def umask():
    """Sets the umask, as 0o027, until the test is over."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def permissions(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "left"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_tensors_may_be_read_by_those_whom_the_umask_lets(mask, left, umask, tmp_path):
    umask(mask)
    write_tensors(tmp_path / "new", {"a": torch.zeros(3)})
    assert permissions(tmp_path / "new") == left


def test_all_files_of_a_result_have_the_same_permissions(pretrained, finetuned):
    for folder in (pretrained, finetuned):
        assert len({permissions(path) for path in folder.rglob("*") if path.is_file()}) == 1


def test_a_checkpoint_whose_run_has_the_names_of_an_older_version_can_be_used(pretrained, tmp_path):
    old = shutil.copytree(pretrained, tmp_path / "old")
    fields = json.loads((old / CONFIG).read_text())
    del fields["run"]["progressive"]
    fields["run"] |= {"grow_at": 0.8, "grow_from": 1}
    (old / CONFIG).write_text(json.dumps(fields))
    assert load_model(old)[1].run["grow_at"] == 0.8
    greedy = Sampling(max_tokens=8, temperature=0)
    assert generate(load(old, "cpu"), ["the cat "], greedy) == generate(load(pretrained, "cpu"), ["the cat "], greedy)
    assert (old / WEIGHTS).read_bytes() == (pretrained / WEIGHTS).read_bytes()


def test_a_model_and_a_tokenizer_of_different_vocabularies_are_not_used_together(
    pretrained, finetuned, tokens, tokenizer, tmp_path
):
    more = Tokenizer(tokenizer.tokens, "gpt2", tokenizer.special_tokens | {"<|more|>": 300})
    causal, masked = (shutil.copytree(folder, tmp_path / folder.name) for folder in (pretrained, finetuned))
    (masked / NEXT_SENTENCE).write_bytes((masked / WEIGHTS).read_bytes())
    fields = json.loads((masked / CONFIG).read_text())
    fields["run"]["padding"] = HIDDEN_PADDING
    (masked / CONFIG).write_text(json.dumps(fields))
    for folder in (causal, masked):
        save_tokenizer(more, folder)
    uses = (
        lambda: load(causal, "cpu"),
        lambda: evaluate(causal, tokens, device="cpu"),
        lambda: export(causal, tmp_path / "hf"),
        lambda: finetune(causal, tokens, FinetuneConfig(), tmp_path / "out", pytest.fail),
        lambda: next_sentence_probs(masked, [("a dog", "rain")], "cpu"),
    )
    for use in uses:
        with pytest.raises(UserError, match="has a vocabulary of 261 but the tokenizer beside it 301; put the"):
            use()


def test_weights_that_are_not_finite_are_not_used(pretrained, tmp_path):
    spoilt = shutil.copytree(pretrained, tmp_path / "spoilt")
    weights = load_file(spoilt / WEIGHTS)
    weights["embed.weight"][3, 3] = float("inf")
    save_file(weights, spoilt / WEIGHTS)
    with pytest.raises(UserError, match="holds weights that are not finite; train again with lower rates"):
        load_model(spoilt)
