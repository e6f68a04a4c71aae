"""Whether a sentence follows another, by a checkpoint that was fine-tuned on pairs of sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from modeling.checkpoint import NEXT_SENTENCE, load_model, load_tokenizer_of, pair_length_of
from modeling.config.network import TransformerConfig
from modeling.device import choose
from modeling.networks.sentence_pairs import SentencePairModel
from textmill.errors import UserError
from tokenization.sentence_pairs import lay_out

__all__ = ["next_sentence_probs"]


@torch.inference_mode()
def next_sentence_probs(checkpoint: Path, pairs: list[tuple[str, str]], device: str = "auto") -> list[float]:
    """For each pair of sentences the probability that the second follows the first.

    Raises:
        UserError: the folder is not a checkpoint, it was not fine-tuned on pairs or by an older version, its tokenizer
            has another vocabulary, or the device is not there.
    """
    base, config = load_model(checkpoint)
    length = pair_length_of(checkpoint, config)
    if length is None:
        raise UserError(
            f"{checkpoint} was not fine-tuned on pairs of sentences ({NEXT_SENTENCE} is missing); "
            "give the configuration a section `pairs: {}` and run finetune"
        )
    tokenizer = load_tokenizer_of(checkpoint, config)
    assert isinstance(config.model, TransformerConfig)  # no other is fine-tuned
    model = SentencePairModel(config.model, config.vocab_size).eval()
    model.load_state_dict(base.state_dict() | safetensors.torch.load_file(checkpoint / NEXT_SENTENCE))

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer.encode_ordinary(text), np.int64)

    encoded = [(encode(first), encode(second)) for first, second in pairs]
    ids, _, attention = lay_out(encoded, length, tokenizer.special_tokens)
    place = choose(device, "fp32").device
    hidden = model.to(place).hidden(
        torch.from_numpy(ids).to(place), documents=torch.from_numpy(~attention).long().to(place)
    )
    return model.next_sentence_logits(hidden).sigmoid().tolist()
