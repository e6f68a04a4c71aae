"""Fine-tuning on pairs of sentences."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from modeling.checkpoint import CONFIG, NEXT_SENTENCE, WEIGHTS, load_model
from modeling.config.finetune import FinetuneConfig
from modeling.device import training_environment
from modeling.inference.generate import fill, load
from modeling.inference.next_sentence import next_sentence_probs
from modeling.networks.sentence_pairs import SentencePairModel
from modeling.networks.transformer import GPT
from modeling.training.distributed import Ranks
from modeling.training.finetune import finetune
from modeling.training.process import command
from modeling.training.sentence_pairs import SentencePairLM
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.config import SentencePairsConfig
from tokenization.sentence_pairs import SentencePairs, make_pairs
from tokenization.shard_writer import EncodingInputs

CPU = torch.device("cpu")
SUBJECTS = ["the cat", "a dog", "the bird", "my aunt", "her ox", "no one", "I", "the old queen"]


def stories(count: int, seed: int) -> list[str]:
    """Each about one subject: whoever reads two sentences knows whether they belong together, nearly always."""
    choose = random.Random(seed).choice
    verbs, things = ["sees", "hears", "finds"], ["a tree", "the sea", "rain", "an uncommonly small house"]
    return [
        " ".join(f"{subject} {choose(verbs)} {choose(things)}." for _ in range(10))
        for subject in (choose(SUBJECTS) for _ in range(count))
    ]


@pytest.fixture(scope="module")
def paired(tmp_path_factory, tokenizer_folder) -> Path:
    folder = tmp_path_factory.mktemp("paired")
    for name, texts in (("train-00000", stories(150, 1)), ("train-00001", stories(50, 2)),
                        ("validation-00000", stories(40, 3))):  # fmt: skip
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet")
    make_pairs(EncodingInputs(folder, tokenizer_folder), SentencePairsConfig(), folder / "pairs")
    return folder / "pairs"


def settings(**changes) -> FinetuneConfig:
    base = {
        "steps": 4, "batch": 8, "evaluate_every": 4, "evaluate_tokens": 2048, "checkpoint_every": 2,
        "sample_blank": "the cat s[MASK]es rain.",
    }  # fmt: skip
    return FinetuneConfig.model_validate(base | changes)


@pytest.fixture
def objective(paired, tokenizer) -> SentencePairLM:
    config = settings(mask_rate=0.25, mask_random=0.2, mask_keep=0.1, pair_length=64)
    return SentencePairLM(SentencePairs(paired), SentencePairs(paired, "validation"), 128, config, tokenizer)


def test_a_share_of_every_row_is_hidden_and_special_tokens_stay(objective, tokenizer):
    special = torch.tensor(list(tokenizer.special_tokens.values()))
    mask, pad = tokenizer.special_tokens["[MASK]"], tokenizer.special_tokens["[PAD]"]
    hidden = shown_random = total = 0
    for step in range(20):
        ids, targets, positions, is_next, documents = objective.train_batch(step, 16, range(16))
        assert ids.shape == (16, 64) and targets.shape == positions.shape and is_next.shape == (16,)
        assert not torch.isin(targets, special).any()
        for row in range(16):
            own = positions[row].unique() + 1  # shifted: position i - 1 predicts token i
            restored = ids[row].scatter(0, positions[row] + 1, targets[row])
            assert mask not in restored
            assert torch.equal(documents[row], (restored == pad).long())
            assert (restored == pad).tolist() == sorted((restored == pad).tolist())
            assert len(own) == max(1, round(0.25 * (~torch.isin(restored, special)).sum().item()))
            repeats = torch.stack([(positions[row] + 1 == place).sum() for place in own])
            assert repeats.max() - repeats.min() <= 1
            total += len(own)
            hidden += (ids[row, own] == mask).sum().item()
            shown_random += ((ids[row, own] != mask) & (ids[row, own] != restored[own])).sum().item()
    assert (hidden / total, shown_random / total) == pytest.approx((0.7, 0.2), abs=0.03)


def test_the_rows_of_all_ranks_are_the_global_batch_and_an_epoch_shows_every_pair_once(objective):
    whole = objective.train_batch(3, 8, range(8))
    for part in (range(4), range(4, 8)):
        for ours, all_rows in zip(objective.train_batch(3, 8, part), whole, strict=True):
            assert (ours == all_rows[part.start : part.stop]).all()
    shown = []
    objective.train.batch = lambda indices, length, read=objective.train.batch: (
        shown.append(indices) or read(indices, length)
    )
    pairs = len(objective.train)
    for step in range(2):
        objective.train_batch(step, pairs, range(1))
    assert [sorted(epoch) for epoch in shown] == [list(range(pairs))] * 2
    assert (shown[0] != shown[1]).any()


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("batch", [4, 100])
def test_metrics_count_every_validation_pair_and_every_hidden_token_once(objective, tokenizer, world, batch):
    favourite = int(objective.validation_targets.mode().values)

    def always(ids, positions, documents):
        return F.one_hot(torch.full(positions.shape, favourite), tokenizer.vocab_size) * 9.0, torch.ones(len(ids))

    class Summed(Ranks):
        def sum(self, values, device):
            return values

    parts = [objective.evaluate(always, Summed(rank, world), CPU, batch) for rank in range(world)]
    metrics = {name: sum(part[name] for part in parts) for name in parts[0]}
    is_next = objective.validation_batch.is_next.float()
    assert len(is_next) == 2048 // 64
    assert metrics["masked_accuracy"] == pytest.approx(
        (objective.validation_targets == favourite).float().mean().item()
    )
    assert metrics["next_sentence_accuracy"] == pytest.approx(is_next.mean().item())
    nats = F.binary_cross_entropy_with_logits(torch.ones(len(is_next)), is_next)
    assert metrics["next_sentence_loss"] == pytest.approx(nats.item())
    assert metrics["validation_loss"] == pytest.approx(metrics["masked_loss"] + metrics["next_sentence_loss"])


def test_the_loss_is_the_sum_of_both_and_the_mean_over_rows(objective, pretrained):
    base, config = load_model(pretrained)
    model = SentencePairModel(config.model, config.vocab_size).eval()
    model.load_state_dict(model.state_dict() | base.state_dict())
    torch.nn.init.normal_(model.next_sentence.weight)
    objective.length = config.model.context
    batch = objective.train_batch(0, 8, range(8))
    logits, follow = model(batch.ids, positions=batch.positions, documents=batch.documents)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    expected += F.binary_cross_entropy_with_logits(follow, batch.is_next.float())
    assert model(**batch._asdict()).item() == pytest.approx(expected.item(), rel=1e-5)
    halves = [model(**objective.train_batch(0, 8, part)._asdict()) for part in (range(4), range(4, 8))]
    assert sum(halves).item() / 2 == pytest.approx(expected.item(), rel=1e-5)


def test_what_cannot_be_says_so(finetuned, paired, pretrained, tokenizer, tmp_path):
    with pytest.raises(UserError, match="a pair of sentences needs at least 8 tokens but the window holds 4"):
        SentencePairLM(SentencePairs(paired), SentencePairs(paired, "validation"), 4, settings(), tokenizer)
    with pytest.raises(UserError, match=r"was not fine-tuned on pairs of sentences .* `pairs: \{\}`"):
        next_sentence_probs(finetuned, [("One.", "Two.")])
    (paired / "train-00000.pairs").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"train-00000\.pairs is missing"):
        finetune(pretrained, paired, settings(), tmp_path, pytest.fail)
    (tmp_path / "elsewhere").rename(paired / "train-00000.pairs")


def test_a_pair_is_seen_whole_whatever_pretraining_saw(paired, pretrained, tmp_path):
    with pytest.raises(UserError, match=r"a pair of sentences is seen whole; leave finetune\.attend out"):
        finetune(pretrained, paired, settings(attend="document"), tmp_path / "out", pytest.fail)
    origin = shutil.copytree(pretrained, tmp_path / "origin")
    fields = json.loads((origin / CONFIG).read_text())
    fields["run"]["attend"] = "document"
    (origin / CONFIG).write_text(json.dumps(fields))
    finetune(origin, paired, settings(), tmp_path / "out", quiet)
    about = load_model(tmp_path / "out")[1]
    assert not about.attends_documents and about.shift


@pytest.fixture(scope="module")
def tuned(paired, pretrained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    rates = {
        "matrix_lr": 0.02,
        "embedding_lr": 0.3,
        "head_lr": 0.008,
        "scalar_lr": 0.02,
    }  # it has no time for lower ones
    config = settings(
        steps=400, batch=32, evaluate_every=400, checkpoint_every=400, evaluate_tokens=8192, optimizer=rates
    )
    finetune(pretrained, paired, config, out, quiet)
    return out


@pytest.mark.slow
def test_it_learns_to_fill_blanks_and_which_sentences_belong_together(tuned, paired, tokenizer):
    stats = json.loads((tuned / "stats.json").read_text())
    assert stats["masked_accuracy"] > 0.85 > stats["most_frequent_accuracy"] + 0.3
    assert stats["next_sentence_accuracy"] > 0.75  # a stranger has the same subject one time in eight
    held_out = SentencePairs(paired, "validation")
    texts, labels = [], []
    for index in range(0, len(held_out), 3):
        a, b, is_next = held_out.pair(index)
        texts.append((tokenizer.decode(a), tokenizer.decode(b)))
        labels.append(is_next)
    right = (np.array(next_sentence_probs(tuned, texts)) > 0.5) == labels
    assert right.mean() > 0.75


@pytest.mark.slow
def test_the_result_is_a_masked_checkpoint_like_any_other(tuned):
    model, config = load_model(tuned)
    assert type(model) is GPT and not model.causal
    assert config.objective == "masked"
    assert fill(load(tuned, "cpu"), "the bird h[MASK]ars the sea.").text == "the bird hears the sea."


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_with_the_same_weights(paired, pretrained, tmp_path):
    config = settings(steps=40, checkpoint_every=5, evaluate_every=40)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    finetune(pretrained, paired, config, undisturbed, quiet)
    start = command(config, paired, pretrained, killed)
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, env=training_environment())
    while not list(killed.glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (killed / "stats.json").exists()
    finetune(pretrained, paired, config, killed, quiet)
    for file in (WEIGHTS, NEXT_SENTENCE, "stats.json"):
        assert (killed / file).read_bytes() == (undisturbed / file).read_bytes(), file
