"""Whether the embeddings of a small GPT hold directions of meaning. It learns to predict the next word of the library
and the help of the interpreter, and is asked for analogies: `file` is to `files` as `name` is to what?

The words that are nearest to name + files - file (their cosine; vectors are centered, Mu & Viswanath 2018) are the
answers; the words of the question are none of them. Two controls answer the same questions: name + what the other word
of another pair is to `file`, which keeps what all second words have in common but breaks the pairs, and `name` alone,
without any offset (Linzen 2016). A third asks a model that has learned nothing.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick
from experiments.library import library_files
from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.networks.transformer import GPT
from modeling.training.optim import lr_scale, optimizers, set_learning_rates
from textmill.progress import Progress, quiet

WORD = re.compile(r"[A-Za-z]+|[0-9]+|\n|[^\sA-Za-z0-9]")
UNKNOWN, VOCAB_SIZE = 0, 2048
WIDTH, CONTEXT, BATCH = 64, 32, 64
OPTIMIZER = OptimizerConfig(name="adamw", lr=5e-3, beta1=0.9, beta2=0.98)
SCHEDULE = ScheduleConfig(warmup=50, decay=1.0)
LEAST_LETTERS = 3  # of a word that a rule is applied to: "a" is not the singular of "as"
QUESTIONS = 4  # that are asked about each pair, each with another pair as its example
NEAR = 5  # answers among which the right one counts as found

RULES: dict[str, Callable[[str], str]] = {
    "plural": lambda word: word + "s",
    "past": lambda word: word + ("d" if word.endswith("e") else "ed"),
    "gerund": lambda word: word.removesuffix("e") + "ing",
    "capital": str.capitalize,
    "upper": str.upper,
}
OPPOSITES = (
    "add remove, after before, append pop, bottom top, child parent, client server, decode encode, disable enable, "
    "dump load, end start, enter exit, export import, false true, False True, first last, get set, head tail, "
    "high low, in out, input output, left right, lower upper, max min, maximum minimum, new old, next previous, "
    "open close, pack unpack, read write, recv send, source target, stdin stdout"
)
DRAWN = ("True", "line", "return", "int", "first", "error", "open")
COLORS = ("#e2603f", "#4a86c5", "#3f9e78", "#b58a1b", "#9467bd", "#c2559a", "#6f9fd0")


@dataclass(frozen=True)
class Text:
    """The text to learn from.

    Attributes:
        ids: of its words, int64 [words].
        words: the vocabulary by id; the first stands for all others.
    """

    ids: torch.Tensor
    words: list[str]


@cache
def text() -> Text:
    """All modules of the library, and the help on the language."""
    from pydoc_data.topics import topics

    sources = [path.read_text("utf-8", errors="replace") for path in library_files()]
    found = [word for source in (*sources, *topics.values()) for word in WORD.findall(source)]
    words = ["", *(word for word, _ in Counter(found).most_common(VOCAB_SIZE - 1))]
    numbers = {word: number for number, word in enumerate(words)}
    return Text(torch.tensor([numbers.get(word, UNKNOWN) for word in found]), words)


def trained(steps: int, seed: int, progress: Progress = quiet) -> np.ndarray:
    """Embeddings [words, WIDTH] of a GPT of one layer after so many steps."""
    ids = text().ids
    config = TransformerConfig(layers=1, width=WIDTH, heads=4, context=CONTEXT, tied=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config, VOCAB_SIZE)
    generator = torch.Generator().manual_seed(seed)
    chosen = optimizers(model, OPTIMIZER, torch.float32)
    for step in range(steps):
        set_learning_rates(chosen, lr_scale(SCHEDULE, step, steps))
        starts = torch.randint(len(ids) - CONTEXT, (BATCH, 1), generator=generator)
        windows = ids[starts + torch.arange(CONTEXT + 1)]
        model(windows[:, :-1], windows[:, 1:]).backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            progress(step, steps, unit="steps", phase="training")
    return model.embed.weight.detach().numpy()


@cache
def vectors(steps: int, seed: int) -> np.ndarray:
    """Embeddings of length 1, centered; the variants of a seed share them."""
    embeddings = trained(steps, seed)
    centered = embeddings - embeddings[1:].mean(0)
    return np.asarray(centered / np.linalg.norm(centered, axis=1, keepdims=True), np.float64)


def relations(words: list[str]) -> dict[str, np.ndarray]:
    """Pairs of words that are related alike, as ids [pairs, 2]: by rules of spelling, and opposites."""
    ids = {word: number for number, word in enumerate(words) if number != UNKNOWN}
    listed = [pair.split() for pair in OPPOSITES.split(", ")]
    pairs = {"opposite": [(ids[left], ids[right]) for left, right in listed if left in ids and right in ids]}
    for name, rule in RULES.items():
        simple = [word for word in ids if len(word) >= LEAST_LETTERS and word.isalpha() and word.islower()]
        pairs[name] = [(ids[word], ids[rule(word)]) for word in simple if rule(word) in ids]
    return {name: np.array(found) for name, found in pairs.items()}


def ranks(unit: np.ndarray, pairs: np.ndarray, method: str, generator: np.random.Generator) -> np.ndarray:
    """The place of the right word among all answers, from 1, for `QUESTIONS` about each pair.

    Args:
        unit: vectors [words, W] of length 1.
        pairs: ids [pairs, 2], three or more.
        method: "pairs" adds the offset of another pair, "shuffled" that of words of two others, "none" none.
        generator: draws the other pairs; all methods are asked the same.
    """
    count = len(pairs)
    asked = np.tile(np.arange(count), QUESTIONS)
    other = (asked + generator.integers(1, count, len(asked))) % count
    third = (other + generator.integers(1, count, len(asked))) % count
    third = np.where(third == asked, (third + 1) % count, third)
    third = np.where(third == other, (third + 1) % count, third)
    (start, right), (from_word, to_word), stranger = pairs[asked].T, pairs[other].T, pairs[third, 1]
    offset = {
        "pairs": unit[to_word] - unit[from_word],
        "shuffled": unit[stranger] - unit[from_word],
        "none": np.zeros_like(unit[start]),
    }[method]
    cosines = (unit[start] + offset) @ unit.T
    found = cosines[np.arange(len(asked)), right].copy()
    for excluded in (np.zeros_like(start), start, from_word, to_word, stranger):
        rows = np.flatnonzero(excluded != right)
        cosines[rows, excluded[rows]] = -np.inf
    return 1 + (cosines > found[:, None]).sum(1)


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """How far down the right words are, by the mean over relations; and a picture of some neighborhoods."""
    steps, method = int(settings["steps"]), settings["offset"]
    progress(0, 1, unit="models", phase="training")
    unit, words = vectors(steps, seed), text().words
    figures: dict[str, float] = {}
    for name, pairs in relations(words).items():
        places = ranks(unit, pairs, method, np.random.default_rng(seed))
        figures[f"{name}_pairs"] = float(len(pairs))
        figures[f"{name}_log10_rank"] = float(np.log10(places).mean())
        figures[f"{name}_found"] = float((places <= NEAR).mean())
    names = ["opposite", *RULES]
    for figure in ("log10_rank", "found"):
        figures[figure] = float(np.mean([figures[f"{name}_{figure}"] for name in names]))
    pictures = {"Words and their nearest": neighborhoods(unit, words)} if method == "pairs" else {}
    return Measured(figures=figures, pictures=pictures)


def neighborhoods(unit: np.ndarray, words: list[str]) -> str:
    """An SVG of `DRAWN` words, each with its nearest in its color, in the plane of their principal directions. A word
    that is near to several is drawn once."""
    group_of: dict[int, int] = {}
    for group, word in enumerate(DRAWN):
        cosines = unit @ unit[words.index(word)]
        cosines[UNKNOWN] = -np.inf
        for near in np.argsort(-cosines, kind="stable")[: 1 + NEAR].tolist():
            group_of.setdefault(near, group)
    shown = unit[list(group_of)]
    centered = shown - shown.mean(0)
    directions = np.linalg.svd(centered, full_matrices=False)[2][:2]
    directions *= np.sign(directions[np.arange(2), np.abs(directions).argmax(1)])[:, None]  # not as the solver likes
    places = centered @ directions.T
    low, high = places.min(0), places.max(0)
    spots = (40, 20) + (places - low) / (high - low) * (440, 280)
    lines = []
    for (word_id, group), (x, y) in zip(group_of.items(), spots, strict=True):
        weight = "bold" if words[word_id] in DRAWN else "normal"
        label = html.escape(words[word_id].replace("\n", "↵"))
        lines.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{COLORS[group]}" font-weight="{weight}" '
            f'text-anchor="middle">{label}</text>'
        )
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 320" width="520" font-family="sans-serif" '
    return head + 'font-size="10">' + "".join(lines) + "</svg>"


EXPERIMENT = Experiment(
    claim="In the embeddings of a small GPT the offset of one pair of related words leads nearer to the partner of "
    "another word than no offset, than the offset of words that are no pair, and than it does in an untrained model.",
    chapter="Embeddings hold directions of meaning.",
    settings={"steps": 1000},
    variants={
        "offset of a pair": {"offset": "pairs"},
        "offset of no pair": {"offset": "shuffled"},
        "no offset": {"offset": "none"},
        "offset of a pair, untrained": {"offset": "pairs", "steps": 0},
    },
    measure=measure,
    figure=Figure(name="log10_rank"),
    contrasts=[
        Better(better="offset of a pair", than="no offset"),
        Better(better="offset of a pair", than="offset of no pair"),
        Better(better="offset of a pair", than="offset of a pair, untrained"),
    ],
    seeds=5,
    published=[
        Published(
            source="Mikolov, Yih & Zweig 2013, 'Linguistic Regularities in Continuous Space Word Representations'",
            says="Offsets between vectors of a recurrent language model answer almost 40 % of syntactic analogies.",
            ours=[Better(better="offset of a pair", than="no offset")],
        ),
        Published(
            source="Linzen 2016, 'Issues in evaluating semantic spaces using word analogies' (1606.07736)",
            says="Such scores mix consistent offsets with mere neighborhoods of words.",
        ),
    ],
    quick=Quick(settings={"steps": 100}),
)
