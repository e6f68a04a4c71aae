"""One model that continues text and fills blanks: its batches, what it learns, and every use of its checkpoint."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from modeling.checkpoint import CheckpointConfig, load_model
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from modeling.inference.embed import embed
from modeling.inference.evaluate import evaluate
from modeling.inference.generate import Sampling, fill, generate, load
from modeling.networks.mixed import MixedModel
from modeling.training.distributed import Ranks
from modeling.training.finetune import finetune
from modeling.training.objectives import MaskedLM, MixedLM
from modeling.training.pretrain import pretrain, recipe
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.arrays import TokenArrays
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

CPU = torch.device("cpu")


def settings(**changes) -> PretrainConfig:
    base = {
        "objective": "mixed", "model": {"layers": 2, "width": 32, "heads": 2, "context": 32},
        "masked_share": 0.3, "batch": 10, "steps": 20, "evaluate_tokens": 512, "sample_tokens": 0,
    }  # fmt: skip
    return PretrainConfig.model_validate(base | changes)


def objective_on(tokens, tokenizer, **changes) -> MixedLM:
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    return MixedLM(*arrays, 32, settings(**changes), tokenizer)


@pytest.fixture(scope="module")
def mixed(tokens, tokenizer_folder, tiny, tmp_path_factory):
    """A checkpoint that has learned both from the small language."""
    out = tmp_path_factory.mktemp("mixed")
    config = tiny(objective="mixed", masked_share=0.5, batch=16, steps=200, evaluate_every=100, checkpoint_every=100)
    pretrain(tokens, tokenizer_folder, config, out, quiet)
    return out


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "batch"), [(0.3, 10), (0.0625, 4), (0.9, 7)])
def test_the_share_of_masked_windows_is_exact_over_the_run_and_even_over_batches(tokens, tokenizer, share, batch):
    objective = objective_on(tokens, tokenizer, masked_share=share)
    counts = [objective.global_parts(step, batch)[1].sum().item() for step in range(80)]
    assert sum(counts) == int(80 * batch * share)
    assert max(counts) - min(counts) <= 1


def test_a_batch_has_every_window_once_continued_or_with_hidden_tokens(tokens, tokenizer):
    objective = objective_on(tokens, tokenizer)
    windows = torch.from_numpy(objective.train.read(30, range(10)))
    batch = objective.train_batch(3, 10, range(10))
    restored = batch.masked_ids.scatter(1, batch.masked_positions + 1, batch.masked_targets)
    assert torch.equal(batch.targets, torch.cat((batch.ids[:, 1:], batch.targets[:, -1:]), dim=1))
    shown = torch.cat((batch.ids, restored))
    assert sorted(map(tuple, shown.tolist())) == sorted(map(tuple, windows[:, :-1].tolist()))
    assert len(restored) == 3
    assert (batch.masked_ids == tokenizer.special_tokens["[MASK]"]).any(dim=1).all()


@pytest.mark.parametrize("pieces", [(5, 10), (1, 2, 3, 10), (3, 6, 9, 10)])
def test_ranks_and_micro_batches_change_nothing(tokens, tokenizer, pieces):
    objective = objective_on(tokens, tokenizer)
    torch.manual_seed(0)
    model = MixedModel(objective.config.model, tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    whole = model(**objective.train_batch(3, 10, range(10))._asdict())
    rows = [range(start, stop) for start, stop in zip((0, *pieces), pieces, strict=False)]
    parts = [len(part) / 10 * model(**objective.train_batch(3, 10, part)._asdict()) for part in rows]
    torch.testing.assert_close(sum(parts), whole)


def test_each_window_weighs_the_same_and_sees_what_its_kind_does(tokens, tokenizer):
    objective = objective_on(tokens, tokenizer)
    torch.manual_seed(0)
    model = MixedModel(objective.config.model, tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = objective.train_batch(0, 10, range(10))
    causal = [model(ids[None], targets[None]) for ids, targets in zip(batch.ids, batch.targets, strict=True)]
    masked = [
        model(ids[None], targets[None], positions[None], whole=True)
        for ids, targets, positions in zip(batch.masked_ids, batch.masked_targets, batch.masked_positions, strict=True)
    ]
    torch.testing.assert_close(model(**batch._asdict()), torch.stack(causal + masked).mean())


def test_its_evaluation_hides_what_that_of_a_masked_model_hides(tokens, tokenizer):
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    ours = objective_on(tokens, tokenizer)
    theirs = MaskedLM(*arrays, 32, FinetuneConfig(evaluate_tokens=512), tokenizer)
    assert torch.equal(ours.validation_batch.ids, theirs.validation_batch.ids)
    torch.manual_seed(0)
    model = MixedModel(ours.config.model, tokenizer.vocab_size).eval()
    metrics = ours.evaluate(model, Ranks(), CPU, 4)
    assert set(metrics) == {"validation_loss", "bits_per_byte", "masked_loss", "masked_accuracy"}
    seen_whole = lambda *args, **named: model(*args, whole=True, **named)  # noqa: E731
    assert metrics["masked_loss"] == theirs.evaluate(seen_whole, Ranks(), CPU, 4)["validation_loss"]


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_one_checkpoint_continues_and_fills(mixed, tokenizer):
    stats = json.loads((mixed / "stats.json").read_text())
    assert stats["validation_loss"] < 0.6 * stats["unigram_entropy"]
    assert stats["masked_accuracy"] > 0.6
    assert CheckpointConfig.read(mixed).objective == "mixed"
    checkpoint = load(mixed, device="cpu")
    written = generate(checkpoint, ["the cat "], Sampling(max_tokens=20, temperature=0))[0]
    assert generate(checkpoint, ["the cat "], Sampling(max_tokens=20, temperature=0), use_state=False)[0] == written
    assert written.split()[0] in {"sees", "hears", "finds"}
    assert fill(checkpoint, "a dog sees the s[MASK]a.").text == "a dog sees the sea."
    # what is behind a blank decides: the vectors of texts too are made of all that they have
    assert fill(checkpoint, "the [MASK]at sees rain.").text == "the cat sees rain."
    assert fill(checkpoint, "the [MASK]ird sees rain.").text == "the bird sees rain."
    alike, other = embed(checkpoint, ["the cat sees rain."]), embed(checkpoint, ["the cat sees rais."])
    assert abs(alike - other).max() > 1e-4


def test_both_metrics_are_measured(mixed, tokens, pretrained):
    metrics = evaluate(mixed, tokens, device="cpu")
    stats = json.loads((mixed / "stats.json").read_text())
    assert metrics["loss"] == pytest.approx(stats["validation_loss"], abs=0.1)
    assert metrics["masked_accuracy"] == pytest.approx(stats["masked_accuracy"], abs=0.1)
    assert "masked_accuracy" not in evaluate(pretrained, tokens, device="cpu")


def test_it_is_fine_tuned_as_a_causal_one_is(mixed, tokens, tmp_path):
    config = FinetuneConfig(steps=10, batch=8, evaluate_every=10, evaluate_tokens=512, sample_blank="the [MASK]at")
    finetune(mixed, tokens, config, tmp_path, quiet)
    model, about = load_model(tmp_path)
    assert about.objective == "masked" and not model.causal
    before = json.loads((mixed / "stats.json").read_text())["masked_accuracy"]
    assert json.loads((tmp_path / "stats.json").read_text())["masked_accuracy"] > before - 0.1


def test_where_a_blank_is_predicted_is_as_in_pretraining_unless_said(
    mixed, pretrained, tokens, tokenizer_folder, tiny, tmp_path
):
    in_place = tmp_path / "in place"
    config = tiny(objective="masked", masking={"shift": False}, steps=2, evaluate_every=2)
    pretrain(tokens, tokenizer_folder, config, in_place, quiet)
    few = {"steps": 2, "batch": 8, "evaluate_every": 2, "evaluate_tokens": 256, "sample_blank": "the [MASK]at"}
    for number, (origin, given, expected) in enumerate(
        [
            (in_place, {}, False),
            (in_place, {"shift": True}, True),
            (pretrained, {}, True),
            (pretrained, {"shift": False}, False),
            (mixed, {}, True),
        ]
    ):
        out = tmp_path / str(number)
        finetune(origin, tokens, FinetuneConfig(**few, **given), out, quiet)
        about = load_model(out)[1]
        assert about.shift == about.run["shift"] == expected


def test_the_last_window_of_the_smallest_share_is_masked(tokens, tokenizer):
    objective = objective_on(tokens, tokenizer, masked_share=1 / 200)  # of 20 steps of 10 windows
    assert [step for step in range(20) if objective.global_parts(step, 10)[1].any()] == [19]


def test_a_masked_model_is_trained_from_scratch(tokens, tokenizer_folder, tiny, tmp_path):
    config = tiny(objective="masked", steps=40, evaluate_every=40)
    pretrain(tokens, tokenizer_folder, config, tmp_path, quiet)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["masked_accuracy"] > 0.1 and "bits_per_byte" not in stats and stats["sample"] == ""
    checkpoint = load(tmp_path, device="cpu")
    assert "[MASK]" not in fill(checkpoint, "the [MASK]at").text
    with pytest.raises(UserError, match="fills blanks, it does not continue text"):
        generate(checkpoint, ["the"])


def test_a_share_of_nothing_is_causal_training_to_the_bit(tokens, tokenizer_folder, tiny, tmp_path):
    changes = {"steps": 10, "evaluate_every": 10}
    pretrain(tokens, tokenizer_folder, tiny(**changes), tmp_path / "causal", quiet)
    share = {"objective": "mixed", "masked_share": 0}
    pretrain(tokens, tokenizer_folder, tiny(**changes | share), tmp_path / "both", quiet)
    causal, both = (load_file(tmp_path / name / "model.safetensors") for name in ("causal", "both"))
    assert causal.keys() == both.keys() and all(torch.equal(both[name], causal[name]) for name in causal)
    stats = json.loads((tmp_path / "both" / "stats.json").read_text())
    assert 0 < stats["most_frequent_accuracy"] < 0.5 and "masked_loss" in stats
    about = load_model(tmp_path / "both")[1]
    assert (about.objective, about.shift, about.fills) == ("causal", False, False)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(interrupted_at, tokens, tokenizer_folder, tiny, tmp_path):
    config = tiny(objective="mixed", masked_share=0.3, steps=12, evaluate_every=6, checkpoint_every=5, ema=0.9)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(tokens, tokenizer_folder, config, whole, quiet)
    interrupted_at(7, tokens, tokenizer_folder, config.model_copy(update={"log_every": 1}), stopped)
    pretrain(tokens, tokenizer_folder, config, stopped, quiet)
    for name in ("model.safetensors", "metrics.jsonl", "config.json", "samples.jsonl", "stats.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name


# -- settings ----------------------------------------------------------------------------------------------------------


def test_what_was_pretrained_before_keeps_its_recipe():
    new = {"objective", "masked_share", "masking"}
    assert not new & recipe(PretrainConfig(), {}).keys()
    assert recipe(PretrainConfig(objective="mixed"), {}).keys() & new == {"objective"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "causal", "masking": {"mask_rate": 0.5}}, "masking hides nothing from objective: causal"),
        ({"objective": "masked", "masked_share": 0.5}, "masked_share is of objective: mixed, not masked"),
        ({"objective": "mixed", "masking": {"shift": False}}, "set masking.shift"),
        ({"objective": "mixed", "masking": {"mask_random": 0.7, "mask_keep": 0.7}}, "exceed 1"),
        (
            {"objective": "masked", "model": {"kind": "recurrent"}},
            "is of model.kind: transformer, not recurrent",
        ),
        ({"objective": "mixed", "masked_share": 1.0}, "less than 1"),
        (
            {"objective": "mixed", "masked_share": 0.009, "steps": 10, "batch": 11, "schedule": {"warmup": 0}},
            "masked_share 0.009 of 110 windows is less than one; raise it, or set masked_share: 0",
        ),
        ({"objective": "mixed", "parallel": "fsdp"}, "shared out weights; set parallel: ddp"),
        ({"objective": "masked", "masking": {"span_length": 3}}, "span_length is of mask_unit: span, not token"),
    ],
)
def test_objectives_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig.model_validate(wrong)


def test_a_tokenizer_without_a_mask_is_refused(tokens, tiny, tmp_path, tokenizer):
    special = {("[BLANK]" if name == "[MASK]" else name): number for name, number in tokenizer.special_tokens.items()}
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    save_tokenizer(Tokenizer(tokenizer.tokens, "gpt2", special), folder)
    with pytest.raises(UserError, match=r"no \[MASK\]; add it to its special_tokens"):
        pretrain(tokens, folder, tiny(objective="mixed"), tmp_path / "out", quiet)
