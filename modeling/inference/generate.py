"""Using a checkpoint: continuing text and filling blanks."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeling.checkpoint import CheckpointConfig, load_model, load_tokenizer_of, pair_length_of
from modeling.config.run import MAX_SEED
from modeling.device import choose
from modeling.inference.targets import Writing, fill_spans, source_of, write_targets
from modeling.networks.encoder_decoder import EncoderDecoder
from modeling.networks.language_model import LanguageModel, State
from textmill.errors import UserError
from tokenization.sentence_pairs import SENTENCE_END, lay_out
from tokenization.tokenizer import Tokenizer

__all__ = [
    "MASK", "Blanked", "Checkpoint", "Filled", "Sampling", "TextStream", "cropped", "fill", "generate", "load",
    "stream", "word_beginnings",
]  # fmt: skip

MASK = "[MASK]"
# Of a full window the oldest tokens go, this share of it at once: the rest is read again without them, which a smaller
# share asks for more often.
DROPPED_SHARE = 8
# In fp32 these divide without becoming 0 or infinite. Long before them the most probable token is certain, or every
# token is as probable as the next
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30


@dataclass(frozen=True)
class Checkpoint:
    """A model in fp32 with its tokenizer, ready to use.

    Attributes:
        model: the network.
        tokenizer: its own.
        config: what its `config.json` says.
        pair_length: most tokens of the pairs of sentences that it was fine-tuned on; None: on running text.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    config: CheckpointConfig
    pair_length: int | None = None

    @property
    def window(self) -> int:
        """Most tokens of a text whose blanks are filled, with those that lay it out."""
        return self.model.config.context if self.pair_length is None else self.pair_length

    def forbidden(self, *allowed: int) -> Tensor:
        """Which ids must not come out, bool [V]: special tokens but the allowed ones, and ids without a token."""
        ordinary = torch.from_numpy(self.tokenizer.byte_lengths() > 0)
        ordinary[list(allowed)] = True
        return ~ordinary.to(self.model.device)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: most new tokens.
        temperature: logits are divided by it; 0 takes the most probable token.
        top_k: draw from the k most probable tokens only (Fan et al. 2018).
        top_p: draw from the fewest tokens that together reach this probability (Holtzman et al. 2020).
        stop: end before any of these texts.
        seed: the same seed gives the same text.
    """

    max_tokens: int = 100
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be a finite number of 0 or more, not {self.temperature}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must lie between 0 and {MAX_SEED}, not {self.seed}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be 1 or more, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.max_tokens < 0:
            raise UserError(f"max_tokens must be 0 or more, not {self.max_tokens}")


@dataclass(frozen=True)
class Filled:
    """`text` with its blanks filled; for each blank, in order, the most probable tokens (or spans, of an
    encoder-decoder) with their probabilities."""

    text: str
    candidates: list[list[tuple[str, float]]]


def load(path: Path, device: str = "auto") -> Checkpoint:
    """A checkpoint on a device.

    Raises:
        UserError: the folder is not a checkpoint, its files are damaged or do not fit together, or the device is not
            there.
    """
    model, config = load_model(path)
    return Checkpoint(
        model.to(choose(device, "fp32").device), load_tokenizer_of(path, config), config, pair_length_of(path, config)
    )


def generate(
    checkpoint: Checkpoint, prompts: list[str], sampling: Sampling = Sampling(), use_state: bool = True
) -> list[str]:
    """Continuations of the prompts, without them, computed as one batch; or what an encoder-decoder writes to them.

    One that was trained on pairs writes the target of each prompt, its source. One that was trained on hidden spans
    reads each prompt with a blank at its end, and writes what may stand there: a few words.

    Args:
        checkpoint: of a causal model, or of an encoder-decoder.
        prompts: beginnings of documents to continue; of one that is longer than the window its last tokens are read.
            Sources, which have to fit into the window.
        sampling: how tokens are chosen.
        use_state: whether the model's state is kept; without it the same text takes longer.

    Raises:
        UserError: the checkpoint is a masked one, or a source does not fit.
    """
    streams = [TextStream(sampling.stop) for _ in prompts]
    texts = [""] * len(prompts)
    for tokens in continuations(checkpoint, prompts, sampling, use_state):
        for row, token in tokens.items():
            texts[row] += streams[row].feed(checkpoint.tokenizer.token_bytes(token))
        if all(stream.stopped for stream in streams):
            break
    return [text + stream.rest() for text, stream in zip(texts, streams, strict=True)]


def stream(checkpoint: Checkpoint, prompt: str, sampling: Sampling = Sampling()) -> Iterator[str]:
    """The continuation of one prompt, piece by piece as it is made; otherwise as `generate`."""
    text = TextStream(sampling.stop)
    for tokens in continuations(checkpoint, [prompt], sampling):
        if piece := text.feed(checkpoint.tokenizer.token_bytes(tokens[0])):
            yield piece
        if text.stopped:
            return
    if piece := text.rest():
        yield piece


class TextStream:
    """Bytes of tokens to text: never half a character, and never a stop string or anything after it."""

    def __init__(self, stop: tuple[str, ...]):
        self.stop = [text for text in stop if text]
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Add the bytes of a token; the text that is certain by now and was not given yet."""
        if self.stopped:
            return ""
        self.held += self.decoder.decode(piece)
        found = [place for text in self.stop if (place := self.held.find(text)) >= 0]
        if found:
            self.stopped = True
            ready, self.held = self.held[: min(found)], ""
            return ready
        # hold back an ending that a stop string may begin with
        hold = max(
            (n for text in self.stop for n in range(1, len(text)) if self.held.endswith(text[:n])),
            default=0,
        )
        ready, self.held = self.held[: len(self.held) - hold], self.held[len(self.held) - hold :]
        return ready

    def rest(self) -> str:
        """The text that was held back, when no more tokens come."""
        return "" if self.stopped else self.held + self.decoder.decode(b"", final=True)


