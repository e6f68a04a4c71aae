"""What an encoder-decoder writes: the target of a source, by the token, and the spans of a text's blanks.

Sources and targets are laid out as in training (`modeling.training.seq2seq`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.networks.encoder_decoder import EncoderDecoder, Sources
from textmill.errors import UserError
from tokenization.tokenizer import Tokenizer

__all__ = ["BlankSpan", "Writing", "fill_spans", "padded", "source_of", "write_targets"]

MOST_SPAN = 32  # tokens of a blank
BLANK = re.compile(r"( ?)(?:\[MASK\]|<extra_id_\d+>)")
BlankSpan = list[tuple[str, float]]  # guesses for a blank with their probabilities, the best first


class Writing(NamedTuple):
    """How targets begin and end.

    Attributes:
        begin: ids that are there before the first token is chosen.
        ends: ids that end a target and are no part of it.
        most: tokens at most, beside these.
    """

    begin: list[int]
    ends: frozenset[int]
    most: int


def source_of(prompt: str, model: EncoderDecoder, tokenizer: Tokenizer, *, continues: bool) -> list[int]:
    """The ids of a source. One that `continues` has a blank at its end, and the last tokens that there is room for.

    Raises:
        UserError: it is longer than the window.
    """
    end = [tokenizer.sentinels[0], tokenizer.eot_id] if continues else [tokenizer.eot_id]
    ids, room = tokenizer.encode_ordinary(prompt), model.config.context - len(end)
    if len(ids) > room and not continues:
        raise UserError(f"the source has {len(ids)} tokens but the window holds {room}; shorten it")
    return [*ids[-room:], *end]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Rows of ids, int64 [B, T], and their lengths [B], None where all have the same."""
    lengths = [len(row) for row in rows]
    most = max(lengths)
    ids = torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], device=device)
    return ids, None if min(lengths) == most else torch.tensor(lengths, device=device)


def write_targets(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], writing: Writing, choose: Callable[[Tensor], Tensor],
    use_state: bool = True,
) -> Iterator[dict[int, int]]:  # fmt: skip
    """Tokens of targets as {row of the batch: token}, until every target has ended or is as long as it may be.

    Args:
        model: in evaluation mode.
        sources: ids of each; they may differ in length.
        writing: how targets begin and end.
        choose: a token, int64 [B], for each row of logits [B, V].
        use_state: whether keys and values are kept; without them the same tokens take longer.
    """
    read = Sources(*padded(sources, model.device))
    state = model.read(read, keep=use_state)
    targets = [list(writing.begin) for _ in sources]
    active = set(range(len(sources)))
    most = min(writing.most, model.config.context - len(writing.begin))
    unread = 0  # place of the first token of the targets that the model has not read
    for _ in range(most):
        batch = torch.tensor([ids[unread:] for ids in targets], device=model.device)
        chosen = choose(model(batch, state=state)[:, -1]).tolist()
        unread = len(targets[0]) if use_state else 0
        new = {}
        for row, token in enumerate(chosen):
            targets[row].append(token)
            if row in active:
                if token in writing.ends:
                    active.discard(row)
                else:
                    new[row] = token
        if new:
            yield new
        if not active:
            return


