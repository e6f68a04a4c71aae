"""A checkpoint as `transformers` loads it: `AutoModelForCausalLM.from_pretrained(folder)`.

The modern GPT without its extras is `NanoChatForCausalLM`, the classic one `GPT2LMHeadModel`: those need no code of
ours. Everything else (SwiGLU, KANs, value embeddings, x0 skip, smear, bigrams, masked models and those that do both)
takes one file of code along and is loaded with `trust_remote_code=True`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import modeling
from modeling.checkpoint import WEIGHTS, CheckpointConfig, without_tied_head, write_tensors
from modeling.config.network import TransformerConfig
from modeling.inference.generate import MASK, Checkpoint, load, word_beginnings
from modeling.networks.functional import NORM_EPS
from modeling.networks.transformer import GPT
from textmill.disk import folder_to_fill
from textmill.errors import UserError
from textmill.files import atomic_path, atomic_write
from tokenization.config import END_OF_TEXT
from tokenization.formats import save_tokenizer
from tokenization.hugging_face import check_hugging_face
from tokenization.tokenizer import Tokenizer

__all__ = ["GPT2_NAMES", "NANOCHAT_NAMES", "REMOTE_CODE", "export"]

REMOTE_CODE = "modeling_textmill.py"
EXTRAS = ("value_embeddings", "x0_skip", "smear", "bigrams")  # parts that no class of `transformers` has
OPTIONAL_PARTS = ("qk_norm", *EXTRAS, "tied")
USUAL = {"norm_place": "pre", "residual": True, "attention_scale": "head"}  # nor any other value of these
# How a masked model reads one text and two: as windows of running text, or of sentence pairs with segments, are.
RUNNING_TEXT = f"{END_OF_TEXT}:0 $A:0", f"{END_OF_TEXT}:0 $A:0 {END_OF_TEXT}:0 $B:0"
SENTENCE_PAIRS = "[CLS]:0 $A:0 [SEP]:0 [SEP]:1", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
PAIRS_NOTE = """
The model was tuned on pairs of sentences: the tokenizer lays one text out as `[CLS] A [SEP] [SEP]` and two as
`[CLS] A [SEP] B [SEP]`. Give a text of several sentences in two parts, `tokenizer(A, B)`; nothing here cuts it. Whether
B follows A is not among the outputs.
"""
BOTH_NOTE = """
The same weights fill blanks, a [MASK] in a text: load them by `AutoModelForMaskedLM`, which sees both sides of it.
"""
# Beginnings of the names of weights, here and there, and then parts inside of them
NANOCHAT_NAMES = {
    "embed.": "model.embed_tokens.", "blocks.": "model.layers.", "head.": "lm_head.",
    ".attention.q.": ".self_attn.q_proj.", ".attention.k.": ".self_attn.k_proj.",
    ".attention.v.": ".self_attn.v_proj.", ".attention.out.": ".self_attn.o_proj.",
    ".feed_forward.up.": ".mlp.fc1.", ".feed_forward.down.": ".mlp.fc2.",
}  # fmt: skip
GPT2_NAMES = {
    "embed.": "transformer.wte.", "embed_position.": "transformer.wpe.", "blocks.": "transformer.h.",
    "norm.": "transformer.ln_f.", "head.": "lm_head.",
    ".attention_norm.": ".ln_1.", ".feed_forward_norm.": ".ln_2.", ".attention.out.": ".attn.c_proj.",
    ".feed_forward.up.": ".mlp.c_fc.", ".feed_forward.down.": ".mlp.c_proj.",
}  # fmt: skip
Converted = tuple[dict[str, Any], dict[str, Tensor]]  # config.json and weights of the other side


def export(checkpoint: Path, out: Path) -> str:
    """Write `out` for `from_pretrained`: config, weights, tokenizer, model card, and code if needed.

    Returns:
        The name of the class of `transformers`, or of our code, that loads it.

    Raises:
        UserError: `checkpoint` is not a checkpoint, or one that finds answers, Hugging Face would give other ids than
            its tokenizer, or `out` holds something already, or the disk is full or forbidden; then `out` is left as it
            was.
    """
    loaded = load(checkpoint, device="cpu")
    config, tokenizer = loaded.config, loaded.tokenizer
    if config.objective == "span":
        raise UserError("a checkpoint that finds answers has no form in transformers yet; use it with textmill answer")
    exported = _tokenizer_for(loaded)
    check_hugging_face(exported)
    hf_config, weights = converter(config)(cast("GPT", loaded.model), config)
    hf_config |= {
        "vocab_size": config.vocab_size, "dtype": "float32", "bos_token_id": tokenizer.eot_id,
        "eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.special_tokens["[PAD]"],
    }  # fmt: skip
    stats_file = checkpoint / "stats.json"
    stats = json.loads(stats_file.read_text()) if stats_file.is_file() else {}
    with folder_to_fill(out):
        with atomic_path(out / WEIGHTS) as unfinished:
            write_tensors(unfinished, weights, {"format": "pt"})
        atomic_write(out / "config.json", json.dumps(hf_config, indent=2, sort_keys=True) + "\n")
        save_tokenizer(exported, out)
        if "auto_map" in hf_config:
            atomic_write(out / REMOTE_CODE, remote_code())
        atomic_write(out / "README.md", model_card(loaded, hf_config, stats))
    return hf_config["architectures"][0]


def _tokenizer_for(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer with what `transformers` has to do for this model: it takes texts of at most the window.

    A model that fills blanks gets what `generate.Blanked` makes of a text: its layout, and a blank takes the space
    before it, for tokens carry the space before their word, where there are such tokens. Whoever gives the text cuts it
    in two.
    """
    tokenizer = checkpoint.tokenizer
    rules = tokenizer.rules
    usage = tokenizer.usage.model_copy(update={"max_length": checkpoint.window})
    if checkpoint.config.fills:
        layout = RUNNING_TEXT if checkpoint.pair_length is None else SENTENCE_PAIRS
        usage = usage.model_copy(update={"post_processor": template(*layout, tokenizer.special_tokens)})
        if len(word_beginnings(tokenizer)):
            taken = (*rules.normalizers, (f" {MASK}", MASK))
            rules = rules.model_copy(update={"normalizers": taken, "late": rules.late | {MASK}})
    return Tokenizer(tokenizer.tokens, tokenizer.pattern.regex, tokenizer.special_tokens, rules, usage)


