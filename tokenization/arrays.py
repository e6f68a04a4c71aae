"""Token arrays: a corpus as integers in flat files, one `.bin` and one `.idx` for each corpus shard, and `meta.json`.

- `train-00000.bin`: token ids, little-endian uint16 or uint32 (`meta["dtype"]`); every document ends with the
  end-of-text token.
- `train-00000.idx`: uint64, for every document the position in the file just after its last token.
- `train-00000.src`: uint16, for every document the number of its source among the sorted names of the file's sources;
  only where the corpus knows sources.
- `meta.json`: dtype, vocab_size, eot_id, and for every split its tokens, documents, UTF-8 bytes and files.
- `token_bytes.npy`: for every token id how many bytes of text it stands for (0 for special tokens); it turns a loss in
  nats per token into bits per byte.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from textmill.errors import UserError
from textmill.files import atomic_write
from tokenization.config import END_OF_TEXT
from tokenization.kernels.gather import gather, permute

__all__ = [
    "META", "SOURCES_DTYPE", "TOKEN_BYTES", "MappedFile", "TokenArrays", "TokenFile", "shuffled", "token_dtype",
    "write_meta",
]  # fmt: skip

META = "meta.json"
SOURCES_DTYPE = np.dtype("<u2")
TOKEN_BYTES = "token_bytes.npy"
RESIDENT_BYTES = 256 << 20  # mapped pages touched before they are handed back to the kernel's page cache


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest little-endian dtype that holds every id of a vocabulary.

    Example:
        >>> token_dtype(65_536).name, token_dtype(65_537).name
        ('uint16', 'uint32')
    """
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class TokenFile:
    """One shard of token arrays, as `meta.json` lists it.

    Attributes:
        name: of the `.bin`.
        tokens: number of tokens.
        documents: number of documents, or of sentences where the arrays hold pairs of sentences.
        bytes: of UTF-8 that the tokens stand for.
        sha256: of the `.bin`.
        sources: `documents` and `tokens` of each source; empty where the corpus does not know any.
        index_sha256: of the `.idx`; empty where the folder has a manifest beside it, which tells that of every file.
    """

    name: str
    tokens: int
    documents: int
    bytes: int
    sha256: str
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    index_sha256: str = ""

    def listed(self) -> dict[str, Any]:
        """Its entry in `meta.json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("sources", "index_sha256") or value}


def write_meta(path: Path, splits: dict[str, list[TokenFile]], *, vocab_size: int, eot_id: int) -> None:
    """Write `meta.json` for the files of every split; its bytes depend on nothing but the arguments."""
    meta = {
        "format": "textmill-tokens 1",
        "dtype": token_dtype(vocab_size).name,
        "vocab_size": vocab_size,
        "eot_id": eot_id,
        "splits": {
            split: {
                "tokens": sum(file.tokens for file in files),
                "documents": sum(file.documents for file in files),
                "bytes": sum(file.bytes for file in files),
                "files": [file.listed() for file in files],
            }
            for split, files in splits.items()
        },
    }
    atomic_write(path / META, json.dumps(meta, indent=2, sort_keys=True) + "\n")


_Count = Annotated[int, Field(ge=0, le=1 << 48)]  # sums of these fit int64


class _SourceEntry(BaseModel):
    tokens: _Count
    documents: _Count


class _FileEntry(BaseModel):
    name: str = Field(pattern=r"^[^/\x00]+\.bin$")
    tokens: _Count
    documents: _Count
    bytes: _Count
    sha256: str
    sources: dict[str, _SourceEntry] = {}
    index_sha256: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> _FileEntry:
        found = sum(s.tokens for s in self.sources.values()), sum(s.documents for s in self.sources.values())
        if self.sources and found != (self.tokens, self.documents):
            raise ValueError(f"the sources of {self.name} do not add up to its tokens and documents")
        return self


class _SplitEntry(BaseModel):
    tokens: _Count
    documents: _Count
    bytes: _Count
    files: list[_FileEntry]

    @model_validator(mode="after")
    def _adds_up(self) -> _SplitEntry:
        for name in ("tokens", "documents", "bytes"):
            if getattr(self, name) != sum(getattr(file, name) for file in self.files):
                raise ValueError(f"the files do not add up to its {name}")
        return self


class _Meta(BaseModel):
    """What a reader needs of `meta.json`."""

    dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(gt=0, le=1 << 32)
    eot_id: int = Field(ge=0, lt=1 << 32)
    splits: dict[str, _SplitEntry]


def _read_meta(path: Path) -> dict[str, Any]:
    """The content of `meta.json`.

    Raises:
        UserError: it is damaged.
    """
    try:
        meta: dict[str, Any] = json.loads(path.read_bytes())
        _Meta.model_validate(meta)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"{place}: {error.errors()[0]['msg']}" if place else "not an object"
        raise UserError(f"{path} is damaged ({problem}); run pretokenize again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged (it is not JSON); run pretokenize again") from None
    return meta


class MappedFile:
    """A file of integers mapped into memory whose resident pages stay bounded.

    Reading a mapping at random leaves every page it touched in the resident set; after `RESIDENT_BYTES` of reads the
    pages are given back (they stay in the page cache, so reading them again costs a minor fault).

    Args:
        path: the file.
        dtype: of its integers.
        length: how many integers it must hold.

    Raises:
        UserError: the file is missing, or holds another number of integers.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        expected = length * dtype.itemsize
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {expected:,}"
            raise UserError(f"{path} {state}; run pretokenize again")
        self.dtype = dtype
        self.length = length
        self._touched = 0
        self._map, self._values = None, np.empty(0, dtype)
        if length:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._values = np.frombuffer(self._map, dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Copy of the values in [start, stop)."""
        if stop <= start:
            return np.empty(0, self.dtype)
        values = self._values[start:stop].copy()
        self._count_touched(max(values.nbytes, mmap.PAGESIZE))
        return values

    def gather(self, starts: np.ndarray, windows: np.ndarray) -> bool:
        """Fill windows with the values from each of `starts` on.

        Args:
            starts: int64 [windows].
            windows: int64 [windows, length].

        Returns:
            whether all windows lie inside the file; the first that does not, and those after it, are left as they were.
        """
        self._count_touched(max(windows.shape[1] * self.dtype.itemsize, mmap.PAGESIZE) * len(starts))
        return gather(self._values, starts, windows)

    def _count_touched(self, nbytes: int) -> None:
        self._touched += nbytes
        if self._touched > RESIDENT_BYTES:
            self._touched = 0
            if self._map and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)


class TokenArrays:
    """One split of a folder of token arrays, read as one long sequence.

    `len()` is the number of tokens. Nothing is loaded: files are mapped, and the resident memory stays bounded however
    much is read. Instances may be pickled to worker processes.

    Attributes:
        path: the folder.
        split: "train" or "validation".
        meta: what `meta.json` holds.
        dtype: of the files, little-endian uint16 or uint32.
        vocab_size: number of ids.
        eot_id: the end-of-text token.
        documents: number of documents of the split.
        bytes: of UTF-8 that the split stands for.

    Raises:
        UserError: the folder holds no token arrays, lacks the split, or a file is missing or truncated.

    Example:
        >>> arrays = TokenArrays(Path("tokens"), "train")  # doctest: +SKIP
        >>> arrays.windows(np.array([0, 1000]), length=257).shape  # doctest: +SKIP
        (2, 257)
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        self.path = Path(path)
        self.split = split
        meta_path = self.path / META
        if not meta_path.is_file():
            raise UserError(f"{self.path} holds no token arrays ({META} is missing); run pretokenize first")
        self.meta: dict[str, Any] = _read_meta(meta_path)
        if split not in self.meta["splits"]:
            raise UserError(f"{self.path} has no split {split!r}; it has: {', '.join(self.meta['splits']) or 'none'}")
        self.dtype = np.dtype(self.meta["dtype"]).newbyteorder("<")
        self.vocab_size: int = self.meta["vocab_size"]
        self.eot_id: int = self.meta["eot_id"]
        files = self.meta["splits"][split]["files"]
        self.documents: int = self.meta["splits"][split]["documents"]
        self.bytes: int = self.meta["splits"][split]["bytes"]
        # position of each file's first token and document in the split, and the totals
        self._token_starts = np.concatenate([[0], np.cumsum([f["tokens"] for f in files], dtype=np.int64)])
        self._document_starts = np.concatenate([[0], np.cumsum([f["documents"] for f in files], dtype=np.int64)])
        self._tokens = [MappedFile(self.path / f["name"], self.dtype, f["tokens"]) for f in files]
        self._ends = [
            MappedFile((self.path / f["name"]).with_suffix(".idx"), np.dtype("<u8"), f["documents"]) for f in files
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenArrays, (self.path, self.split)

    def __len__(self) -> int:
        return int(self._token_starts[-1])

    def window(self, start: int, length: int) -> np.ndarray:
        """The tokens [start, start + length) of the split, in the dtype of the files; a window may cross shards.

        Raises:
            IndexError: a part of it lies outside the split.
        """
        stop = start + length
        if start < 0 or length < 0 or stop > len(self):
            raise IndexError(f"window [{start}, {stop}) lies outside the {len(self)} tokens of {self.split}")
        first = int(np.searchsorted(self._token_starts, start, side="right")) - 1
        parts = []
        while start < stop:
            offset, end = int(self._token_starts[first]), int(self._token_starts[first + 1])
            parts.append(self._tokens[first].read(start - offset, min(stop, end) - offset))
            start, first = end, first + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, self.dtype)])

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """A batch: int64 [len(starts), length], row i the tokens from starts[i] on.

        Raises:
            IndexError: a part of one lies outside the split.
        """
        starts = np.ascontiguousarray(starts, np.int64)
        batch = np.empty((len(starts), length), np.int64)
        # one file is the common case: it saves looking for the file of each window
        if len(self._tokens) == 1 and self._tokens[0].gather(starts, batch):
            return batch
        files = np.searchsorted(self._token_starts, starts, side="right") - 1
        inside_file = starts + length <= self._token_starts[np.minimum(files + 1, len(self._tokens))]
        inside_file &= (files >= 0) & (length > 0)
        for file in np.unique(files[inside_file]):
            rows = np.flatnonzero(inside_file & (files == file))
            windows = np.empty((len(rows), length), np.int64)
            self._tokens[file].gather(starts[rows] - self._token_starts[file], windows)
            batch[rows] = windows
        for row in np.flatnonzero(~inside_file):  # crossing from one file to the next, or outside, which raises
            batch[row] = self.window(int(starts[row]), length)
        return batch

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document in the dtype of the files, its end-of-text token included.

        Raises:
            IndexError: the split has no such document.
            UserError: the file with the ends of documents is damaged.
        """
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} lies outside the {self.documents} documents of {self.split}")
        file = int(np.searchsorted(self._document_starts, index, side="right")) - 1
        inside = index - int(self._document_starts[file])
        ends = self._ends[file].read(max(inside - 1, 0), inside + 1)
        start, end = int(ends[0]) if inside else 0, int(ends[-1])
        if not start <= end <= self._tokens[file].length:
            raise self._damaged(file, "idx", f"document {inside} has its end before its start, or after the file's")
        return self._tokens[file].read(start, end)

    def document_ends(self) -> np.ndarray:
        """int64 [documents]: the position in the split just after each document's last token.

        Raises:
            UserError: a file is damaged.
        """
        every = [np.empty(0, np.int64)]
        for file, tokens in enumerate(self._tokens):
            ends = self._ends[file].read(0, self._ends[file].length).astype(np.int64)
            if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if len(ends) else 0) != tokens.length:
                raise self._damaged(file, "idx", "the ends of documents do not ascend to the end of the file")
            every.append(ends + self._token_starts[file])
        return np.concatenate(every)

    def _damaged(self, file: int, kind: str, how: str) -> UserError:
        path = (self.path / self.meta["splits"][self.split]["files"][file]["name"]).with_suffix(f".{kind}")
        return UserError(f"{path} is damaged ({how}); run pretokenize again")

    @property
    def knows_sources(self) -> bool:
        """Whether the arrays say which source each document is from."""
        return all(file.get("sources") or not file["documents"] for file in self.meta["splits"][self.split]["files"])

    def source_tokens(self) -> dict[str, int]:
        """How many tokens each source has, by name.

        Raises:
            UserError: the arrays do not know their documents' sources.
        """
        self._check_sources()
        counts: Counter[str] = Counter()
        for file in self.meta["splits"][self.split]["files"]:
            counts.update({name: found["tokens"] for name, found in file.get("sources", {}).items()})
        return dict(sorted(counts.items()))

    def _check_sources(self) -> None:
        if not self.knows_sources:
            raise UserError(f"{self.path} does not say which source a document is from; run pretokenize again")

    def document_sources(self) -> tuple[list[str], np.ndarray]:
        """The names of all sources, sorted, and the number among them of each document's: int64 [documents].

        Raises:
            UserError: the arrays do not know their documents' sources, or a file is damaged.
        """
        self._check_sources()
        files = self.meta["splits"][self.split]["files"]
        names = sorted({name for file in files for name in file.get("sources", ())})
        numbers = [np.empty(0, np.int64)]
        for number, file in enumerate(files):
            mapped = MappedFile((self.path / file["name"]).with_suffix(".src"), SOURCES_DTYPE, file["documents"])
            known = np.array([names.index(name) for name in sorted(file.get("sources", ()))], np.int64)
            found = mapped.read(0, mapped.length)
            if len(found) and found.max() >= len(known):
                raise self._damaged(number, "src", f"{found.max()} is not the number of a source")
            numbers.append(known[found])
        return names, np.concatenate(numbers)

    def differs_from(self, eot_id: int, token_bytes: np.ndarray) -> str:
        """How a tokenizer is not the one that the tokens were made with, in words; empty if nothing shows it.

        Compared are the size of the vocabulary, the end of text, and of each id how many bytes it stands for: another
        tokenizer of the same size hardly has the same.

        Args:
            eot_id: the tokenizer's end of text.
            token_bytes: what `Tokenizer.byte_lengths` gives, [vocab_size].
        """
        if self.vocab_size != len(token_bytes):
            return f"the tokens have a vocabulary of {self.vocab_size} but the tokenizer {len(token_bytes)}"
        if self.eot_id != eot_id:
            return (
                f"documents of the tokens end with token {self.eot_id} but {END_OF_TEXT} of the tokenizer is {eot_id}"
            )
        if not (self.path / TOKEN_BYTES).exists():  # sentences for pairs are written without
            return ""
        [others] = np.nonzero(self.token_bytes != token_bytes)
        if not len(others):
            return ""
        there, here = self.token_bytes[others[0]], token_bytes[others[0]]
        return f"the tokens are of another tokenizer: token {others[0]} stands for {there} bytes there, for {here} here"

    @property
    def token_bytes(self) -> np.ndarray:
        """uint32 [vocab_size]: UTF-8 bytes each token stands for, 0 for special tokens.

        Raises:
            UserError: the file is missing or damaged.
        """
        place = self.path / TOKEN_BYTES
        try:
            lengths: np.ndarray = np.load(place, allow_pickle=False)
            fits = lengths.shape == (self.vocab_size,) and lengths.dtype.kind in "iu"
        except Exception as error:  # NumPy passes on errors of many modules where the header is damaged
            raise UserError(f"{place} is missing or damaged; run pretokenize again") from error
        if not fits:
            raise UserError(f"{place} is not the bytes of each of {self.vocab_size:,} ids; run pretokenize again")
        return lengths


def shuffled(indices: np.ndarray, n: int, seed: int, epoch: int = 0) -> np.ndarray:
    """Where a pseudo-random permutation of range(n) sends each of `indices`: int64, of their shape.

    A pure function of (index, n, seed, epoch): any worker can ask for any part of the order, a run can resume anywhere
    in it, and no permutation of n entries is ever stored. A four-round Feistel network over the smallest even number of
    bits that holds n, repeated while the result lies outside range(n) (cycle walking; Black and Rogaway, "Ciphers with
    Arbitrary Finite Domains", CT-RSA 2002).

    Example:
        >>> order = shuffled(np.arange(1000), n=1000, seed=0)
        >>> sorted(order.tolist()) == list(range(1000))
        True
        >>> int(shuffled(np.array([7]), n=1000, seed=0)[0]) == int(order[7])
        True
    """
    if n < 1:
        raise ValueError("an order needs at least one index")
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence([seed, epoch]).generate_state(4, np.uint64)
    indices = np.asarray(indices, np.int64)
    result = np.empty(indices.size, np.int64)
    permute(indices.ravel(), np.uint64(n), half, keys, result)
    return result.reshape(indices.shape)
