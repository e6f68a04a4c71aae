"""The tokenizer: text to ids and back, with special tokens as tiktoken treats them.

Byte-level BPE: a split pattern cuts a text into words, and the bytes of a word are merged as long as two neighbors
together are a token, the lowest rank first (`kernels/reference.py` shows that in plain Python, `kernels/encoder.py`
does it). Ids are the same as tiktoken's for every text. `formats.py` saves and loads tokenizers. What Hugging Face's
tokenizers do to a text before that is in `rules.py`; most tokenizers do nothing.
"""

from __future__ import annotations

import itertools
import operator
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import takewhile
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

import numpy as np

from textmill.errors import UserError
from textmill.mapping import Threads
from tokenization.arrays import token_dtype
from tokenization.config import END_OF_TEXT, sentinel_names
from tokenization.kernels.encoder import SHORT_TEXT, Encoder
from tokenization.kernels.vocabulary import ID_LIMIT, Vocabulary
from tokenization.patterns import find_pattern
from tokenization.rules import PLAIN, UNTOLD, Searches, TextRules, Usage
from tokenization.text import Documents, documents_of, utf8_of

__all__ = ["Tokenizer"]

Key = TypeVar("Key", bytes, str)

BATCH_CHARACTERS = 1 << 19  # text that is encoded at once
MOST_NESTED = 32  # groups in the expression that finds special tokens


