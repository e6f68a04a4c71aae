"""A checkpoint of `transformers` as one of ours: its weights and its tokenizer, exactly, or refused by what differs.

    GPT2LMHeadModel          GPT-2 and all that is built like it
    NanoChatForCausalLM      what we export of a modern GPT
    TextmillFor…             what we export with code of ours, which is not run: the weights are ours

What a setting of `config.json` says that no `TransformerConfig` can is refused by the setting's name, and so is every
tensor that has no place. Only safetensors are read, no pickles.

Our models have special tokens that others lack. Those that are missing get the ids that the model's matrices have and
the tokenizer does not, and then new ones; the rows of new ones are the mean of the others (Hewitt 2021), so that a
token like [MASK] begins as an average one. Logits of the ids that were there before stay what they were.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from modeling.checkpoint import CONFIG, WEIGHTS, CheckpointConfig, all_finite, without_tied_head, write_tensors
from modeling.config.network import TransformerConfig
from modeling.config.pretrain import ImportConfig
from modeling.inference.export import GPT2_NAMES, NANOCHAT_NAMES
from modeling.networks.functional import NORM_EPS
from textmill.disk import folder_to_fill
from textmill.errors import UserError, first_line
from textmill.files import atomic_path, atomic_write, sha256
from tokenization.config import END_OF_TEXT, SPECIAL_TOKENS
from tokenization.formats import save_tokenizer
from tokenization.interchange import load_any
from tokenization.rules import UNTOLD
from tokenization.tokenizer import Tokenizer

__all__ = ["Imported", "import_checkpoint", "read_checkpoint"]

INDEX = "model.safetensors.index.json"
CLASSIC: dict[str, Any] = {
    "norm": "layer", "positions": "learned", "qk_norm": False, "bias": True, "zero_init": False,
}  # fmt: skip
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
MASK = "[MASK]"


class Imported(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        config: what its `config.json` is to say.
        weights: those of the model, under our names.
        tokenizer: with our special tokens.
        added: the special tokens that were added, by the ids that they got.
        new_rows: how many rows the embedding got.
    """

    config: CheckpointConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    added: dict[str, int]
    new_rows: int


class _Read(NamedTuple):
    """What one class of `transformers` is for us: objective, shift, and weights under our names."""

    model: TransformerConfig
    weights: dict[str, Tensor]
    objective: Literal["causal", "masked", "mixed"] = "causal"
    shift: bool = False


def import_checkpoint(folder: Path, out: Path) -> Imported:
    """Write a checkpoint of ours to `out`.

    Raises:
        UserError: as `read_checkpoint` does, or `out` holds something, or the disk is full; `out` stays as it was.
    """
    imported = read_checkpoint(folder)
    with folder_to_fill(out):
        write_imported(imported, out)
    return imported


def write_imported(imported: Imported, out: Path) -> None:
    """Write the files of a checkpoint into a folder."""
    with atomic_path(out / WEIGHTS) as unfinished:
        write_tensors(unfinished, imported.weights)
    save_tokenizer(imported.tokenizer, out)
    atomic_write(out / CONFIG, imported.config.to_json())


def read_checkpoint(folder: Path) -> Imported:
    """
    Raises:
        UserError: the folder is no checkpoint of `transformers`, is of a class or has settings that our models do not
            have, or its files are damaged or do not fit together.
    """
    settings = _Settings(folder)
    kinds: dict[str, Callable[[_Settings, dict[str, Tensor]], _Read]] = {
        "gpt2": from_gpt2, "nanochat": from_nanochat, "textmill": from_textmill,
    }  # fmt: skip
    kind = settings.take("model_type")
    if kind not in kinds:
        raise settings.refused("model_type", f"one of {', '.join(kinds)} is supported")
    vocab_size = settings.take("vocab_size")
    read = kinds[kind](settings, _tensors(folder))
    tokenizer, added = _with_special_tokens(_tokenizer(folder, read), vocab_size, folder)
    about = CheckpointConfig(read.model, tokenizer.vocab_size, read.objective, read.shift, {"from": digest_of(folder)})
    weights = {name: tensor.float() for name, tensor in read.weights.items()}
    new_rows = tokenizer.vocab_size - vocab_size
    weights = {name: _widened(name, tensor, new_rows, vocab_size) for name, tensor in weights.items()}
    model = about.build_model()
    expected = {name: tensor.shape for name, tensor in without_tied_head(model.state_dict(), model).items()}
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise UserError(f"{folder}: the weights lack what is called {name} here")
        if name not in expected:
            raise UserError(f"{folder}: the weights have {name}, which no setting of {CONFIG} tells of")
        if weights[name].shape != expected[name]:
            have, want = tuple(weights[name].shape), tuple(expected[name])
            raise UserError(f"{folder}: {name} is {have} and not {want}, as {CONFIG} says")
    if not all_finite(weights.values()):
        raise UserError(f"{folder} holds weights that are not finite")
    return Imported(about, {name: w.contiguous() for name, w in weights.items()}, tokenizer, added, new_rows)