def template(single: str, pair: str, special_tokens: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor of a `tokenizer.json` that puts tokens around one text, $A, and around two, $A and $B.

    Args:
        single: of one text, as `tokenizers` writes templates: pieces, each with its type (segment) after a colon.
        pair: of two.
        special_tokens: name → id.
    """

    def pieces(layout: str) -> list[dict[str, Any]]:
        named = [piece.rsplit(":", 1) for piece in layout.split()]
        return [
            {"Sequence" if name[0] == "$" else "SpecialToken": {"id": name.removeprefix("$"), "type_id": int(kind)}}
            for name, kind in named
        ]

    put = sorted({name for piece in pieces(pair) if (name := piece.get("SpecialToken", {}).get("id"))})
    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": {name: {"id": name, "ids": [special_tokens[name]], "tokens": [name]} for name in put},
    }


def converter(config: CheckpointConfig) -> Callable[[GPT, CheckpointConfig], Converted]:
    """Which class of `transformers` computes the same.

    Raises:
        UserError: none does, and none of our code is made for it.
    """
    model = config.model
    if not isinstance(model, TransformerConfig):
        raise UserError(f"{model.kind} models are not exported: no class of `transformers` computes the same")
    plain = not any(getattr(model, part) for part in EXTRAS) and config.objective == "causal"
    plain &= model.feed_forward.kind == "mlp"
    plain &= all(getattr(model, name) == usual for name, usual in USUAL.items())
    modern = (model.norm, model.positions, model.activation, model.qk_norm, model.bias)
    if plain and modern == ("rms", "rope", "relu2", True, False):
        return to_nanochat
    classic = (model.norm, model.positions, model.qk_norm, model.bias, model.softcap, model.kv_heads or model.heads)
    if plain and classic == ("layer", "learned", False, True, None, model.heads) and model.activation != "swiglu":
        return to_gpt2
    return to_remote_code


def to_nanochat(model: GPT, config: CheckpointConfig) -> Converted:
    """transformers.NanoChatForCausalLM (after karpathy/nanochat)."""
    architecture = model.config
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "hidden_size": architecture.width,
        "intermediate_size": architecture.hidden_units,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads or architecture.heads,
        "max_position_embeddings": architecture.context,
        "hidden_act": "relu2",
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_base},
        "final_logit_softcapping": architecture.softcap,
        "attention_bias": False,
        "tie_word_embeddings": architecture.tied,
    }, renamed(model, NANOCHAT_NAMES)


def to_gpt2(model: GPT, config: CheckpointConfig) -> Converted:
    """transformers.GPT2LMHeadModel: its linear layers are stored transposed, queries, keys and values in one."""
    architecture = model.config
    weights = renamed(model, GPT2_NAMES)
    for layer in range(architecture.layers):
        for part in ("weight", "bias"):
            stem = f"transformer.h.{layer}.attention"
            joined = [weights.pop(f"{stem}.{name}.{part}") for name in ("q", "k", "v")]
            weights[f"transformer.h.{layer}.attn.c_attn.{part}"] = torch.cat(joined)
    for name in [name for name in weights if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name)]:
        weights[name] = weights[name].T.contiguous()
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": architecture.context,
        "n_embd": architecture.width,
        "n_layer": architecture.layers,
        "n_head": architecture.heads,
        "n_inner": architecture.hidden_units,
        "activation_function": "gelu_new" if architecture.activation == "gelu" else architecture.activation,
        "resid_pdrop": architecture.dropout,
        "embd_pdrop": architecture.dropout,
        "attn_pdrop": architecture.dropout,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": architecture.tied,
    }, weights


def to_remote_code(model: GPT, config: CheckpointConfig) -> Converted:
    """`modeling_textmill.py` beside the weights."""
    kinds = {"causal": ["CausalLM"], "masked": ["MaskedLM"], "mixed": ["CausalLM", "MaskedLM"]}[config.objective]
    module = REMOTE_CODE.removesuffix(".py")
    derived = {
        name: getattr(model.config, name) for name in ("head_size", "hidden_units", "bigram_channels", "value_layers")
    }
    dumped = model.config.model_dump() | derived
    dumped["feed_forward"]["features"] = model.config.feed_forward.features
    return dumped | {
        "architectures": [f"TextmillFor{kind}" for kind in kinds],
        "model_type": "textmill",
        "auto_map": {"AutoConfig": f"{module}.TextmillConfig"}
        | {f"AutoModelFor{kind}": f"{module}.TextmillFor{kind}" for kind in kinds},
        "causal": config.continues,
        "shift": config.shift,
        "tie_word_embeddings": config.model.tied,
    }, renamed(model, {"": "gpt."})  # fmt: skip


def renamed(model: GPT, names: dict[str, str]) -> dict[str, Tensor]:
    """The model's weights under the names of another: beginnings first, then the parts inside."""
    starts = [(ours, theirs) for ours, theirs in names.items() if not ours.startswith(".")]
    insides = [(ours, theirs) for ours, theirs in names.items() if ours.startswith(".")]
    weights = {}
    for name, value in without_tied_head(model.state_dict(), model).items():
        ours, theirs = next(pair for pair in starts if name.startswith(pair[0]))
        name = theirs + name.removeprefix(ours)
        for ours, theirs in insides:
            name = name.replace(ours, theirs)
        weights[name] = value.detach().clone()
    return weights


def remote_code() -> str:
    """The sources of the model and its wrapper as one file without imports from this package.

    Each of these imports is on one line of its source.
    """
    folder = Path(modeling.__file__).parent
    networks = [f"networks/{name}.py" for name in ("loss_head", "language_model", "functional", "kan", "transformer")]
    parts = [(folder / name).read_text() for name in (*networks, "inference/remote_code.py")]
    text = "\n\n".join(part.replace("from __future__ import annotations\n", "") for part in parts)
    text = re.sub(r"^if TYPE_CHECKING:\n(    .*\n|\n(?=    ))+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^from modeling\..*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^__all__ = \[[^\]]*\].*\n", "", text, flags=re.MULTILINE)
    return "from __future__ import annotations\n\n" + text


def model_card(checkpoint: Checkpoint, hf_config: dict[str, Any], stats: dict[str, Any]) -> str:
    """README.md of the export: what it is, how it was made, what came out, how to load it."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    model, run = config.model, config.run
    assert isinstance(model, TransformerConfig)  # no other is exported
    remote = "auto_map" in hf_config
    kind = "text-generation" if config.continues else "fill-mask"
    auto = "AutoModelForCausalLM" if config.continues else "AutoModelForMaskedLM"
    option = ", trust_remote_code=True" if remote else ""
    facts = {
        "Architecture": hf_config["architectures"][0],
        "Size": f"{model.layers} layers, width {model.width}, {model.heads} heads",
        "Parts": f"{model.norm} norm, {model.positions} positions, {model.activation}"
        + ("" if model.feed_forward.kind == "mlp" else f", {model.feed_forward.kind}")
        + "".join(f", {part.replace('_', ' ')}" for part in OPTIONAL_PARTS if getattr(model, part))
        + "".join(f", {n} {getattr(model, n)}" for n, usual in USUAL.items() if getattr(model, n) != usual),
        "Context": f"{model.context} tokens",
        "Vocabulary": f"{config.vocab_size:,} (byte-level BPE, {len(tokenizer.special_tokens)} special tokens)",
        "Parameters": f"{stats['parameters']:,}" if "parameters" in stats else None,
        "Training": f"{run['steps']:,} steps of {run['batch']} windows, {run['optimizer']['name']}, "
        f"{run['schedule']['shape']} schedule, seed {run['seed']}"
        if "steps" in run  # not trained here, but imported
        else None,
        "Tokens seen": f"{stats['tokens_seen']:,}" if "tokens_seen" in stats else None,
        "Validation loss": f"{stats['validation_loss']:.4f} nats a token" if "validation_loss" in stats else None,
        "Bits per byte": f"{stats['bits_per_byte']:.4f}" if "bits_per_byte" in stats else None,
        "Masked accuracy": f"{stats['masked_accuracy']:.1%}" if "masked_accuracy" in stats else None,
    }  # fmt: skip
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    note = BOTH_NOTE if config.objective == "mixed" else "" if checkpoint.pair_length is None else PAIRS_NOTE
    code = f"\nThe architecture is in `{REMOTE_CODE}`, which that option runs: read it first.\n" if remote else ""
    return f"""---
library_name: transformers
pipeline_tag: {kind}
tags: [textmill]
---
# A {config.objective} language model trained with Textmill

| | |
|---|---|
{table}

```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("PATH"{option})
model = {auto}.from_pretrained("PATH"{option})
```
{code}{note}
Loss and accuracy are those of held-out text of the training corpus. The model repeats what it was trained on, errors
and biases included; it was not tuned to follow instructions or to be safe.
"""
