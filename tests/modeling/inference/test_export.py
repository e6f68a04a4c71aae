"""Exports, loaded by the real transformers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling.checkpoint import (
    HIDDEN_PADDING,
    NEXT_SENTENCE,
    CheckpointConfig,
    load_model,
    without_tied_head,
    write_checkpoint,
)
from modeling.config.network import TransformerConfig
from modeling.config.pretrain import PretrainConfig
from modeling.inference.export import export
from modeling.inference.generate import Blanked, fill, halves, load, word_beginnings
from modeling.training.pretrain import recipe
from textmill.errors import UserError
from tokenization.formats import load_tokenizer, save_tokenizer
from tokenization.sentence_pairs import lay_out
from tokenization.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

SMALL = {"layers": 3, "width": 48, "heads": 4, "context": 16}
CLASSIC = {"norm": "layer", "positions": "learned", "qk_norm": False, "bias": True, "zero_init": False}
NATIVE = {
    "modern": ({}, "NanoChatForCausalLM"),
    "modern, grouped, tied, capped": ({"kv_heads": 2, "tied": True, "softcap": 15.0}, "NanoChatForCausalLM"),
    "another rotary base": ({"rope_base": 500.0, "hidden": 100}, "NanoChatForCausalLM"),
    "classic": (CLASSIC | {"activation": "relu"}, "GPT2LMHeadModel"),
    "gpt2": (CLASSIC | {"activation": "gelu", "tied": True}, "GPT2LMHeadModel"),
}
REMOTE = {
    "swiglu": {"activation": "swiglu"},
    "fast": {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97},
    "splines": {"feed_forward": "kan-spline"},
    "rationals": {"feed_forward": "kan-rational", "activation": "gelu"},
    "learned positions, tied": {"positions": "learned", "tied": True},
    "post-norm": CLASSIC | {"activation": "relu", "norm_place": "post", "attention_scale": "width"},
    "neither norms nor residuals": {
        "norm_place": "none",
        "residual": False,
        "zero_init": False,
        "activation": "gelu",
    },
}


def a_checkpoint(folder, tokenizer, fields, objective="causal", pair_length=None):
    """A checkpoint of random weights, none of them zero; with a length, one that was tuned on pairs of sentences."""
    torch.manual_seed(0)
    run = recipe(PretrainConfig(), {}) | (
        {"pair_length": pair_length, "padding": HIDDEN_PADDING} if pair_length else {}
    )
    config = CheckpointConfig(
        TransformerConfig(**SMALL | fields), tokenizer.vocab_size, objective, objective != "causal", run
    )
    model = config.build_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    write_checkpoint(folder, without_tied_head(model.state_dict(), model), config, {"step": torch.tensor(1)}, "")
    save_tokenizer(tokenizer, folder)
    if pair_length:
        (folder / NEXT_SENTENCE).touch()
    return model


def ids(tokenizer):
    return torch.randint(tokenizer.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.long
@pytest.mark.parametrize("name", NATIVE)
def test_transformers_loads_it_without_our_code_and_computes_the_same(name, tokenizer, tmp_path):
    fields, architecture = NATIVE[name]
    model = a_checkpoint(tmp_path / "checkpoint", tokenizer, fields)
    assert export(tmp_path / "checkpoint", tmp_path / "hf") == architecture
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert type(theirs).__name__ == architecture
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids(tokenizer)).logits, model(ids(tokenizer)), atol=1e-4, rtol=0)
    assert not (tmp_path / "hf" / "modeling_textmill.py").exists()


PROGRAM = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
sys.modules["modeling"] = None  # it must do without this package
folder, kind = sys.argv[1:]
auto = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
model = auto.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(model(torch.load(folder + "/ids.pt")).logits, folder + "/logits.pt")
if kind == "causal":
    alone = [model.generate(torch.tensor([row]), max_new_tokens=4, do_sample=False)[0, -4:] for row in ([5, 6], [7])]
    together = model.generate(
        torch.tensor([[5, 6], [0, 7]]), attention_mask=torch.tensor([[1, 1], [0, 1]]), max_new_tokens=4, do_sample=False
    )
    assert together[:, -4:].tolist() == torch.stack(alone).tolist()
alone = model(torch.tensor([[5, 6, 7]])).logits
for padded, mask in (([5, 6, 7, 0, 0], [1, 1, 1, 0, 0]), ([0, 0, 5, 6, 7], [0, 0, 1, 1, 1])):
    mask = torch.tensor([mask])
    logits = model(torch.tensor([padded]), attention_mask=mask).logits[mask > 0]
    torch.testing.assert_close(logits, alone[0], atol=1e-4, rtol=0)
"""