class Tokenizer:
    """A byte-level BPE tokenizer. Several threads may use it at once.

    Args:
        tokens: bytes → id, where the id is also the rank by which pairs merge; all 256 single bytes are among them.
        pattern: name or regular expression of the split pattern.
        special_tokens: text → id.
        rules: what is done to a text before the pattern cuts it.
        usage: what the special tokens are for; it has no meaning here, and goes where the tokenizer goes.

    Attributes:
        tokens: the same, in the order of the ids.
        special_tokens: the same, in the order of the ids.
        pattern: the split pattern that `pattern` names or spells.
        rules, usage: the same.
        vocab_size: the highest id, and 1.
        dtype: the narrowest of uint16 and uint32 that holds every id.

    Raises:
        UserError: two tokens share an id, a byte is missing, an id is too large, or the pattern is not valid.

    Example:
        >>> tokens = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257}
        >>> tokenizer = Tokenizer(tokens, "gpt2", {"<|endoftext|>": 258})
        >>> tokenizer.encode("the thaw")
        [257, 32, 256, 97, 119]
        >>> tokenizer.decode([257, 32, 256, 97, 119])
        'the thaw'
        >>> tokenizer.encode("the<|endoftext|>", allowed_special="all")
        [257, 258]
    """

    def __init__(
        self,
        tokens: Mapping[bytes, int],
        pattern: str,
        special_tokens: Mapping[str, int],
        rules: TextRules = PLAIN,
        usage: Usage = UNTOLD,
    ) -> None:
        self.tokens = _by_id(tokens)
        self.pattern = find_pattern(pattern)
        self.special_tokens = _by_id(special_tokens)
        self.rules, self.usage, self._ruled = rules, usage, rules != PLAIN
        found = self.found_tokens
        ids = {*self.tokens.values(), *found.values()}
        if len(ids) != len(self.tokens) + len(self.special_tokens) + len(rules.added_tokens):
            raise UserError("two tokens share an id; every token and special token needs one of its own")
        missing = [b for b in range(256) if bytes([b]) not in self.tokens]
        if missing:
            raise UserError(f"the vocabulary lacks the byte {missing[0]:#04x}; all 256 bytes must be tokens")
        last = _last_id(self.tokens)
        self.vocab_size: int = max(last, *found.values(), -1) + 1
        self.dtype = token_dtype(self.vocab_size)
        if last >= ID_LIMIT:
            raise UserError(f"ids of tokens must be below {ID_LIMIT:,}; this vocabulary is larger")
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None  # built when it is first needed
        self._idle_encoders: SimpleQueue[Encoder] = SimpleQueue()

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} ids, pattern {self.pattern.name or self.pattern.regex!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.tokens, self.pattern.regex, self.special_tokens, self.rules, self.usage)

    @property
    def found_tokens(self) -> dict[str, int]:
        """The special and added tokens, which are found in a text by their names: text → id."""
        return self.special_tokens | self.rules.added_tokens

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        found = {i: name.encode() for name, i in self.found_tokens.items()}
        return {i: token for token, i in self.tokens.items()} | found

    @cached_property
    def _special_names(self) -> frozenset[str]:
        return frozenset(self.special_tokens)

    @cached_property
    def sentinels(self) -> list[int]:
        """Ids of the special tokens that stand for hidden spans (`config.sentinel_names`), in order."""
        names = takewhile(self.special_tokens.__contains__, sentinel_names(len(self.special_tokens)))
        return [self.special_tokens[name] for name in names]

    @property
    def eot_id(self) -> int:
        """Id of `<|endoftext|>`.

        Raises:
            UserError: this tokenizer has none.
        """
        if END_OF_TEXT not in self.special_tokens:
            raise UserError(f"this tokenizer has no {END_OF_TEXT}; add it to its special tokens")
        return self.special_tokens[END_OF_TEXT]

    # ---- encoding

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | Collection[str] = (),
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[int]:
        """Ids of a text. Special tokens in it become their ids if allowed, and are an error if disallowed.

        As with tiktoken, "all" disallowed means all that are not allowed, and a special token that is neither is
        encoded as ordinary text.

        Raises:
            UserError: the text has a disallowed special token.
        """
        allowed, disallowed = _searches(self._special_names, _hashable(allowed_special), _hashable(disallowed_special))
        if disallowed and (match := disallowed.search(text)):
            raise UserError(
                f"the text contains the special token {match.group()!r}; pass it in allowed_special to encode it as "
                "one, or disallowed_special=() to encode it as text"
            )
        if not allowed:
            return self.encode_ordinary(text)
        if self._ruled:
            special = {name: i for name, i in self.special_tokens.items() if allowed.fullmatch(name)}
            return self._encode_by_rules([text], special)[0].tolist()
        ids: list[int] = []
        position = 0
        for match in allowed.finditer(text):
            if match.start() > position:
                ids += self.encode_ordinary(text[position : match.start()])
            ids.append(self.special_tokens[match.group()])
            position = match.end()
        return ids + self.encode_ordinary(text[position:]) if position < len(text) else ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which special tokens mean nothing."""
        if len(text) <= SHORT_TEXT and not self._ruled:
            data = utf8_of(text)
            encoder = self._borrow_encoder()
            try:
                if len(data) <= encoder.longest_short:
                    return encoder.encode_short(data)
            finally:
                self._idle_encoders.put(encoder)
        return self.encode_documents(documents_of([text]))[0].tolist()

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """Ids of every text as arrays (uint16 or uint32); special tokens in them mean nothing.

        The ids are the same for any number of threads.
        """
        batches = _batches(texts, BATCH_CHARACTERS)
        if threads == 1:
            return [ids for batch in batches for ids in self._encode_texts(batch)]
        with Threads(threads) as pool:
            return [ids for encoded in pool.map(self._encode_texts, batches) for ids in encoded]

    def _encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids, ends = self.encode_documents(documents_of(texts))
        return [ids[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]

    def encode_documents(self, documents: Documents, closing: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of documents, one after the other.

        Args:
            documents: as `tokenization/text.py` makes them of strings and files.
            closing: an id to put after each document.

        Returns:
            the ids, uint16 or uint32 [tokens], and where each document ends among them, int64 [documents].
        """
        if self._ruled:
            return self._encode_by_rules(list(documents.strings()), {}, closing)
        return self._encode_plain(documents, closing)

    def _encode_plain(self, documents: Documents, closing: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        encoder = self._borrow_encoder()
        try:
            return encoder.encode(documents.text, documents.offsets, closing)
        finally:
            self._idle_encoders.put(encoder)

    def _encode_by_rules(
        self, texts: Sequence[str], special: Mapping[str, int], closing: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_documents`, of texts in which these special tokens are found."""
        tokens = {**special, **self.rules.added_tokens}
        parted = [list(self.rules.parts(text, tokens, self._found_names)) for text in texts]
        pieces = [part for parts in parted for part in parts if isinstance(part, str)]
        encoded, piece_ends = self._encode_plain(documents_of(pieces))
        of_pieces = iter(np.split(encoded, piece_ends[:-1]) if pieces else ())
        tail = [] if closing is None else [closing]
        ids: list[np.ndarray] = [np.empty(0, self.dtype)]
        ends = []
        length = 0
        for parts in parted:
            for part in (*parts, *tail):
                ids.append(next(of_pieces) if isinstance(part, str) else np.array([part], self.dtype))
                length += len(ids[-1])
            ends.append(length)
        return np.concatenate(ids), np.array(ends, np.int64)

    @cached_property
    def _found_names(self) -> Searches:
        names, late = frozenset(self.found_tokens), self.rules.late
        return Searches(_any_of(names - late), _any_of(names & late))

    def _borrow_encoder(self) -> Encoder:
        """An encoder that no other thread uses; it remembers the words it has seen."""
        try:
            return self._idle_encoders.get_nowait()
        except Empty:
            with self._lock:
                self._vocabulary = self._vocabulary or Vocabulary(self.tokens)
            return Encoder(self._vocabulary, self.pattern, self.dtype)

    def prepare(self, threads: int = 1) -> None:
        """Build the tables for so many threads now, and not only when text is first encoded."""
        encoders = [self._borrow_encoder() for _ in range(threads)]
        for encoder in encoders:
            self._idle_encoders.put(encoder)

    # ---- decoding

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, for a special or added token those of its name.

        Raises:
            UserError: the vocabulary has no such id, or it is not a whole number.
        """
        try:
            return self._bytes[operator.index(token)]
        except (KeyError, TypeError):
            raise UserError(f"{token} is not an id of this tokenizer (0 to {self.vocab_size - 1})") from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of ids: exactly the text that was encoded, as the rules left it.

        Raises:
            UserError: the vocabulary has no such id, or one is not a whole number.
        """
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        try:
            return b"".join(map(self._bytes.__getitem__, map(operator.index, ids)))
        except (KeyError, TypeError):
            return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of a sequence of ids; bytes that are not UTF-8 become U+FFFD, or are treated as `errors` says."""
        return self.decode_bytes(ids).decode(errors=errors)

    def byte_lengths(self) -> np.ndarray:
        """uint32 [vocab_size]: the bytes of text behind each id; 0 for special tokens and unused ids."""
        lengths = np.zeros(self.vocab_size, np.uint32)
        lengths[list(self.tokens.values())] = [len(token) for token in self.tokens]
        for name, i in self.rules.added_tokens.items():
            lengths[i] = len(name.encode())
        return lengths


def _by_id(tokens: Mapping[Key, int]) -> dict[Key, int]:
    """The tokens in the order of their ids."""
    ids = list(tokens.values())
    return dict(tokens if ids == sorted(ids) else sorted(tokens.items(), key=operator.itemgetter(1)))


def _last_id(by_id: dict[Any, int]) -> int:
    return next(reversed(by_id.values()), -1)


def _batches(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """The texts in order, in runs of about so many characters: small enough to stay in the processor's cache."""
    first = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= characters:
            yield texts[first : i + 1]
            first, size = i + 1, 0
    if first < len(texts):
        yield texts[first:]


# ---- special tokens


def _hashable(names: Literal["all"] | Collection[str]) -> Literal["all"] | frozenset[str]:
    return "all" if names == "all" else frozenset(names)


@lru_cache(maxsize=64)
def _searches(
    names: frozenset[str], allowed: Literal["all"] | frozenset[str], disallowed: Literal["all"] | frozenset[str]
) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """What finds the special tokens of a tokenizer that are allowed, and what those that are not; None for none."""
    taken = names if allowed == "all" else names & allowed
    return _any_of(taken), _any_of(names - taken if disallowed == "all" else disallowed)


def _any_of(names: frozenset[str]) -> re.Pattern[str] | None:
    """Finds names; of several that begin at one place, the longest."""
    return re.compile(_alternatives(names, MOST_NESTED)) if names else None


def _alternatives(names: Collection[str], nested: int) -> str:
    """An expression for the names in which what several begin with stands once, so that a search tries few of them."""
    if len(names) == 1 or not nested:
        return "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    begin = os.path.commonprefix(list(names))  # noqa: RUF071  by character, as is wanted here
    ends = sorted(name[len(begin) :] for name in names)
    groups = [list(group) for _, group in itertools.groupby(ends, key=lambda end: end[:1])]
    # the end that is empty sorts first and is tried last
    branches = "|".join(_alternatives(group, nested - 1) for group in reversed(groups))
    return f"{re.escape(begin)}(?:{branches})"
