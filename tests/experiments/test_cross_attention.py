"""What the experiment on cross-attention shows its decoders, and what it measures."""

from __future__ import annotations

import torch

from experiments.catalog import load
from experiments.claims.networks.cross_attention import BYTES, END, HIDING, measure, texts, windows, with_others
from modeling.training.objectives import generator_at
from textmill.progress import quiet


def test_a_target_is_what_its_own_source_lacks_and_anothers_source_lacks_another():
    _, held_out = texts(0)
    own = windows(held_out, 20, generator_at(0, 0))
    for source, target in zip(own.sources.ids.tolist(), own.targets.tolist(), strict=True):
        assert bytes(restored(source, target)) in bytes(held_out.tolist())
    other = with_others(own)
    assert torch.equal(other.targets, own.targets)
    assert torch.equal(other.ids, own.ids)
    assert not (other.sources.ids == own.sources.ids).all(dim=1).any()
    assert torch.equal(other.sources.ids.sort(dim=0).values, own.sources.ids.sort(dim=0).values)


def restored(source: list[int], target: list[int]) -> list[int]:
    """The window, with what the target has for each of the sentinels in its place."""
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token > END:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    return [byte for token in source[:-1] for byte in ([token] if token < BYTES else spans[token])]


def test_what_judges_was_not_learned_from():
    learned, held_out = texts(0)
    assert len(held_out) > 100 * HIDING.window
    seen = bytes(learned.tolist())
    chosen = windows(held_out, 50, generator_at(0, 0))
    found = [
        bytes(restored(*pair)) in seen
        for pair in zip(chosen.sources.ids.tolist(), chosen.targets.tolist(), strict=True)
    ]
    assert sum(found) < 5  # libraries repeat themselves a little


def test_a_run_judges_with_its_own_sources_and_with_others():
    declared = load("cross_attention").quickly()
    made = {
        name: measure({**declared.settled(name, {"matrix_lr": 0.02}, 0), "steps": 1}, 0, quiet)
        for name in declared.variants
    }
    assert made["own source"].figures != made["another's source"].figures
    for measured in made.values():
        assert measured.figures.keys() == {"own_source_loss", "other_source_loss"}
        assert measured.curve == [{"step": 1.0, **measured.figures}]
