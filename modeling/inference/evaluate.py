"""How well a checkpoint predicts text it has not seen: perplexity and bits per byte, and hidden tokens if it can.

Tasks of lm-evaluation-harness: `modeling/inference/harness.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modeling.config.objective import EVALUATED_SPANS, MaskingConfig
from modeling.device import Compute, choose
from modeling.inference.generate import Checkpoint, load
from modeling.masking import Masking, MaskRates, own_targets
from modeling.networks.encoder_decoder import EncoderDecoder, Sources
from modeling.networks.functional import documents_in
from modeling.networks.language_model import LanguageModel
from modeling.spans import Spans, begun
from textmill.errors import UserError
from textmill.progress import Progress, quiet
from tokenization.arrays import META, TokenArrays

__all__ = ["Windows", "evaluate", "evaluate_texts"]

PIECE = 4096  # tokens that a recurrent model reads at once


@dataclass(frozen=True)
class Windows:
    """Which text is read, and in which pieces.

    Attributes:
        split: of the token arrays.
        stride: tokens from one window to the next, None for the context. A smaller stride gives each token more to go
            by, and costs more. A recurrent model has none: it carries its state through the whole text.
        limit: most tokens that are read.
        batch: windows at once; a recurrent model reads its one text in order.
    """

    split: str = "validation"
    stride: int | None = None
    limit: int | None = None
    batch: int = 16


def evaluate(
    checkpoint: Path, data: Path, windows: Windows = Windows(), device: str = "auto", progress: Progress = quiet
) -> dict[str, float]:
    """Metrics of a causal checkpoint; each token is counted once, in the first window that holds it. A recurrent model
    reads the whole text in order from one state.

    Args:
        checkpoint: folder of a causal model.
        data: a folder of token arrays, or a UTF-8 text file.
        windows: what is read of it, and how.
        device: where to compute.
        progress: is told tokens and loss.

    Returns:
        tokens, bytes, loss (nats a token), perplexity, and bits_per_byte: of an encoder-decoder of the hidden spans; of
        a model that also fills blanks masked_loss and masked_accuracy too.

    Raises:
        UserError: the checkpoint is not a causal one, the vocabularies differ, or there is too little text.
    """
    loaded = load(checkpoint, device)
    if isinstance(loaded.model, EncoderDecoder):
        return evaluate_spans(loaded, loaded.model, data, windows, device)
    if not loaded.model.causal:
        raise UserError("this checkpoint fills blanks, perplexity needs one that continues text; give a pretrained one")
    stride = checked_stride(loaded.model, windows.stride)
    ids = read(loaded, data, windows.split, windows.limit)
    if len(ids) < 2:
        raise UserError(f"{data} holds {len(ids)} tokens; at least two are needed")
    compute = choose(device, "auto")
    metrics = perplexity_metrics(*predicted(loaded, ids, replace(windows, stride=stride), compute, progress))
    masked = masked_metrics(loaded, ids, windows.batch, compute) if loaded.config.fills else {}
    return metrics | masked


def evaluate_texts(
    checkpoint: Path, texts: Mapping[str, Sequence[str]], device: str = "auto", progress: Progress = quiet
) -> dict[str, Any]:
    """Metrics of a causal checkpoint on documents, each of which begins and ends with the end-of-text token.

    Args:
        checkpoint: folder of a causal model.
        texts: documents by their source.
        device: where to compute.
        progress: is told tokens and loss, source by source.

    Returns:
        tokens, bytes, loss, perplexity and bits_per_byte of all together, and under `sources` of each.

    Raises:
        UserError: the checkpoint does not continue text.
    """
    loaded = load(checkpoint, device)
    if isinstance(loaded.model, EncoderDecoder) or not loaded.model.causal:
        raise UserError("bits per byte of held-out text need a model that continues text; give one that does")
    compute = choose(device, "auto")
    windows = Windows(stride=checked_stride(loaded.model, None))
    found: dict[str, tuple[float, int, int]] = {}
    for source, documents in sorted(texts.items()):
        ids = [loaded.tokenizer.eot_id]
        for text in documents:
            ids += [*loaded.tokenizer.encode_ordinary(text), loaded.tokenizer.eot_id]
        found[source] = predicted(loaded, torch.tensor(ids), windows, compute, progress)
    nats, tokens, size = (sum(part) for part in zip(*found.values(), strict=True))
    sources = {source: perplexity_metrics(*each) for source, each in found.items()}
    return perplexity_metrics(nats, int(tokens), int(size)) | {"sources": sources}


def predicted(
    loaded: Checkpoint, ids: Tensor, windows: Windows, compute: Compute, progress: Progress
) -> tuple[float, int, int]:
    """The sum of the losses in nats of all tokens of a text, int64 [N], but the first; how many they are, and for how
    many bytes they stand."""
    sizes = torch.from_numpy(loaded.tokenizer.byte_lengths().astype(np.int64))
    nats, tokens, size = 0.0, 0, 0
    if loaded.model.memory_length is None:
        losses = carried_losses(loaded, ids, compute)
    else:
        losses = window_losses(loaded, ids, windows.stride or loaded.model.config.context, windows.batch, compute)
    for nll, targets in losses:
        nats += nll.double().sum().item()
        tokens += len(targets)
        size += int(sizes[targets].sum())
        progress(tokens, len(ids) - 1, unit="tokens", loss=nats / tokens)
    return nats, tokens, size


def evaluate_spans(
    loaded: Checkpoint, model: EncoderDecoder, data: Path, windows: Windows, device: str
) -> dict[str, float]:
    """`evaluate` of an encoder-decoder that writes hidden spans: how well it predicts those, always the same ones."""
    if loaded.config.objective != "denoising":
        raise UserError(
            "this checkpoint was trained on pairs, and perplexity needs one that was trained on running text; the "
            "checkpoint's stats.json has its loss on held-out pairs, and `textmill generate` writes targets of sources"
        )
    if windows.stride is not None:
        raise UserError("of an encoder-decoder all tokens of hidden spans are predicted at once; leave stride out")
    spans = Spans(EVALUATED_SPANS, model.config.context, loaded.tokenizer.sentinels, loaded.tokenizer.eot_id)
    ids = read(loaded, data, windows.split, windows.limit)
    if len(ids) < spans.window:
        raise UserError(f"{data} holds {len(ids)} tokens; a window has {spans.window}")
    texts = ids[: len(ids) // spans.window * spans.window].view(-1, spans.window)
    sources, targets = spans.corrupt(texts, torch.Generator().manual_seed(0))
    compute, nats = choose(device, "auto"), 0.0
    for first in range(0, len(texts), windows.batch):
        source, target = (part[first : first + windows.batch].to(compute.device) for part in (sources, targets))
        with torch.inference_mode(), compute.autocast():
            loss = model(begun(target, spans.end), target, sources=Sources(source))
        nats += loss.double().item() * target.numel()
    tokens = targets.numel()
    sizes = torch.from_numpy(loaded.tokenizer.byte_lengths().astype(np.int64))
    size = int(sizes[targets].sum())
    return perplexity_metrics(nats, tokens, size)


def perplexity_metrics(nats: float, tokens: int, size: int) -> dict[str, float]:
    """How well `tokens` that stand for `size` bytes were predicted, by the sum of their losses."""
    return {
        "tokens": tokens,
        "bytes": size,
        "loss": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size if size else math.nan,
    }


def checked_stride(model: LanguageModel, stride: int | None) -> int:
    """Tokens from one window to the next.

    Raises:
        UserError: the stride does not suit the model.
    """
    context = model.config.context
    if stride is None:
        return context
    if model.memory_length is None:
        raise UserError("a recurrent model reads on from window to window; leave the stride out")
    if not 0 < stride <= context:
        raise UserError(f"stride must lie between 1 and the context {context}, not {stride}")
    return stride


@torch.inference_mode()
def carried_losses(loaded: Checkpoint, ids: Tensor, compute: Compute) -> Iterator[tuple[Tensor, Tensor]]:
    """What each token of the text but the first costs a recurrent model, which carries its state through all of it.

    Args:
        loaded: the checkpoint.
        ids: int64 [N].
        compute: where, and in which precision.

    Yields:
        Negative log-likelihoods in nats, fp32 [K], and the tokens, int64 [K], both on the CPU: together N - 1.
    """
    state = loaded.model.initial_state(1)
    for inputs, targets in zip(ids[:-1].split(PIECE), ids[1:].split(PIECE), strict=True):
        with compute.autocast():
            shown, wanted = (part[None].to(compute.device) for part in (inputs, targets))
            nll = loaded.model.token_losses(shown, wanted, state=state)[0]
        yield nll[0].cpu(), targets


@torch.inference_mode()
def window_losses(
    loaded: Checkpoint, ids: Tensor, stride: int, batch: int, compute: Compute
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of a model that reads `batch` windows of its context at once, each so many tokens after the one before;
    a token is counted in the first window that holds it."""
    context = loaded.model.config.context
    starts = list(range(0, len(ids) - 1, stride))
    starts = starts[: next((n + 1 for n, s in enumerate(starts) if s + context >= len(ids) - 1), len(starts))]
    for first in range(0, len(starts), batch):
        texts = [ids[start : start + context + 1] for start in starts[first : first + batch]]
        padded = pad_sequence(texts, batch_first=True).to(compute.device)
        inputs = padded[:, :-1]
        with compute.autocast():
            documents = documents_in(inputs, loaded.tokenizer.eot_id) if loaded.config.attends_documents else None
            nll = loaded.model.token_losses(inputs, padded[:, 1:], documents=documents)[0].cpu()
        seen = [context - stride if first + row else 0 for row in range(len(texts))]  # counted in the window before
        yield (
            torch.cat([losses[known : len(text) - 1] for losses, text, known in zip(nll, texts, seen, strict=True)]),
            torch.cat([text[1 + known :] for text, known in zip(texts, seen, strict=True)]),
        )