@torch.inference_mode()
def continuations(
    checkpoint: Checkpoint, prompts: list[str], sampling: Sampling, use_state: bool = True
) -> Iterator[dict[int, int]]:
    """New tokens as {row of the batch: token}, until every row has ended with end-of-text or `max_tokens`.

    A text begins as documents do in training, after an end of text. All rows advance position by position from the
    shortest prompt's end; a longer prompt supplies its own tokens meanwhile. Of a prompt that is longer than the window
    there are only the last tokens, and a full window drops its oldest tokens: where a row's window begins depends on
    its own length alone, and so does the text.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if not model.causal:
        raise UserError("this checkpoint fills blanks, it does not continue text; use `textmill fill`")
    if isinstance(model, EncoderDecoder):
        yield from _targets(checkpoint, model, prompts, sampling, use_state)
        return
    texts = [[tokenizer.eot_id, *tokenizer.encode_ordinary(prompt)] for prompt in prompts]
    window_length = model.memory_length or max(map(len, texts), default=0) + sampling.max_tokens
    texts = [ids[-window_length:] for ids in texts]
    device = model.device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    forbidden = checkpoint.forbidden(tokenizer.eot_id)
    lengths = [len(ids) for ids in texts]
    active = set(range(len(texts))) if sampling.max_tokens else set()
    place, start = min(lengths, default=0), 0
    state: State | None = None
    while active:
        if place - start > window_length or state is None:
            if place - start > window_length:
                start = place - window_length + window_length // DROPPED_SHARE
            state = model.initial_state(len(texts))
            window = slice(start, place)
        else:
            window = slice(place - 1, place) if use_state else slice(start, place)
        batch = torch.tensor([ids[window] for ids in texts], device=device)
        logits = model(batch, state=state if use_state else None)[:, -1].float().masked_fill(forbidden, -torch.inf)
        chosen = choose_tokens(logits, sampling, generator).tolist()
        new = {}
        for row, token in enumerate(chosen):
            if place < lengths[row]:
                continue  # still in its prompt
            texts[row].append(token)
            if row in active:
                if token == tokenizer.eot_id:
                    active.discard(row)
                    continue
                new[row] = token
                if place + 1 - lengths[row] == sampling.max_tokens:
                    active.discard(row)
        place += 1
        if new:
            yield new


def _targets(
    checkpoint: Checkpoint, model: EncoderDecoder, prompts: list[str], sampling: Sampling, use_state: bool
) -> Iterator[dict[int, int]]:
    """`continuations` of an encoder-decoder, whose sources are the prompts."""
    tokenizer = checkpoint.tokenizer
    continues = checkpoint.config.objective == "denoising"
    begin, ends = [tokenizer.eot_id], [tokenizer.eot_id]
    if continues:
        begin, ends = [*begin, tokenizer.sentinels[0]], [*ends, *tokenizer.sentinels]
    generator = torch.Generator(model.device).manual_seed(sampling.seed)
    forbidden = checkpoint.forbidden(*ends)

    def choose_token(logits: Tensor) -> Tensor:
        return choose_tokens(logits.float().masked_fill(forbidden, -torch.inf), sampling, generator)

    if prompts and sampling.max_tokens:
        sources = [source_of(prompt, model, tokenizer, continues=continues) for prompt in prompts]
        writing = Writing(begin, frozenset(ends), sampling.max_tokens)
        yield from write_targets(model, sources, writing, choose_token, use_state)


def choose_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """A token for each row of logits [B, V]: int64 [B]."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    temperature = min(max(sampling.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p is not None:  # the smallest set of tokens whose probabilities reach top_p
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        logits = ordered.masked_fill(before >= sampling.top_p, -torch.inf).gather(-1, order.argsort(dim=-1))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)


