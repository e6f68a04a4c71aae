"""Training an encoder-decoder: what is hidden, what it learns from its source, and exact continuation."""

import json
import subprocess

import numpy as np
import pytest
import torch

from modeling.checkpoint import load_model
from modeling.config.finetune import FinetuneConfig
from modeling.config.objective import SpanCorruptionConfig
from modeling.config.pretrain import PretrainConfig
from modeling.device import training_environment
from modeling.inference.evaluate import evaluate
from modeling.inference.export import export
from modeling.inference.generate import Sampling, fill, generate, load, stream
from modeling.networks.encoder_decoder import EncoderDecoder
from modeling.spans import Spans, random_parts
from modeling.training.distributed import Ranks
from modeling.training.finetune import finetune
from modeling.training.objectives import generator_at
from modeling.training.pretrain import pretrain
from modeling.training.process import command
from modeling.training.seq2seq import PairWriting, hidden_spans, pair_batch, span_corruption
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.arrays import TOKEN_BYTES, TokenArrays, TokenFile, write_meta
from tokenization.config import SPECIAL_TOKENS, TextPairsConfig, sentinel_names
from tokenization.formats import save_tokenizer
from tokenization.text_pairs import TextPairs, make_text_pairs
from tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.training
CPU = torch.device("cpu")
CONTEXT = 34
LINES = ["one red fox runs far away from us", "two big cats sit by the warm fire", "my old dog eats all of the cake"]
WORDS = sorted({word for line in LINES for word in (line.split()[0], *(f" {word}" for word in line.split()[1:]))})