@pytest.mark.parametrize(("name", "objective"), [*((n, "causal") for n in REMOTE), ("fast", "masked")])
def test_other_architectures_take_their_code_along(name, objective, tokenizer, tmp_path, monkeypatch):
    model = a_checkpoint(tmp_path / "checkpoint", tokenizer, REMOTE[name], objective)
    out = tmp_path / "hf"
    export(tmp_path / "checkpoint", out)
    torch.save(ids(tokenizer), out / "ids.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", PROGRAM, out, objective], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        expected = model(ids(tokenizer))
    logits = torch.load(out / "logits.pt")
    if objective == "masked":  # there, the logits of a position are for its own token
        logits, expected = logits[:, 1:], expected[:, :-1]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_a_model_that_does_both_is_exported_for_both(tokenizer, tmp_path, monkeypatch):
    model = a_checkpoint(tmp_path / "checkpoint", tokenizer, {}, "mixed")
    out = tmp_path / "hf"
    export(tmp_path / "checkpoint", out)
    assert "`AutoModelForMaskedLM`" in (out / "README.md").read_text()
    torch.save(ids(tokenizer), out / "ids.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for kind in ("causal", "masked"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, out, kind], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        with torch.no_grad():
            expected = model(ids(tokenizer), whole=kind == "masked")
        logits = torch.load(out / "logits.pt")
        if kind == "masked":
            logits, expected = logits[:, 1:], expected[:, :-1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


TRAINER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments
sys.modules["modeling"] = None  # it must do without this package
folder, kind = sys.argv[1:]
auto = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
ids = torch.randint(200, (8, 12), generator=torch.Generator().manual_seed(1))
rows = [{"input_ids": row, "labels": row} for row in ids]
results = []
for batch, passes in ((8, 1), (4, 2), (2, 4)):
    model = auto.from_pretrained(folder, trust_remote_code=True)
    arguments = TrainingArguments(
        output_dir=folder + "/trainer", per_device_train_batch_size=batch, gradient_accumulation_steps=passes,
        max_steps=1, optim="sgd", learning_rate=0.5, max_grad_norm=0, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    results.append((trainer.state.log_history[0]["loss"], {n: p.detach() for n, p in model.named_parameters()}))
before = dict(auto.from_pretrained(folder, trust_remote_code=True).named_parameters())
(loss, whole), *others = results
moved = max((whole[n] - before[n]).abs().max().item() for n in whole)
assert moved > 1e-3, moved
for other_loss, other in others:
    assert abs(loss - other_loss) < 1e-4, (loss, other_loss)
    for name in whole:
        torch.testing.assert_close(other[name], whole[name], atol=1e-3 * moved, rtol=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_trainer_takes_the_same_step_from_accumulated_batches(objective, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    a_checkpoint(tmp_path / "checkpoint", tokenizer, REMOTE["fast"], objective)
    out = tmp_path / "hf"
    export(tmp_path / "checkpoint", out)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", TRAINER, out, objective], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_default_preset_needs_no_code_of_ours_and_the_tokenizer_comes_along(pretrained, tokenizer, tmp_path):
    assert export(pretrained, tmp_path / "hf") == "NanoChatForCausalLM"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "the cat sees rain."
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode_ordinary(text)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    given = theirs("the cat ", return_tensors="pt", add_special_tokens=False)
    written = model.generate(**given, max_new_tokens=5, do_sample=False)
    assert theirs.decode(written[0]).split()[2] in {"sees", "hears", "finds"}


def test_the_model_card_tells_what_it_is(pretrained, tmp_path):
    export(pretrained, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    stats = json.loads((pretrained / "stats.json").read_text())
    assert f"{stats['validation_loss']:.4f} nats" in card
    assert f"{stats['parameters']:,}" in card
    assert "library_name: transformers" in card and "NanoChatForCausalLM" in card
    assert "trust_remote_code" not in card


def test_an_export_overwrites_nothing(pretrained, tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        export(pretrained, tmp_path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        export(tmp_path, tmp_path / "hf")
    assert load_model(pretrained)[1].objective == "causal"


BLANKS = [
    "[MASK] cat sees a dog", "the [MASK] sees a dog", "the cat sees a [MASK]", "the ca[MASK] sees", "[MASK]", " [MASK]",
    "the  [MASK] sees", "the\n[MASK] sees", "the cat [MASK].", "the [MASK] sees [MASK]", "the [MASK] [MASK]",
    "[MASK][MASK] a",
]  # fmt: skip


@pytest.fixture(params=[True, False], ids=["spaced", "not spaced"])
def with_words(request, tokenizer) -> Tokenizer:
    """With tokens that carry a space, and without."""
    first = tokenizer.vocab_size
    words = {b" cat": first, b" dog": first + 1, b" the": first + 2, b" sees": first + 3} if request.param else {}
    return Tokenizer(tokenizer.tokens | words, "gpt2", tokenizer.special_tokens)


@pytest.fixture
def fill_mask(with_words, tmp_path, monkeypatch):
    """The pipeline of an exported masked model, whose checkpoint is beside it."""

    def made(**run):
        a_checkpoint(tmp_path / "checkpoint", with_words, REMOTE["fast"] | {"context": 64}, "masked", **run)
        export(tmp_path / "checkpoint", tmp_path / "hf")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        return transformers.pipeline("fill-mask", model=str(tmp_path / "hf"), trust_remote_code=True, device="cpu")

    return made


def test_the_pipeline_reads_blanks_and_fills_them_as_we_do(fill_mask, with_words, tmp_path):
    pipe = fill_mask()
    assert pipe.tokenizer.model_max_length == 64
    masked = load(tmp_path / "checkpoint", device="cpu")
    again = load_tokenizer(tmp_path / "hf")
    for text in BLANKS:
        read = Blanked(text, masked)
        ids, begin_words = read.ids.tolist(), read.begin_words
        assert pipe.tokenizer(text).input_ids == ids
        assert again.encode(text, allowed_special="all") == ids[1:]
        if len(begin_words) == 1:  # the pipeline fills each of several for itself
            compare_guesses(pipe(text, top_k=with_words.vocab_size), masked, text)


def compare_guesses(guesses, masked, text):
    """Check that the guesses for the only blank are those of `fill`, but for tokens that `fill` never gives."""
    allowed = masked.tokenizer.byte_lengths() > 0
    if Blanked(text, masked).begin_words[0]:
        allowed &= np.isin(np.arange(len(allowed)), word_beginnings(masked.tokenizer))
    possible = [guess for guess in guesses if allowed[guess["token"]]]
    (candidates,) = fill(masked, text, candidates=4).candidates
    total = sum(guess["score"] for guess in possible)
    assert [guess["token_str"] for guess in possible[:4]] == [token for token, _ in candidates]
    assert [guess["score"] / total for guess in possible[:4]] == pytest.approx([p for _, p in candidates], rel=1e-3)


PAIRS = [
    "the cat sees. [MASK] dog sees a cat", "the cat [MASK]. the dog sees", "a dog\n[MASK]", "A tall title\nand [MASK]",
    "One. Two! the [MASK]. Four?", "[MASK]. the dog.",
]  # fmt: skip


def test_the_pipeline_of_a_model_of_pairs_reads_them_as_we_do(fill_mask, with_words, tmp_path):
    pipe = fill_mask(pair_length=40)
    assert pipe.tokenizer.model_max_length == 40
    masked = load(tmp_path / "checkpoint", device="cpu")
    for text in BLANKS + PAIRS:
        before, _, after = halves(text)
        parts = [before, after] if after else [before]
        assert after or text in BLANKS
        read = Blanked(text, masked)
        given = pipe.tokenizer(*parts)
        assert given.input_ids == read.ids.tolist()
        a, b = (np.array(ids, np.int64) for ids, _ in read.parts)
        segments = lay_out([(a, b)], 40, with_words.special_tokens)[1][0]
        assert pipe.tokenizer(*parts, return_token_type_ids=True).token_type_ids == segments.tolist()[: read.length]
        if len(read.blanks) > 1:
            continue
        for padding in ({}, {"padding": "max_length"}):
            options = padding | ({"text_pair": after} if after else {})
            compare_guesses(pipe(before, top_k=with_words.vocab_size, tokenizer_kwargs=options), masked, text)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "`[CLS] A [SEP] B [SEP]`" in card and "`tokenizer(A, B)`" in card


@pytest.mark.parametrize("pair_length", [None, 12])
def test_a_masked_model_gives_padded_texts_what_each_has_alone(pair_length, tokenizer, tmp_path, monkeypatch):
    a_checkpoint(tmp_path / "checkpoint", tokenizer, REMOTE["fast"], "masked", pair_length=pair_length)
    export(tmp_path / "checkpoint", tmp_path / "hf")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    texts = ["the [MASK]", "a"]
    for side in ("right", "left"):
        given = theirs(texts, padding="max_length", max_length=14, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            together = model(**given).logits
            for row, mask, text in zip(together, given.attention_mask, texts, strict=True):
                alone = model(**theirs(text, return_tensors="pt")).logits[0]
                torch.testing.assert_close(row[mask > 0], alone, atol=1e-5, rtol=1e-5)


def test_a_model_of_pairs_that_saw_padding_is_refused(tokenizer, tmp_path):
    a_checkpoint(tmp_path, tokenizer, {}, "masked", pair_length=12)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["run"]["padding"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"was tuned on pairs by a version that let models see padding; run finetune"):
        load(tmp_path)


@pytest.mark.slow
def test_the_pipeline_of_a_trained_model_fills_in_what_we_do(finetuned, tmp_path, monkeypatch):
    export(finetuned, tmp_path / "hf")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipe = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"), trust_remote_code=True, device="cpu")
    masked = load(finetuned, device="cpu")
    for text in ("the b[MASK]rd sees a tree.", "the bird see[MASK] a tree.", "[MASK]he bird sees a tree."):
        best = pipe(text)[0]
        assert best["sequence"] == fill(masked, text).text
        assert best["score"] == pytest.approx(fill(masked, text).candidates[0][0][1], abs=0.02)


def test_the_context_of_a_model_is_in_its_tokenizer(pretrained, tmp_path):
    export(pretrained, tmp_path / "hf")
    context = json.loads((tmp_path / "hf" / "config.json").read_text())["max_position_embeddings"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.model_max_length == context
    assert len(theirs("the cat " * 99, truncation=True).input_ids) == context
