"""What a merge of byte pair encoding costs as corpus and vocabulary grow: counting everything anew, changing the counts
where a merge changes words, and Textmill's kernel. The text is the source code of the interpreter's own library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments.declaration import Experiment, Figure, Measured, Quick, Slope
from experiments.library import library_text
from experiments.timing import fastest
from textmill.progress import Progress
from tokenization.counting import count_words
from tokenization.kernels.merges import learn_merges
from tokenization.kernels.reference import learn, learn_incrementally
from tokenization.patterns import portable_pattern
from tokenization.text import batches

SIZES = {f"{size} MB": size * 1e6 for size in (0.25, 0.5, 1, 2, 4)}  # bytes of text
MERGES = 2000  # of a vocabulary of 2,256
VOCABULARIES = {f"1 MB, {merges:,} merges": merges for merges in (500, 1000, 4000)} | {"1 MB": MERGES}
NAIVE_MERGES = 6  # each goes over all words, as the others would
CONSTANT = (-0.2, 0.2)  # exponents


def seconds_per_merge(learned: Callable[[int], int], merges: int) -> float:
    """Of an algorithm that makes at most so many merges and says how many it made; a small corpus has fewer."""
    made = learned(merges)  # loads the kernel
    seconds, before = (fastest(partial(learned, n), repeats=3, seconds=0.25)[0] for n in (merges, 0))
    return (seconds - before) / made


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """Microseconds a merge of each algorithm, without what it does once before the first merge."""
    merges = int(settings["merges"])
    words = count_words(batches(library_text(int(settings["bytes"]), seed)), portable_pattern("cl100k"))
    unpacked = words.unpack()
    data, offsets = unpacked.data.tobytes(), unpacked.offsets.tolist()
    counted = {
        data[start:end]: int(count)
        for start, end, count in zip(offsets, offsets[1:], unpacked.counts.tolist(), strict=False)
    }
    algorithms: dict[str, tuple[Callable[[int], int], int]] = {
        "naive": (lambda merges: len(learn(counted, merges)), NAIVE_MERGES),
        "incremental": (lambda merges: len(learn_incrementally(counted, merges)), merges),
        "ours": (lambda merges: len(learn_merges(unpacked, merges)[0]), merges),
    }
    figures = {"distinct_words": float(len(counted))}
    for number, (name, (learned, most)) in enumerate(algorithms.items()):
        progress(number, len(algorithms), unit="algorithms", phase=name)
        figures[f"{name}_us_per_merge"] = 1e6 * seconds_per_merge(learned, most)
    return Measured(figures=figures)


EXPERIMENT = Experiment(
    claim="Counting pairs anew costs a merge time in proportion to the corpus; where counts are changed in place, a "
    "merge costs the same whatever the corpus and the vocabulary.",
    chapter="In-place counts turn linear work per merge into constant work.",
    variants={name: {"bytes": size, "merges": MERGES} for name, size in SIZES.items()}
    | {name: {"bytes": SIZES["1 MB"], "merges": merges} for name, merges in VOCABULARIES.items()},
    measure=measure,
    figure=Figure(name="ours_us_per_merge"),
    contrasts=[
        Slope(over=SIZES, size="corpus", between=(0.8, 1.2), figure="naive_us_per_merge"),
        Slope(over=SIZES, size="corpus", between=CONSTANT, figure="incremental_us_per_merge"),
        Slope(over=SIZES, size="corpus", between=CONSTANT),
        Slope(over=VOCABULARIES, size="number of merges", between=CONSTANT, figure="incremental_us_per_merge"),
        Slope(over=VOCABULARIES, size="number of merges", between=CONSTANT),
    ],
    quick=Quick(variants=["0.25 MB", "0.5 MB", "1 MB"]),
)