@torch.inference_mode()
def masked_metrics(loaded: Checkpoint, ids: Tensor, batch: int, compute: Compute) -> dict[str, float]:
    """How well a model that does both predicts hidden tokens, of each text always the same ones.

    Args:
        loaded: the checkpoint.
        ids: int64 [N], read in windows of the context one after the other; a shorter rest is left out.
        batch: windows at once.
        compute: where, and in which precision.

    Returns:
        masked_loss (nats a hidden token) and masked_accuracy.
    """
    length = min(loaded.model.config.context, len(ids))
    texts = ids[: len(ids) // length * length].view(-1, length)
    rate = MaskingConfig.model_validate(loaded.config.run.get("masking", {})).evaluate_mask_rate
    masking = Masking(loaded.tokenizer, loaded.config.shift)
    counts = masking.ordinary(texts).sum(dim=1).clamp(min=1, max=max(1, round(rate * length)))
    masked = masking.hide(texts, counts, MaskRates(rate), torch.Generator().manual_seed(0))
    own = own_targets(masked.targets, masked.counts)
    nats, right = 0.0, 0
    for shown, targets, positions, counted in zip(
        *(part.to(compute.device).split(batch) for part in (masked.ids, masked.targets, masked.positions, own)),
        strict=True,
    ):
        documents = documents_in(shown, loaded.tokenizer.eot_id) if loaded.config.attends_documents else None
        with compute.autocast():
            logits = loaded.model(shown, positions=positions, documents=documents, whole=True).float()[counted]
        nats += F.cross_entropy(logits, targets[counted], reduction="sum").item()
        right += int((logits.argmax(dim=-1) == targets[counted]).sum())
    return {"masked_loss": nats / int(own.sum()), "masked_accuracy": right / int(own.sum())}


def read(loaded: Checkpoint, data: Path, split: str, limit: int | None) -> torch.Tensor:
    """Ids, int64 [N], of token arrays or of a text file, which starts as a document does."""
    if (data / META).is_file():
        arrays = TokenArrays(data, split)
        if difference := arrays.differs_from(loaded.tokenizer.eot_id, loaded.tokenizer.byte_lengths()):
            raise UserError(f"{difference}; pretokenize with the checkpoint's tokenizer")
        return torch.from_numpy(arrays.window(0, min(limit or len(arrays), len(arrays))).astype(np.int64))
    if not data.is_file():
        raise UserError(f"{data} is neither a folder of token arrays nor a text file")
    try:
        text = data.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{data} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    ids = [loaded.tokenizer.eot_id, *loaded.tokenizer.encode_ordinary(text)]
    return torch.tensor(ids[:limit])
