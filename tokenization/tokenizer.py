"""The tokenizer: text to ids and back, with special tokens as tiktoken treats them."""

import itertools
import operator
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

import numpy as np
import regex

from textmill.errors import UserError
from tokenization.arrays import token_dtype
from tokenization.config import END_OF_TEXT
from tokenization.kernels.encoder import Encoder
from tokenization.kernels.vocabulary import ID_LIMIT, Vocabulary
from tokenization.patterns import find_pattern
from tokenization.text import Documents, documents_of

PIECE_CHARACTERS = 1 << 19  # text that is encoded at once


class Tokenizer:
    """Byte-level BPE.

    tokens: bytes → id, where the id is also the rank by which pairs merge; all 256 single bytes are among them.
    pattern: name or regular expression of the split pattern. special_tokens: text → id.
    May be used by several threads at once.
    """

    def __init__(self, tokens: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int]):
        self.tokens = _by_id(tokens)
        self.pattern = find_pattern(pattern)
        self.special_tokens = _by_id(special_tokens)
        ids = {*self.tokens.values(), *self.special_tokens.values()}
        if len(ids) != len(self.tokens) + len(self.special_tokens):
            raise UserError("two tokens share an id; every token and special token needs one of its own")
        missing = [b for b in range(256) if bytes([b]) not in self.tokens]
        if missing:
            raise UserError(f"the vocabulary lacks the byte {missing[0]:#04x}; all 256 bytes must be tokens")
        last, last_special = _last_id(self.tokens), _last_id(self.special_tokens)
        self.vocab_size: int = max(last, last_special) + 1
        self.dtype = token_dtype(self.vocab_size)
        if last >= ID_LIMIT:
            raise UserError(f"ids of tokens must be below {ID_LIMIT:,}; this vocabulary is larger")
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None  # built when it is first needed
        self._idle_encoders: SimpleQueue[Encoder] = SimpleQueue()

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} ids, pattern {self.pattern.name or self.pattern.regex!r})"

    def __reduce__(self):
        return Tokenizer, (self.tokens, self.pattern.regex, self.special_tokens)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        special = {i: name.encode() for name, i in self.special_tokens.items()}
        return {i: token for token, i in self.tokens.items()} | special

    @property
    def eot_id(self) -> int:
        """Id of `<|endoftext|>`."""
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

        As with tiktoken, "all" disallowed means all that are not allowed; what is neither is encoded as ordinary text.
        Raises `UserError` at a disallowed special token.
        """
        allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        disallowed = set(self.special_tokens) - allowed if disallowed_special == "all" else set(disallowed_special)
        if disallowed and (match := _any_of(disallowed).search(text)):
            raise UserError(
                f"the text contains the special token {match.group()!r}; pass it in allowed_special to encode it as "
                "one, or disallowed_special=() to encode it as text"
            )
        allowed &= set(self.special_tokens)
        if not allowed:
            return self.encode_ordinary(text)
        ids: list[int] = []
        position = 0
        for match in _any_of(allowed).finditer(text):
            if match.start() > position:
                ids += self.encode_ordinary(text[position : match.start()])
            ids.append(self.special_tokens[match.group()])
            position = match.end()
        return ids + self.encode_ordinary(text[position:]) if position < len(text) else ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which special tokens mean nothing."""
        return self.encode_documents(documents_of([text]))[0].tolist()

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """Ids of every text as arrays (uint16 or uint32), special tokens meaning nothing; equal for any `threads`."""
        pieces = _pieces(texts, PIECE_CHARACTERS)
        if threads == 1:
            encoded = map(self._encode_texts, pieces)
        else:
            with ThreadPoolExecutor(threads) as pool:
                encoded = list(pool.map(self._encode_texts, pieces))
        return [ids for piece in encoded for ids in piece]

    def _encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids, ends = self.encode_documents(documents_of(texts))
        ids = ids.copy()  # of the room for the worst case, keep only what was filled
        return [ids[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]

    def encode_documents(self, documents: Documents, closing: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of documents one after the other (uint16 or uint32), and int64[documents], where each ends among them.

        `closing` is an id put after each document.
        """
        encoder = self._borrow_encoder()
        try:
            return encoder.encode(documents.text, documents.offsets, self.dtype, closing)
        finally:
            self._idle_encoders.put(encoder)

    def _borrow_encoder(self) -> Encoder:
        """An encoder that no other thread uses; it remembers the words it has seen."""
        try:
            return self._idle_encoders.get_nowait()
        except Empty:
            with self._lock:
                self._vocabulary = self._vocabulary or Vocabulary(self.tokens)
            return Encoder(self._vocabulary, self.pattern)

    def prepare(self, threads: int = 1) -> None:
        """Build the tables for so many threads now, instead of when text is first encoded."""
        encoders = [self._borrow_encoder() for _ in range(threads)]
        for encoder in encoders:
            self._idle_encoders.put(encoder)

    # ---- decoding

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, for a special token those of its name.

        Raises `UserError` for an id outside the vocabulary.
        """
        try:
            return self._bytes[int(token)]
        except KeyError:
            raise UserError(f"{token} is not an id of this tokenizer (0 to {self.vocab_size - 1})") from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of ids; exactly the text that was encoded."""
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        try:
            return b"".join(map(self._bytes.__getitem__, ids))
        except (KeyError, TypeError):
            return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of a sequence of ids; bytes that are no UTF-8 become U+FFFD, or what `errors` says."""
        return self.decode_bytes(ids).decode(errors=errors)

    def byte_lengths(self) -> np.ndarray:
        """uint32[vocab_size]: bytes of text behind each id; 0 for special tokens and unused ids."""
        lengths = np.zeros(self.vocab_size, np.uint32)
        lengths[list(self.tokens.values())] = [len(token) for token in self.tokens]
        return lengths

    def save(self, path: Path) -> None:
        """Write the tokenizer's files into a folder: ranks.tiktoken, tokenizer.yaml and tokenizer.json."""
        from tokenization.formats import save_tokenizer

        save_tokenizer(self, path)


def _by_id(tokens: Mapping) -> dict:
    """The tokens in the order of their ids."""
    ids = list(tokens.values())
    return dict(tokens if ids == sorted(ids) else sorted(tokens.items(), key=operator.itemgetter(1)))


def _last_id(by_id: dict) -> int:
    return next(reversed(by_id.values()), -1)


def _pieces(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """The texts in order, in runs of about so many characters: small enough to stay in the processor's cache."""
    first = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= characters:
            yield texts[first : i + 1]
            first, size = i + 1, 0
    if first < len(texts):
        yield texts[first:]


def _any_of(names: Collection[str]) -> regex.Pattern:
    # longer names first, so that one that begins with another is found whole
    return regex.compile("|".join(regex.escape(name) for name in sorted(names, key=lambda n: (-len(n), n))))
