"""How well a checkpoint predicts text it has not seen: perplexity and bits per byte.

Tasks of lm-evaluation-harness: `modeling/inference/harness.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from modeling.device import choose
from modeling.inference.generate import Checkpoint, load
from textmill.errors import UserError
from tokenization.arrays import META, TokenArrays


def evaluate(
    checkpoint: Path,
    data: Path,
    split: str = "validation",
    stride: int | None = None,
    limit: int | None = None,
    batch: int = 16,
    device: str = "auto",
    progress: Callable[..., None] = lambda *args, **figures: None,
) -> dict[str, float]:
    """Figures of a causal checkpoint on token arrays (a folder) or on UTF-8 text (a file).

    Windows advance by `stride` tokens (default: the context), and each token is counted once, in the first window that
    holds it: a smaller stride gives it more to go by, and costs more. At most `limit` tokens are read.

    Returns tokens, bytes, loss (nats a token), perplexity, and bits_per_byte.
    Raises UserError if the checkpoint is no causal one, the vocabularies differ, or there is too little text.
    """
    loaded = load(checkpoint, device)
    if not loaded.model.causal:
        raise UserError("this checkpoint fills blanks, perplexity needs one that continues text; give a pretrained one")
    context = loaded.model.config.context
    stride = context if stride is None else stride
    if not 0 < stride <= context:
        raise UserError(f"stride must lie between 1 and the context {context}, not {stride}")
    ids = read(loaded, data, split, limit)
    if len(ids) < 2:
        raise UserError(f"{data} holds {len(ids)} tokens; at least two are needed")
    sizes = torch.from_numpy(loaded.tokenizer.byte_lengths().astype(np.int64))
    compute = choose(device, "auto")
    nats = tokens = size = 0
    starts = list(range(0, len(ids) - 1, stride))
    starts = starts[: next((n + 1 for n, s in enumerate(starts) if s + context >= len(ids) - 1), len(starts))]
    for first in range(0, len(starts), batch):
        windows = [ids[start : start + context + 1] for start in starts[first : first + batch]]
        longest = max(map(len, windows))
        padded = torch.stack([torch.nn.functional.pad(window, (0, longest - len(window))) for window in windows])
        padded = padded.to(compute.device)
        with torch.inference_mode(), compute.autocast():
            losses = loaded.model.likelihoods(padded[:, :-1], padded[:, 1:])[0].cpu()
        for row, window in enumerate(windows):
            seen = context - stride if first + row else 0  # counted in the window before
            nats += losses[row, seen : len(window) - 1].double().sum().item()
            tokens += max(0, len(window) - 1 - seen)
            size += int(sizes[window[1 + seen :]].sum())
        progress(min(first + batch, len(starts)), len(starts), unit="windows", loss=nats / tokens)
    return {
        "tokens": tokens,
        "bytes": size,
        "loss": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size if size else math.nan,
    }


def read(loaded: Checkpoint, data: Path, split: str, limit: int | None) -> torch.Tensor:
    """Ids int64 [N] of token arrays or of a text file, which starts as a document does."""
    if (data / META).is_file():
        arrays = TokenArrays(data, split)
        if arrays.vocab_size != loaded.description.vocab_size:
            raise UserError(
                f"the checkpoint has a vocabulary of {loaded.description.vocab_size}, the tokens {arrays.vocab_size}; "
                "pretokenize with the checkpoint's tokenizer"
            )
        return torch.from_numpy(arrays.window(0, min(limit or len(arrays), len(arrays))).astype(np.int64))
    if not data.is_file():
        raise UserError(f"{data} is neither a folder of token arrays nor a text file")
    try:
        text = data.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is no UTF-8 text ({error.reason} at byte {error.start})") from error
    ids = [loaded.tokenizer.eot_id, *loaded.tokenizer.encode_ordinary(text)]
    return torch.tensor(ids[:limit])