@torch.inference_mode()
def fill(checkpoint: Checkpoint, text: str, candidates: int = 5) -> Filled:
    """Fill each [MASK] of the text with one token, the most certain blank first, so that later ones can lean on it. An
    encoder-decoder fills each with one token or more, from left to right.

    Args:
        checkpoint: of a masked model, of one that does both, or of an encoder-decoder that was trained on hidden spans.
        text: with blanks.
        candidates: how many tokens are told for each blank.

    Raises:
        UserError: the checkpoint is a causal one, nothing is blank, or the text exceeds the window.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if isinstance(model, EncoderDecoder):
        if checkpoint.config.objective != "denoising":
            raise UserError("this checkpoint was trained on pairs, it does not fill blanks; use `textmill generate`")
        return Filled(*fill_spans(model, tokenizer, text, word_beginnings(tokenizer), candidates))
    if checkpoint.config.objective == "span":
        raise UserError("this checkpoint answers questions, it does not fill blanks; use one that finetune wrote")
    if not checkpoint.config.fills:
        kind = checkpoint.config.model.kind
        how = "use one that finetune wrote" if kind == "transformer" else "use a transformer that finetune tuned"
        raise UserError(f"this checkpoint continues text, it does not fill blanks; {how}")
    read = Blanked(text, checkpoint)
    if not read.blanks:
        raise UserError(f"the text has no blank; write {MASK} where one token is to be filled in")
    if read.length > checkpoint.window:
        raise UserError(f"the text has {read.length} tokens but the window holds {checkpoint.window}; shorten it")
    device = model.device
    ids, blanks = read.ids.to(device), read.blanks
    forbidden = checkpoint.forbidden().repeat(len(blanks), 1)
    forbidden[read.begin_words] = ~torch.isin(torch.arange(forbidden.shape[1]), word_beginnings(tokenizer)).to(device)
    found: dict[int, list[tuple[str, float]]] = {}
    filled: dict[int, int] = {}
    while len(found) < len(blanks):
        positions = torch.tensor([[place - checkpoint.config.shift for place in blanks]], device=device)
        logits = model(ids[None], positions=positions, whole=True)[0].float()
        best = logits.masked_fill(forbidden, -torch.inf).softmax(dim=-1).topk(min(candidates, logits.shape[-1]))
        surest = max((n for n in range(len(blanks)) if n not in found), key=lambda n: best.values[n, 0].item())
        tokens, probs = best.indices[surest].tolist(), best.values[surest].tolist()
        found[surest] = [(tokenizer.decode([token]), prob) for token, prob in zip(tokens, probs, strict=True) if prob]
        filled[surest] = ids[blanks[surest]] = tokens[0]
    return Filled(read.with_tokens(filled), [found[number] for number in range(len(blanks))])


class Blanked:
    """A text with blanks as a checkpoint's model reads it: as it was fine-tuned.

    Running text begins after an end of text. A model that was fine-tuned on pairs of sentences reads two parts of the
    text, `[CLS] A [SEP] B [SEP]`. Of a text of one sentence, B is empty.

    Attributes:
        ids: int64 [T].
        length: how many of them there are; without a limit.
        blanks: where the blanks are among the ids, in order.
        begin_words: for each blank whether it is the beginning of a word.
    """

    def __init__(self, text: str, checkpoint: Checkpoint):
        self.tokenizer = tokenizer = checkpoint.tokenizer
        first, self.gap, second = (text, "", "") if checkpoint.pair_length is None else halves(text)
        self.parts = [blanked(part, tokenizer) for part in (first, second)]
        self.begin_words = [begins for _, found in self.parts for begins in found]
        a, b = (ids for ids, _ in self.parts)
        if checkpoint.pair_length is None:
            ids = [tokenizer.eot_id, *a]
        else:
            pair = np.array(a, np.int64), np.array(b, np.int64)
            ids = lay_out([pair], len(a) + len(b) + 3, tokenizer.special_tokens)[0][0].tolist()
        self.ids, self.length = torch.tensor(ids), len(ids)
        self.blanks = [place for place, token in enumerate(ids) if token == tokenizer.special_tokens[MASK]]

    def with_tokens(self, filled: Mapping[int, int]) -> str:
        """The text with these tokens in its blanks, by the blanks' numbers."""
        tokens, mask = iter(filled[number] for number in sorted(filled)), self.tokenizer.special_tokens[MASK]
        decoded = [self.tokenizer.decode([next(tokens) if i == mask else i for i in ids]) for ids, _ in self.parts]
        return self.gap.join(decoded)