def digest_of(folder: Path) -> str:
    """The beginning of a digest of what is read of a folder: settings, weights and tokenizer."""
    files = ImportConfig(path=str(folder)).files()
    return hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()[:16]


# -- settings ----------------------------------------------------------------------------------------------------------


class _Settings:
    """The settings of a `config.json`; every mistake names the file and the setting."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONFIG
        try:
            self.values = json.loads(self.path.read_text("utf-8"))
            if not isinstance(self.values, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            hint = "give a folder that transformers' save_pretrained wrote"
            raise UserError(f"{folder} has no {CONFIG}; {hint}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read ({first_line(error)})") from None

    def refused(self, name: str, reason: str) -> UserError:
        return UserError(f"{self.path}: {name} is {self.values.get(name)!r}: {reason}")

    def take(self, name: str, default: Any = ...) -> Any:
        """The value of a setting.

        Raises:
            UserError: it is not there, and there is no default.
        """
        value = self.values.get(name, default)
        if value is ...:
            raise UserError(f"{self.path} has no {name}; it is not a model's that transformers wrote")
        return value

    def must_be(self, **expected: Any) -> None:
        """Check settings that are left out, or have the one value that our models can do.

        Raises:
            UserError: one has another.
        """
        for name, value in expected.items():
            if self.values.get(name, value) != value:
                raise self.refused(name, f"our models have {value!r}")

    def model(self, **fields: Any) -> TransformerConfig:
        """
        Raises:
            UserError: the fields do not fit together.
        """
        try:
            return TransformerConfig.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "model"
            raise UserError(f"{self.path}: {name}: {first['msg'].removeprefix('Value error, ')}") from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, which may be in several files.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    try:
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        else:
            names = [WEIGHTS]
        if not all((folder / name).is_file() and Path(name).name == name for name in names):
            pickled = " (pickles are not read: save it with safe_serialization=True)" if [*folder.glob("*.bin")] else ""
            raise UserError(f"{folder} lacks {names[0]}{pickled}")
        return {name: tensor for file in names for name, tensor in safetensors.torch.load_file(folder / file).items()}
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"the weights of {folder} cannot be read ({first_line(error)})") from None


# -- classes of transformers -------------------------------------------------------------------------------------------


def from_gpt2(settings: _Settings, tensors: dict[str, Tensor]) -> _Read:
    """GPT2LMHeadModel (Radford et al. 2019)."""
    settings.must_be(
        scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False,
        layer_norm_epsilon=1e-5,
    )  # fmt: skip
    activation = settings.take("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise settings.refused("activation_function", f"our models have {', '.join(ACTIVATIONS)}")
    dropout = {settings.take(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(dropout) > 1:
        raise settings.refused("resid_pdrop", "our models drop as much of residuals, embedding and attention")
    width = settings.take("n_embd")
    model = settings.model(
        layers=settings.take("n_layer"),
        width=width,
        heads=settings.take("n_head"),
        context=settings.take("n_positions"),
        hidden=settings.take("n_inner", None) or 4 * width,
        activation=ACTIVATIONS[activation],
        tied=settings.take("tie_word_embeddings", True),
        dropout=dropout.pop(),
        **CLASSIC,
    )
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if re.search(r"\.attn\.(masked_)?bias$", name):  # the causal mask, which older versions kept
            continue
        bare = "" if name.startswith(("transformer.", "lm_head.")) else "transformer."
        if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):
            tensor = tensor.T
        if found := re.fullmatch(r"(.*\.attn\.)c_attn\.(weight|bias)", bare + name):
            stem, part = found.groups()
            for letter, own in zip("qkv", tensor.chunk(3), strict=True):
                weights[_ours(stem, GPT2_NAMES).replace(".attn.", ".attention.") + f"{letter}.{part}"] = own
        else:
            weights[_ours(bare + name, GPT2_NAMES)] = tensor
    return _Read(model, _untied(weights, model))


def from_nanochat(settings: _Settings, tensors: dict[str, Tensor]) -> _Read:
    """NanoChatForCausalLM (after karpathy/nanochat)."""
    settings.must_be(hidden_act="relu2", attention_bias=False, attention_dropout=0.0, rms_norm_eps=NORM_EPS)
    rope = settings.take("rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or rope.keys() - {"rope_type", "rope_theta"}:
        raise settings.refused("rope_parameters", "our models have the default rotary positions, without scaling")
    heads, kv_heads = settings.take("num_attention_heads"), settings.take("num_key_value_heads")
    model = settings.model(
        layers=settings.take("num_hidden_layers"), width=settings.take("hidden_size"),
        heads=heads, kv_heads=kv_heads if kv_heads != heads else None,
        context=settings.take("max_position_embeddings"), hidden=settings.take("intermediate_size"),
        rope_base=rope.get("rope_theta", 10_000.0), softcap=settings.take("final_logit_softcapping", None),
        tied=settings.take("tie_word_embeddings", False),
    )  # fmt: skip
    return _Read(model, _untied({_ours(name, NANOCHAT_NAMES): tensor for name, tensor in tensors.items()}, model))


def from_textmill(settings: _Settings, tensors: dict[str, Tensor]) -> _Read:
    """What `export` wrote with code of ours."""
    if "pair_length" in settings.values:
        raise settings.refused(
            "pair_length", "its head for pairs of sentences was not exported; take the checkpoint that it was made of"
        )
    fields = {name: settings.values[name] for name in TransformerConfig.model_fields if name in settings.values}
    feed_forward = fields.pop("feed_forward", {"kind": "mlp"})
    fields["feed_forward"] = {name: value for name, value in feed_forward.items() if name != "features"}
    model = settings.model(**fields)
    weights = {name.removeprefix("gpt."): tensor for name, tensor in tensors.items()}
    fills = "AutoModelForMaskedLM" in settings.take("auto_map")
    objective: Literal["causal", "masked", "mixed"] = "masked"
    if settings.take("causal"):
        objective = "mixed" if fills else "causal"
    return _Read(model, _untied(weights, model), objective, settings.take("shift"))


def _ours(name: str, names: Mapping[str, str]) -> str:
    """Our name of a tensor of another's model."""
    for ours, theirs in names.items():
        if not ours.startswith(".") and name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for ours, theirs in names.items():
        if ours.startswith("."):
            name = name.replace(theirs, ours)
    return name


