"""Checkpoints of the real transformers, and what we exported, as checkpoints of ours."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.cli.model import import_checkpoint as command
from modeling.checkpoint import CheckpointConfig, load_model, without_tied_head, write_checkpoint
from modeling.config.finetune import FinetuneConfig
from modeling.config.network import TransformerConfig
from modeling.config.pretrain import PretrainConfig
from modeling.inference.export import export
from modeling.inference.generate import Sampling, fill, generate, load
from modeling.inference.importing import import_checkpoint
from modeling.training.finetune import finetune
from modeling.training.pretrain import recipe
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.config import SPECIAL_TOKENS
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 32}


def a_gpt2(folder: Path, vocab_size: int = 257, noise: float = 0.1, **settings: object):
    """A GPT-2 of random weights with a tokenizer of bytes and the end of text, as transformers saves it."""
    torch.manual_seed(0)
    ids = {"vocab_size": vocab_size, "bos_token_id": 256, "eos_token_id": 256}
    config = transformers.GPT2Config(**{**SMALL, **ids, **settings})
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    model.save_pretrained(folder)
    save_tokenizer(Tokenizer({bytes([b]): b for b in range(256)}, "gpt2", {"<|endoftext|>": 256}), folder)
    for name in ("ranks.tiktoken", "tokenizer.yaml"):  # as it would come
        (folder / name).unlink()
    return model


def change(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def logits_of(folder: Path, vocab_size: int) -> torch.Tensor:
    ids = torch.randint(vocab_size, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return load_model(folder)[0](ids)[..., :vocab_size], ids


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": False, "n_inner": 48, "activation_function": "relu"},
        {"vocab_size": 264, "activation_function": "silu", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ],
    ids=["gpt2", "untied", "more rows than tokens"],
)
def test_a_gpt2_has_the_logits_that_it_has_in_transformers(settings, tmp_path, capsys):
    theirs = a_gpt2(tmp_path / "hf", **settings)
    command(tmp_path / "hf", tmp_path / "ours")
    size = theirs.config.vocab_size
    logits, ids = logits_of(tmp_path / "ours", size)
    with torch.inference_mode():
        torch.testing.assert_close(logits, theirs(ids).logits, atol=1e-5, rtol=0)
    told = capsys.readouterr().out
    assert "causal, 2 layers, width 32" in told and "[MASK] 257, [SEP] 258, [CLS] 259, [PAD] 260" in told
    assert ("4 of them with a new row, the mean of the others" in told) == (size == 257)
    model, config = load_model(tmp_path / "ours")
    assert config.vocab_size == max(size, 261)
    if size == 257:
        rows = model.embed.weight
        torch.testing.assert_close(rows[257:], rows[:257].mean(0).expand(4, -1))
    assert load(tmp_path / "ours", "cpu").tokenizer.special_tokens.keys() >= set(SPECIAL_TOKENS)


def test_the_names_of_older_files_and_their_masks_are_read(tmp_path):
    theirs = a_gpt2(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 32, 32) for layer in range(2)}
    half = {name: tensor.to(torch.float16) for name, tensor in old.items()}
    names = sorted(half)
    parts = list(enumerate((names[:9], names[9:])))
    for number, part in parts:
        save_file({name: half[name].contiguous() for name in part}, tmp_path / "hf" / f"part-{number}.safetensors")
    weight_map = {
        name: f"part-{number}.safetensors" for number, part in enumerate((names[:9], names[9:])) for name in part
    }
    (tmp_path / "hf" / "model.safetensors").unlink()
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    import_checkpoint(tmp_path / "hf", tmp_path / "ours")
    logits, ids = logits_of(tmp_path / "ours", 257)
    with torch.inference_mode():
        torch.testing.assert_close(logits, theirs.half().float()(ids).logits, atol=1e-5, rtol=0)


OURS = {
    "modern": ({"kv_heads": 2, "softcap": 15.0, "rope_base": 500.0}, "causal"),
    "tied": ({"tied": True, "hidden": 100}, "causal"),
    "fast": ({"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97}, "causal"),
    "splines": ({"feed_forward": "kan-spline"}, "causal"),
    "masked": ({"activation": "swiglu"}, "masked"),
    "both": ({}, "mixed"),
}


@pytest.mark.parametrize("name", OURS)
def test_what_we_exported_comes_back_as_it_was(name, tokenizer, tmp_path):
    fields, objective = OURS[name]
    torch.manual_seed(0)
    architecture = TransformerConfig(**{"layers": 3, "width": 48, "heads": 4, "context": 16} | fields)
    run = recipe(PretrainConfig(), {})
    config = CheckpointConfig(architecture, tokenizer.vocab_size, objective, objective != "causal", run)
    model = config.build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    weights = without_tied_head(model.state_dict(), model)
    write_checkpoint(tmp_path / "ours", weights, config, {"step": torch.tensor(1)}, "")
    save_tokenizer(tokenizer, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "hf")
    imported = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert not imported.added and not imported.new_rows
    again, about = load_model(tmp_path / "back")
    assert about.model == architecture.model_copy(update={"hidden": about.model.hidden})
    assert (about.objective, about.shift, about.vocab_size) == (config.objective, config.shift, config.vocab_size)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    first, second = (load(tmp_path / folder, "cpu") for folder in ("ours", "back"))
    assert first.tokenizer.special_tokens == second.tokenizer.special_tokens
    if objective != "causal":
        assert fill(first, "a [MASK] c") == fill(second, "a [MASK] c")
    if objective != "masked":
        assert generate(first, ["a"], Sampling(8)) == generate(second, ["a"], Sampling(8))
    export(tmp_path / "back", tmp_path / "hf again")
    assert (tmp_path / "hf again" / "model.safetensors").read_bytes() == (
        tmp_path / "hf" / "model.safetensors"
    ).read_bytes()


def tune(origin: Path, tokens: Path, out: Path) -> list[float]:
    """Fine-tune a checkpoint; the losses."""
    config = FinetuneConfig(
        steps=40, batch=8, evaluate_every=40, evaluate_tokens=1024, sample_blank="the cat s[MASK]es a tree",
        optimizer={"name": "adamw", "lr": 3e-3},
    )  # fmt: skip
    finetune(origin, tokens, config, out, quiet)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_gpt2_is_fine_tuned_with_a_mask_that_it_did_not_have(tokens, tmp_path):
    a_gpt2(tmp_path / "hf", noise=0)
    import_checkpoint(tmp_path / "hf", tmp_path / "ours")
    losses = tune(tmp_path / "ours", tokens, tmp_path / "tuned")
    assert losses[-1] < losses[0] - 1
    assert "[MASK]" not in fill(load(tmp_path / "tuned", "cpu"), "the c[MASK]t").text


def test_what_came_back_is_fine_tuned_as_what_was_exported(pretrained, tokens, tmp_path):
    export(pretrained, tmp_path / "hf")
    import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert tune(pretrained, tokens, tmp_path / "a") == tune(tmp_path / "back", tokens, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llama"}, r"model_type is 'llama': one of gpt2, nanochat, textmill is supported"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu': our models have gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True: our models have False"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06: our models have 1e-05"),
        ({"attn_pdrop": 0.5}, "resid_pdrop is 0.1: our models drop as much"),
        ({"n_head": 5}, "width 32 is not a multiple of heads 5"),
        ({"vocab_size": 200}, "vocab_size is 200, but its tokenizer has ids up to 256"),
        ({"vocab_size": 300}, r"embed\.weight is \(257, 32\) and not \(300, 32\)"),
        ({"n_layer": 3}, r"the weights lack what is called blocks\.2\."),
        ({"n_layer": 1}, r"the weights have blocks\.1\..*, which no setting of config.json tells of"),
        ({"tie_word_embeddings": False}, r"the weights lack what is called head\.weight"),
    ],
)
def test_what_our_models_cannot_be_is_refused_by_its_name(settings, message, tmp_path):
    a_gpt2(tmp_path / "hf")
    change(tmp_path / "hf", **settings)
    with pytest.raises(UserError, match=message) as told:
        import_checkpoint(tmp_path / "hf", tmp_path / "ours")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "ours").exists()


def test_rotary_scaling_another_head_and_pickles_are_refused(tokenizer, tmp_path):
    a_gpt2(tmp_path / "tied", tie_word_embeddings=False)
    change(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(UserError, match="tie_word_embeddings is true, but the weights have another head"):
        import_checkpoint(tmp_path / "tied", tmp_path / "ours")
    (tmp_path / "tied" / "model.safetensors").rename(tmp_path / "tied" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks model\.safetensors \(pickles are not read"):
        import_checkpoint(tmp_path / "tied", tmp_path / "ours")
    (tmp_path / "tied" / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json; give a folder that"):
        import_checkpoint(tmp_path / "tied", tmp_path / "ours")
    config = transformers.NanoChatConfig(
        vocab_size=261, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    )  # fmt: skip
    transformers.NanoChatForCausalLM(config).save_pretrained(tmp_path / "scaled")
    save_tokenizer(tokenizer, tmp_path / "scaled")
    with pytest.raises(UserError, match=r"rope_parameters is .* without scaling"):
        import_checkpoint(tmp_path / "scaled", tmp_path / "ours")