def halves(text: str) -> tuple[str, str, str]:
    """The text up to the end of a sentence, the blanks there, and the rest, both parts about as long as each other; a
    text of one sentence is the first part.

    Example:
        >>> halves("One. Two! Three?")
        ('One. Two!', ' ', 'Three?')
    """
    ends = [match for match in SENTENCE_END.finditer(text) if text[: match.start()].strip() and text[match.end() :]]
    if not ends:
        return text, "", ""
    end = min(ends, key=lambda match: abs(match.start() - (len(text) - match.end())))
    return text[: end.start()], end.group(), text[end.end() :]


def word_beginnings(tokenizer: Tokenizer) -> Tensor:
    """Ids of the tokens that are a space and what follows it, int64 [N]."""
    return torch.tensor(
        [i for token, i in tokenizer.tokens.items() if token[:1] == b" " and token.strip()], dtype=torch.int64
    )


def blanked(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a text with blanks, and for each blank whether it is the beginning of a word.

    A token carries the space before its word, so a blank after a space takes that space in (if there are such tokens).
    """
    mask = tokenizer.special_tokens[MASK]
    spaced = len(word_beginnings(tokenizer)) > 0
    ids: list[int] = []
    begin_words = []
    for piece in re.split(r"( ?\[MASK\])" if spaced else r"(\[MASK\])", text):
        if piece.endswith(MASK):
            ids.append(mask)
            begin_words.append(piece.startswith(" "))
        elif piece:
            ids += tokenizer.encode_ordinary(piece)
    return ids, begin_words


def cropped(text: str, checkpoint: Checkpoint) -> str:
    """The text without the words farthest from its first blank that the checkpoint's window has no room for."""
    parts = text.split(" ")
    while len(parts) > 1 and Blanked(" ".join(parts), checkpoint).length > checkpoint.window:
        blank = next(place for place, part in enumerate(parts) if MASK in part)
        parts.pop(-1 if len(parts) - 1 - blank >= blank else 0)
    return " ".join(parts)