class SpanSearch:
    """A beam search for one blank of a source after the other.

    Args:
        model: in evaluation mode.
        source: its ids.
        forbidden: bool [V], ids that are no text.
        ends: ids that end a span.
        width: spans that are followed at once.
    """

    def __init__(self, model: EncoderDecoder, source: list[int], forbidden: Tensor, ends: Tensor, width: int):
        self.model, self.forbidden, self.ends, self.width = model, forbidden, ends, width
        self.sources = Sources(torch.tensor([source], device=model.device))

    def spans(self, target: list[int], first: Tensor | None) -> list[tuple[list[int], float]]:
        """The most probable spans that go on a target, the best first, with their log-probabilities.

        Args:
            target: its ids so far, at least one.
            first: int64 [N], the ids that a span may begin with; None: all of text.
        """
        model, state = self.model, self.model.read(self.sources, keep=True)
        batch = torch.tensor([target], device=model.device)
        followed: list[tuple[list[int], float]] = [([], 0.0)]
        found: list[tuple[list[int], float]] = []
        for length in range(min(MOST_SPAN, model.config.context - len(target)) + 1):
            logits = model(batch, state=state)[:, -1].float()
            allowed = ~self.forbidden
            if length == 0:  # a span is not empty
                allowed = allowed.clone()
                if first is not None:
                    allowed &= torch.isin(torch.arange(len(allowed), device=model.device), first)
            elif length:
                allowed = allowed.index_fill(0, self.ends, True)
            log_probs = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
            log_probs += torch.tensor([score for _, score in followed], device=model.device)[:, None]
            if length:
                ended = log_probs[:, self.ends].logsumexp(dim=-1).tolist()
                found += [(ids, score) for (ids, _), score in zip(followed, ended, strict=True)]
                log_probs[:, self.ends] = -torch.inf
            best = log_probs.flatten().topk(min(self.width, log_probs.numel()))
            chosen = [
                (place, score)
                for place, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                if score > -torch.inf
            ]
            found = sorted(found, key=lambda span: -span[1])[: self.width]
            if not chosen or (len(found) == self.width and found[-1][1] >= chosen[0][1]):
                break
            rows, tokens = zip(*(divmod(place, log_probs.shape[1]) for place, _ in chosen), strict=True)
            followed = [
                ([*followed[row][0], token], score) for row, token, (_, score) in zip(rows, tokens, chosen, strict=True)
            ]
            state.reorder(torch.tensor(rows, device=model.device))
            batch = torch.tensor(tokens, device=model.device)[:, None]
        return found or followed


@torch.inference_mode()
def fill_spans(
    model: EncoderDecoder, tokenizer: Tokenizer, text: str, words: Tensor, candidates: int
) -> tuple[str, list[BlankSpan]]:
    """A text with its blanks filled, from left to right, and for each the most probable spans.

    Args:
        model: trained to write hidden spans.
        tokenizer: its own.
        text: with blanks, [MASK] or sentinels, of one token or more.
        words: ids of the tokens that are a space and what follows it: a blank after a space begins with one of these.
        candidates: spans that are told for each blank.

    Raises:
        UserError: nothing is blank, there are more blanks than sentinels, or the text exceeds the window.
    """
    pieces, blanks = pieces_of(text, spaced=len(words) > 0)
    sentinels = tokenizer.sentinels
    if not blanks:
        raise UserError("the text has no blank; write [MASK] where something is to be filled in")
    if len(blanks) > len(sentinels):
        raise UserError(f"the text has {len(blanks)} blanks but the tokenizer {len(sentinels)} sentinels; shorten it")
    source = [*tokenizer.encode_ordinary(pieces[0])]
    for sentinel, piece in zip(sentinels, pieces[1:], strict=False):
        source += [sentinel, *tokenizer.encode_ordinary(piece)]
    source.append(tokenizer.eot_id)
    if len(source) > model.config.context:
        raise UserError(f"the text has {len(source)} tokens but the window holds {model.config.context}; shorten it")
    ordinary = torch.from_numpy(tokenizer.byte_lengths() > 0).to(model.device)
    ends = torch.tensor([tokenizer.eot_id, *sentinels], device=model.device)
    search = SpanSearch(model, source, ~ordinary, ends, max(candidates, 4))
    target, filled, guesses = [tokenizer.eot_id], [pieces[0]], []
    for number, (begins_word, piece) in enumerate(zip(blanks, pieces[1:], strict=True)):
        target.append(sentinels[number])
        if len(target) >= model.config.context:
            raise UserError(f"the window has no room for blank {number + 1}; give fewer blanks at once")
        found = search.spans(target, words.to(model.device) if begins_word else None)
        guesses.append([(tokenizer.decode(ids), float(torch.tensor(score).exp())) for ids, score in found[:candidates]])
        target += found[0][0]
        filled += [guesses[-1][0][0], piece]
    return "".join(filled), guesses


def pieces_of(text: str, *, spaced: bool) -> tuple[list[str], list[bool]]:
    """The text between the blanks, and for each blank whether it takes in a space before it, as tokens do where there
    are such (`spaced`).

    Example:
        >>> pieces_of("The [MASK] of", spaced=True)
        (['The', ' of'], [True])
    """
    pieces, begins, start = [], [], 0
    for match in BLANK.finditer(text):
        pieces.append(text[start : match.start()] + ("" if spaced else match[1]))
        begins.append(spaced and match[1] == " ")
        start = match.end()
    return [*pieces, text[start:]], begins
