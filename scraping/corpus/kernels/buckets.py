"""Which documents that were kept share a bucket with another one.

Plain Python: `dict[bucket, list[document]]`, and the sorted union of the lists of a document's buckets.

The lists are linked: `heads` has the newest entry of each bucket, every entry the one before it. 12 bytes an entry, so
that millions of documents in a dozen buckets each fit into memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import kernel


class Kept(NamedTuple):
    """The documents kept so far, by bucket; documents are numbered in the order in which they were kept."""

    heads: np.ndarray  # int32[buckets]: an entry, or -1
    owners: np.ndarray  # int32[entries]: number of the document
    links: np.ndarray  # int32[entries]: the entry before it in the same bucket, or -1
    documents: np.ndarray  # int64[documents]: what the caller calls them
    sizes: np.ndarray  # int64[2]: how many entries and documents are in use

    @classmethod
    def empty(cls, buckets: int) -> Kept:
        """Of so many buckets, all without documents."""
        entries = np.empty(64, np.int32)
        return cls(
            np.full(buckets, -1, np.int32), entries, entries.copy(), np.empty(4, np.int64), np.zeros(2, np.int64)
        )


def add_document(kept: Kept, buckets: np.ndarray, document: int) -> Kept:
    """Put a document into its buckets, int32[:], where -1 is none; returns `kept`, or a larger copy."""
    entries, documents = kept.sizes.tolist()
    if entries + len(buckets) > len(kept.owners):
        space = np.empty(len(kept.owners) + len(buckets), np.int32)
        kept = kept._replace(owners=np.append(kept.owners, space), links=np.append(kept.links, space))
    if documents == len(kept.documents):
        kept = kept._replace(documents=np.append(kept.documents, np.empty(documents, np.int64)))
    _add(kept, buckets, document)
    return kept


@kernel
def _add(kept, buckets, document):
    entry, number = kept.sizes
    for bucket in buckets:
        if bucket >= 0:
            kept.owners[entry], kept.links[entry] = number, kept.heads[bucket]
            kept.heads[bucket] = entry
            entry += 1
    kept.documents[number] = document
    kept.sizes[0], kept.sizes[1] = entry, number + 1


@kernel
def find_rivals(kept, buckets):
    """Numbers of the documents in any of some buckets, ascending: int32[:]."""
    count = 0
    for bucket in buckets:
        entry = kept.heads[bucket] if bucket >= 0 else np.int32(-1)
        while entry >= 0:
            count += 1
            entry = kept.links[entry]
    found = np.empty(count, np.int32)
    count = 0
    for bucket in buckets:
        entry = kept.heads[bucket] if bucket >= 0 else np.int32(-1)
        while entry >= 0:
            found[count] = kept.owners[entry]
            count += 1
            entry = kept.links[entry]
    found.sort()
    distinct = 0
    for i in range(count):
        if i == 0 or found[i] != found[i - 1]:
            found[distinct] = found[i]
            distinct += 1
    return found[:distinct]