@pytest.fixture(scope="module")
def speller() -> Tokenizer:
    """The 256 bytes, the words of the lines with all that they begin with, special tokens, and sentinels."""
    pieces = {word[:end].encode() for word in WORDS for end in range(2, len(word) + 1)}
    tokens = [bytes([value]) for value in range(256)] + sorted(pieces, key=lambda piece: (len(piece), piece))
    names = [*SPECIAL_TOKENS, *sentinel_names(8)]
    return Tokenizer(
        {token: number for number, token in enumerate(tokens)}, "gpt2",
        {name: len(tokens) + place for place, name in enumerate(names)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def speller_folder(speller, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speller")
    save_tokenizer(speller, folder)
    return folder


@pytest.fixture(scope="module")
def lines(speller, tmp_path_factory):
    """Token arrays of three lines, over and over; the validation split is the same text."""
    out = tmp_path_factory.mktemp("lines")
    listed = {}
    for split, count in {"train": 40, "validation": 8}.items():
        ids = [[*speller.encode_ordinary(line), speller.eot_id] for line in LINES * count]
        np.concatenate(ids).astype(speller.dtype).tofile(out / f"{split}-00000.bin")
        np.cumsum([*map(len, ids)]).astype("<u8").tofile(out / f"{split}-00000.idx")
        size = sum(map(len, ids))
        listed[split] = [TokenFile(f"{split}-00000.bin", size, len(ids), sum(map(len, LINES * count)), "")]
    write_meta(out, listed, vocab_size=speller.vocab_size, eot_id=speller.eot_id)
    np.save(out / TOKEN_BYTES, speller.byte_lengths())
    return out


def settings(**changes) -> PretrainConfig:
    model = {"kind": "encoder-decoder", "layers": 1, "width": 64, "heads": 2, "context": CONTEXT}
    base = {
        "model": model, "batch": 16, "steps": 30, "evaluate_every": 10, "evaluate_tokens": 256,
        "checkpoint_every": 10, "sample_tokens": 8, "sample_prompt": "two big cats sit by",
    }  # fmt: skip
    return PretrainConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def learned(lines, speller_folder, tmp_path_factory):
    """A checkpoint that knows the lines by heart."""
    out = tmp_path_factory.mktemp("learned")
    pretrain(lines, speller_folder, settings(steps=150, batch=32, evaluate_every=50), out, quiet)
    return out


# -- what is hidden ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.9, 30.0), (0.01, 3.0)])
@pytest.mark.parametrize("context", [8, 40, 257])
def test_source_and_target_together_are_the_window(density, mean_span, context):
    config = SpanCorruptionConfig(noise_density=density, mean_span=mean_span)
    window, end, first = config.window(context), 1000, 2000
    noise, count = config.counts(window)
    spans = Spans(config, context, range(first, first + count), end)
    windows = torch.randint(1000, (5, window))
    batch = hidden_spans(spans, windows, generator_at(0, 3))
    assert spans.length == (batch.sources.ids.shape[1], batch.targets.shape[1])
    assert max(spans.length) <= context
    assert config.lengths(window + 1) > spans.length or max(config.lengths(window + 1)) > context
    for row, source, target, ids in zip(windows, batch.sources.ids, batch.targets, batch.ids, strict=True):
        assert source[-1] == target[-1] == ids[0] == end
        assert torch.equal(ids[1:], target[:-1])
        pieces = {}
        for token in target[:-1].tolist():
            if token >= first:
                pieces[token] = []
            else:
                pieces[[*pieces][-1]].append(token)
        assert [*pieces] == list(range(first, first + count)) and all(pieces.values())
        assert sum(map(len, pieces.values())) == noise
        whole = [part for token in source[:-1].tolist() for part in pieces.get(token, [token])]
        assert whole == row.tolist()


def test_all_parts_of_a_sum_are_equally_probable():
    rows = random_parts(6000, 5, 3, torch.Generator().manual_seed(0))
    assert (rows.sum(dim=1) == 5).all() and rows.min() == 1
    found, counts = rows.unique(dim=0, return_counts=True)
    assert len(found) == 6  # the ways to cut 5 into 3
    assert counts.float().div(1000).sub(1).abs().max() < 0.15


def test_the_rows_of_two_ranks_are_the_global_batch_and_another_step_hides_others(lines, speller):
    arrays = TokenArrays(lines, "train"), TokenArrays(lines, "validation")
    objective = span_corruption(*arrays, settings(), speller)
    whole = objective.train_batch(5, 8, range(8))
    again = span_corruption(*arrays, settings(), speller).train_batch(5, 8, range(4, 8))
    assert torch.equal(again.sources.ids, whole.sources.ids[4:]) and torch.equal(again.targets, whole.targets[4:])
    assert not torch.equal(objective.train_batch(6, 8, range(8)).targets, whole.targets)
    assert torch.equal(
        objective.validation.targets, span_corruption(*arrays, settings(seed=9), speller).validation.targets
    )


def test_runs_that_hide_other_shares_are_evaluated_alike(lines, speller):
    arrays = TokenArrays(lines, "train"), TokenArrays(lines, "validation")
    usual = span_corruption(*arrays, settings(), speller)
    other = span_corruption(*arrays, settings(spans={"noise_density": 0.3, "mean_span": 5}), speller)
    assert usual.length != other.length
    assert torch.equal(usual.validation.sources.ids, other.validation.sources.ids)


def test_a_tokenizer_without_sentinels_is_refused_with_what_to_set(tokens, tokenizer_folder, tmp_path):
    with pytest.raises(UserError) as error:
        pretrain(tokens, tokenizer_folder, settings(), tmp_path, quiet)
    assert str(error.value) == (
        "the tokenizer has 0 sentinels but spans of this context need 2, the special tokens <extra_id_0> to "
        "<extra_id_1>; train one with --set train_tokenizer.sentinels=2"
    )


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_it_learns_a_small_text_by_heart(learned, lines):
    stats = json.loads((learned / "stats.json").read_text())
    assert stats["validation_loss"] < 0.15
    assert stats["parameters"] == sum(p.numel() for p in load_model(learned)[0].parameters())
    assert stats["tokens_seen"] == 150 * 32 * sum(settings().window)
    measured = evaluate(learned, lines)
    assert measured["loss"] < 0.15 and measured["tokens"] > 40


def test_without_its_own_source_a_target_is_a_surprise(learned, lines, speller):
    model, _ = load_model(learned)
    objective = span_corruption(TokenArrays(lines, "train"), TokenArrays(lines, "validation"), settings(), speller)
    right = objective.evaluate(model, Ranks(), CPU, batch=8)["validation_loss"]
    sources = objective.validation.sources
    objective.validation = objective.validation._replace(sources=sources._replace(ids=sources.ids.roll(1, dims=0)))
    assert objective.evaluate(model, Ranks(), CPU, batch=8)["validation_loss"] > right + 1


def test_it_fills_blanks_of_several_tokens(learned):
    filled = fill(load(learned, "cpu"), "one red fox [MASK] far away from us", candidates=3)
    assert filled.text == "one red fox runs far away from us"
    [guesses] = filled.candidates
    assert guesses[0][0] == " runs" and guesses[0][1] > 0.5
    assert len(guesses) == 3 and sorted(guesses, key=lambda guess: -guess[1]) == guesses
    assert sum(prob for _, prob in guesses) <= 1 + 1e-6
    both = fill(load(learned, "cpu"), "my old <extra_id_0> eats all of [MASK] cake")
    assert both.text == "my old dog eats all of the cake"
    assert len(both.candidates) == 2


def test_what_it_writes_is_the_same_without_a_state_and_in_any_company(learned):
    checkpoint = load(learned, "cpu")
    prompts = ["two big cats sit", "my old", "one red fox runs far"]
    greedy = Sampling(max_tokens=6, temperature=0)
    together = generate(checkpoint, prompts, greedy)
    assert together == generate(checkpoint, prompts, greedy, use_state=False)
    assert together == [generate(checkpoint, [prompt], greedy)[0] for prompt in prompts]
    assert all(text.startswith(" ") for text in together)
    drawn = Sampling(max_tokens=6, temperature=1.5, seed=3)
    assert generate(checkpoint, prompts, drawn) == generate(checkpoint, prompts, drawn)
    assert generate(checkpoint, ["one red fox"] * 40, drawn) != [generate(checkpoint, ["one red fox"], drawn)[0]] * 40


def test_mistakes_are_told_in_a_line(learned, lines, tmp_path):
    checkpoint = load(learned, "cpu")
    with pytest.raises(UserError, match=r"the text has no blank; write \[MASK\]"):
        fill(checkpoint, "one red fox")
    with pytest.raises(UserError, match="the text has 9 blanks but the tokenizer 8 sentinels"):
        fill(checkpoint, "[MASK] one " * 9)
    with pytest.raises(UserError, match=r"the text has \d+ tokens but the window holds 34"):
        fill(checkpoint, "one red fox runs far away [MASK]" * 6)
    with pytest.raises(UserError, match="encoder-decoder models are not exported"):
        export(learned, tmp_path / "export")
    with pytest.raises(UserError, match="is an encoder-decoder, which fills blanks as it is"):
        finetune(learned, lines, FinetuneConfig(), tmp_path, quiet)


# -- to the bit --------------------------------------------------------------------------------------------------------


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timing.jsonl"}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(interrupted_at, lines, speller_folder, tmp_path):
    config = settings(ema=0.9, keep="best", optimizer={"clip": 1.0}, micro_batch=5)
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out in (whole, part):
        out.mkdir()
    pretrain(lines, speller_folder, config, whole, quiet)
    interrupted_at(13, lines, speller_folder, config.model_copy(update={"log_every": 1}), part)
    assert (part / "checkpoints" / "step-00000010").is_dir() and not (part / "stats.json").exists()
    pretrain(lines, speller_folder, config, part, quiet)
    assert files(part) == files(whole)
    assert load(part, "cpu").config.objective == "denoising"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does(how, lines, speller_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    same = {"precision": "fp32", "steps": 6, "evaluate_every": 3, "sample_tokens": 0, "optimizer": {"clip": 1.0}}
    pretrain(lines, speller_folder, settings(**same), one, quiet)
    config = settings(**same, parallel=how, micro_batch=3, processes=2)
    done = subprocess.run(
        command(config, lines, speller_folder, two), env=training_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curves = [[json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (one, two)]
    ours, theirs = ([row.get("loss", row.get("validation_loss")) for row in curve] for curve in curves)
    assert theirs == pytest.approx(ours, abs=1e-4)


# -- pairs -------------------------------------------------------------------------------------------------------------

GREETINGS = {"one red": "two big", "my old": "one red fox", "two big cats": "my", "my fire": "far away from us"}


@pytest.fixture(scope="module")
def greetings(speller_folder, tmp_path_factory):
    """Sources and targets of other lengths each; the held-out ones are the same."""
    folder = tmp_path_factory.mktemp("greetings")
    for name in ("train.jsonl", "held.jsonl"):
        rows = [{"source": source, "target": target} for source, target in GREETINGS.items()]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TextPairsConfig(paths=str(folder / "train.jsonl"), validation=str(folder / "held.jsonl"))
    make_text_pairs(config, speller_folder, folder / "pairs")
    return folder / "pairs"


@pytest.fixture(scope="module")
def answering(greetings, speller_folder, tmp_path_factory):
    """A checkpoint that learned the pairs from scratch."""
    out = tmp_path_factory.mktemp("answering")
    pretrain(greetings, speller_folder, settings(steps=60, batch=8, evaluate_every=20), out, quiet)
    return out


def test_it_learns_pairs_and_writes_the_targets_of_sources_of_any_length(answering, greetings):
    stats = json.loads((answering / "stats.json").read_text())
    assert stats["validation_loss"] < 0.1 and stats["pairs"] == 4 and stats["cut_pairs"] == 0
    checkpoint = load(answering, "cpu")
    greedy = Sampling(max_tokens=10, temperature=0)
    assert generate(checkpoint, list(GREETINGS), greedy) == list(GREETINGS.values())
    assert generate(checkpoint, list(GREETINGS), greedy, use_state=False) == list(GREETINGS.values())
    assert [*stream(checkpoint, "my old", greedy)] == ["one", " red", " fox"]
    with pytest.raises(UserError, match="was trained on pairs, it does not fill blanks"):
        fill(checkpoint, "one [MASK]")
    with pytest.raises(UserError, match=r"the source has \d+ tokens but the window holds 33; shorten it"):
        generate(checkpoint, ["one red fox runs " * 20], greedy)
    with pytest.raises(UserError, match=r"trained on pairs, and .*stats.json has its loss on held-out pairs, and `"):
        evaluate(answering, greetings, device="cpu")


def test_the_loss_of_a_step_is_the_mean_over_all_targets_however_it_is_cut(greetings, speller):
    pairs = TextPairs(greetings, "train")
    objective = PairWriting(pairs, pairs, settings(), CONTEXT, speller.byte_lengths())
    torch.manual_seed(0)
    model = EncoderDecoder(settings().model, speller.vocab_size).eval()
    whole = objective.train_batch(3, 6, range(6))
    assert whole.sources.lengths is not None and (whole.sources.counts == 0).any()
    losses, _ = model.token_losses(whole.ids, whole.targets, model.read(whole.sources))
    expected = losses[whole.sources.counts > 0].mean().item()
    parts = [objective.train_batch(3, 6, part) for part in (range(2), range(2, 6))]
    assert model(*whole).item() == pytest.approx(expected, rel=1e-5)
    assert sum(model(*part).item() * len(part.ids) / 6 for part in parts) == pytest.approx(expected, rel=1e-5)
    nats = objective.evaluate(model, Ranks(), CPU, batch=3)["validation_loss"]
    alone = []
    for number in range(4):
        single = pair_batch([pairs.pair(number)], CONTEXT)
        alone.append(model.token_losses(single.ids, single.targets, model.read(single.sources))[0].flatten())
    assert nats == pytest.approx(torch.cat(alone).mean().item(), rel=1e-5)


def test_what_is_too_long_is_cut_at_its_end_and_counted(greetings, speller):
    pairs = TextPairs(greetings, "train")
    objective = PairWriting(pairs, pairs, settings(), 3, speller.byte_lengths())
    assert objective.cut == 3
    batch = objective.train_batch(0, 4, range(4))
    assert batch.targets.shape[1] == batch.sources.ids.shape[1] == 3
    assert (batch.targets == speller.eot_id).any(dim=1).all() and (batch.sources.ids == speller.eot_id).any(dim=1).all()


def test_a_model_of_running_text_is_tuned_on_pairs(learned, greetings, tmp_path):
    config = FinetuneConfig(steps=40, batch=8, evaluate_every=20, optimizer={"matrix_lr": 0.02, "embedding_lr": 0.3})
    finetune(learned, greetings, config, tmp_path, quiet)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert {pair["source"]: pair["target"] for pair in stats["written"]} == GREETINGS
    assert [pair["written"] == pair["target"] for pair in stats["written"]].count(True) >= 3
    assert load(tmp_path, "cpu").config.objective == "pairs"
    with pytest.raises(UserError, match="mask_rate is of masked models"):
        finetune(learned, greetings, FinetuneConfig(mask_rate=0.5), tmp_path / "other", quiet)


def test_pairs_are_for_an_encoder_decoder(greetings, speller_folder, tiny, tmp_path):
    with pytest.raises(UserError, match="holds pairs of sources and targets; set model"):
        pretrain(greetings, speller_folder, tiny(), tmp_path, quiet)
