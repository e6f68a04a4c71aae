"""Which tokens of a window are hidden from a masked model, and what it sees in their place (Devlin et al. 2019, BERT).

Tokens are hidden one by one, as whole words, or in spans of words. A word is what a space, a sign or a special token
begins, as in the splits that tokenizers learn from and as `generate.fill` begins one: letters and digits, however many
tokens, belong together. Spans have geometric lengths (Joshi et al. 2020, SpanBERT): each word begins one by the toss of
a coin, and which are hidden is drawn afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modeling.config.objective import MaskingConfig
from tokenization.tokenizer import Tokenizer

__all__ = ["MaskRates", "Masked", "Masking", "own_targets"]

LONGEST_SPAN = 10  # words, as in SpanBERT


class MaskRates(NamedTuple):
    """How many tokens are hidden, which ones together, and behind what.

    Attributes:
        hidden: share of the tokens.
        random: of the hidden ones, share that is replaced by a random token instead of [MASK].
        keep: of the hidden ones, share that is left as it is.
        unit: what is hidden whole.
        span_length: mean length of a span in words, were none cut at `LONGEST_SPAN`.
    """

    hidden: float
    random: float = 0.0
    keep: float = 0.0
    unit: Literal["token", "word", "span"] = "token"
    span_length: float = 1.0

    @classmethod
    def of_training(cls, config: MaskingConfig) -> MaskRates:
        return cls(config.mask_rate, config.mask_random, config.mask_keep, config.mask_unit, config.span_length)


class Masked(NamedTuple):
    """Windows with hidden tokens.

    Attributes:
        ids: int64 [B, T], what the model sees.
        targets: int64 [B, K], the hidden tokens in order.
        positions: int64 [B, K], the ones that predict them.
        counts: int64 [B], how many are hidden in each window: the first of its targets, of which the others are copies.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    counts: Tensor


class Masking:
    """Hides tokens for the model to predict; special ones and, where predictions are shifted, the first one stay.

    A window of nothing else has one of its special tokens hidden, so that there is something to predict in each.
    """

    def __init__(self, tokenizer: Tokenizer, shift: bool):
        self.mask_id, self.vocab_size, self.shift = tokenizer.special_tokens["[MASK]"], tokenizer.vocab_size, shift
        self.special = torch.tensor(sorted(tokenizer.special_tokens.values()))
        self.goes_on, self.stays_open = word_edges(tokenizer.tokens, self.vocab_size)

    def ordinary(self, ids: Tensor) -> Tensor:
        """Which of the ids [B, T] may be hidden, bool like them."""
        ordinary = ~torch.isin(ids, self.special)
        if self.shift:
            ordinary[:, 0] = False
        return ordinary

    def hide(self, ids: Tensor, counts: Tensor, rates: MaskRates, generator: torch.Generator) -> Masked:
        """Hide `counts` (int64 [B]) tokens in the windows of ids [B, T]: at least 1, at most the ordinary ones.

        Of words and spans as many are hidden whole as fit into the count; if the first that is drawn does not, it is
        cut. A window with fewer targets than the most repeats them, so that every window weighs about the same and
        means over micro-batches and ranks are the mean.
        """
        draw = torch.rand(ids.shape, generator=generator)
        units = torch.arange(ids.shape[1]).expand(ids.shape)
        if rates.unit != "token":
            units = self.units(ids, rates, generator)
            draw = draw.gather(1, units)
        draw = torch.where(torch.isin(ids, self.special), draw + 1, draw)
        if self.shift:
            draw[:, 0] += 2
        order = draw.argsort(dim=1, stable=True)
        if rates.unit != "token":
            counts = whole_units(units.gather(1, order), counts)
        most = int(counts.max())
        number = torch.arange(most).expand(len(ids), most)
        own = number % counts.unsqueeze(1)
        places = order[:, :most].masked_fill(number >= counts.unsqueeze(1), ids.shape[1])
        places = places.sort(dim=1).values.gather(1, own)
        targets = ids.gather(1, places)
        fate = torch.rand(targets.shape, generator=generator).gather(1, own)
        if rates.unit == "span":  # one for all its tokens, as in SpanBERT
            fate = fate.gather(1, firsts(units.gather(1, places)))
        noise = torch.randint(self.vocab_size, targets.shape, generator=generator).gather(1, own)
        shown = torch.where(fate < rates.random, noise, torch.full_like(targets, self.mask_id))
        shown = torch.where(fate >= 1 - rates.keep, targets, shown)
        return Masked(ids.scatter(1, places, shown), targets, places - 1 if self.shift else places, counts)

    def units(self, ids: Tensor, rates: MaskRates, generator: torch.Generator) -> Tensor:
        """Where the word or span of each of the ids [B, T] begins, int64 like them; a special token is alone."""
        special = torch.isin(ids, self.special)
        begins = torch.ones_like(special)
        begins[:, 1:] = ~(self.stays_open[ids[:, :-1]] & self.goes_on[ids[:, 1:]])
        if rates.unit == "span":
            words = begins.cumsum(dim=1)
            at_border = special.clone()
            at_border[:, 0] = True
            at_border[:, 1:] |= special[:, :-1]
            tossed = torch.rand(ids.shape, generator=generator) < 1 / rates.span_length
            starts = begins & (at_border | tossed)
            length = words - words.gather(1, beginnings(starts))
            begins &= starts | (length % LONGEST_SPAN == 0)
        return beginnings(begins)


def word_edges(tokens: Mapping[bytes, int], vocab_size: int) -> tuple[Tensor, Tensor]:
    """Of each token whether its first character goes on with a word, and whether its last one leaves it open: letters
    and digits do, and parts of a character; bool [V] each."""
    goes_on, stays_open = torch.zeros(2, vocab_size, dtype=torch.bool)
    for token, number in tokens.items():
        text = token.decode("utf-8", errors="replace")
        goes_on[number] = text[0].isalnum() or text[0] == "\ufffd"
        stays_open[number] = text[-1].isalnum() or text[-1] == "\ufffd"
    return goes_on, stays_open


def beginnings(begins: Tensor) -> Tensor:
    """For each position the last one, up to it, where `begins` [B, T] is true; int64 like it."""
    places = torch.arange(begins.shape[1]).expand(begins.shape)
    return torch.where(begins, places, 0).cummax(dim=1).values


def firsts(units: Tensor) -> Tensor:
    """For each of the units [B, K] where it or its equals, which are neighbors, begin; int64 like them."""
    begins = torch.ones_like(units, dtype=torch.bool)
    begins[:, 1:] = units.diff(dim=1) != 0
    return beginnings(begins)


def whole_units(drawn: Tensor, counts: Tensor) -> Tensor:
    """How many tokens can be hidden, int64 [B], if the last unit that the counts [B] cut is left out.

    Args:
        drawn: int64 [B, T], the units of the tokens in the order in which they were drawn.
        counts: int64 [B], at least 1.
    """
    last = drawn.gather(1, counts.unsqueeze(1) - 1)
    after = drawn.gather(1, counts.clamp(max=drawn.shape[1] - 1).unsqueeze(1))
    before = (drawn == last).int().argmax(dim=1)  # tokens of the units drawn before it
    is_cut = (last == after).squeeze(1) & (counts < drawn.shape[1])
    return torch.where(is_cut & (before > 0), before, counts)


def own_targets(targets: Tensor, counts: Tensor) -> Tensor:
    """Which of the targets [B, K] that `Masking.hide` gave are a window's own and not repeated, bool like them: in
    metrics each counts once."""
    return torch.arange(targets.shape[1]) < counts.unsqueeze(1)