def _untied(weights: dict[str, Tensor], model: TransformerConfig) -> dict[str, Tensor]:
    """The weights without a head that is the embedding's.

    Raises:
        UserError: the head is to be the embedding's, and is another.
    """
    head = weights.get("head.weight")
    if not model.tied or head is None:
        return weights
    if not torch.equal(head, weights["embed.weight"]):
        raise UserError(f"{CONFIG}: tie_word_embeddings is true, but the weights have another head than embedding")
    return {name: tensor for name, tensor in weights.items() if name != "head.weight"}


# -- tokenizers --------------------------------------------------------------------------------------------------------


def _tokenizer(folder: Path, read: _Read) -> Tokenizer:
    """The tokenizer in a folder; of one of our exports that fills blanks, without what `transformers` needed there."""
    tokenizer = load_any(str(folder))
    if read.objective == "causal":
        return tokenizer
    rules = tokenizer.rules
    normalizers = tuple(step for step in rules.normalizers if step != (f" {MASK}", MASK))
    rules = rules.model_copy(update={"normalizers": normalizers, "late": rules.late - {MASK}})
    return Tokenizer(tokenizer.tokens, tokenizer.pattern.regex, tokenizer.special_tokens, rules, UNTOLD)


def _with_special_tokens(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> tuple[Tokenizer, dict[str, int]]:
    """The tokenizer with our special tokens and an id for every row, and what was added.

    Raises:
        UserError: it has ids that the model has no rows for, or no end of text.
    """
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{folder / CONFIG}: vocab_size is {vocab_size}, but its tokenizer has ids up to {tokenizer.vocab_size - 1}"
        )
    if END_OF_TEXT not in tokenizer.special_tokens:
        raise UserError(f"{folder}: the tokenizer has no {END_OF_TEXT}, with which documents begin and end here")
    missing = [name for name in SPECIAL_TOKENS if name not in tokenizer.special_tokens]
    added = {name: tokenizer.vocab_size + place for place, name in enumerate(missing)}
    unnamed = range(tokenizer.vocab_size + len(added), vocab_size)
    names = (f"<|reserved_{number}|>" for number in itertools.count())
    free = (name for name in names if name not in tokenizer.found_tokens)
    special = tokenizer.special_tokens | added | dict(zip(free, unnamed, strict=False))
    return Tokenizer(tokenizer.tokens, tokenizer.pattern.regex, special, tokenizer.rules, tokenizer.usage), added


def _widened(name: str, tensor: Tensor, new_rows: int, vocab_size: int) -> Tensor:
    """A table of the vocabulary with rows for new ids, each the mean of the others."""
    of_vocabulary = name in ("embed.weight", "head.weight") or name.startswith("value_embeds.")
    if not new_rows or not of_vocabulary or len(tensor) != vocab_size:
        return tensor
    return torch.cat([tensor, tensor.mean(0, keepdim=True).expand(new_rows, -1)])
