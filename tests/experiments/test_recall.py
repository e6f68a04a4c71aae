"""What the experiment on copying over a distance shows its networks, and what it measures."""

from __future__ import annotations

import pytest
import torch

from experiments.catalog import load
from experiments.claims.networks.recall import (
    DISTANCES,
    LETTERS,
    MARK,
    NETWORKS,
    constant_accuracy,
    measure,
    strings_twice,
)
from modeling.cost import network_cost
from modeling.training.objectives import generator_at
from textmill.progress import quiet


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_is_to_be_written_was_read_the_distance_before(distance):
    batch = strings_twice(distance, 20, generator_at(0, 0))
    read = torch.cat((batch.ids, batch.targets[:, -1:]), dim=1)  # the whole window
    places = batch.positions + 1  # of what is to be written
    assert torch.equal(batch.targets, read.gather(1, places))
    assert torch.equal(batch.targets, read.gather(1, places - distance))
    assert batch.targets.shape == (20, distance - 1)
    marks = (batch.ids == MARK).nonzero()
    assert marks.tolist() == [[row, distance - 1] for row in range(20)]  # the network sees where the copy begins
    assert batch.ids.shape[1] <= NETWORKS["gpt"].context


def test_strings_differ_with_the_step_and_letters_are_drawn_alike():
    one, same, other = (strings_twice(128, 50, generator_at(0, step)).targets for step in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    shares = one.flatten().bincount(minlength=LETTERS) / one.numel()
    assert len(shares) == LETTERS
    assert shares.min() > 0.5 / LETTERS
    assert shares.max() < 2 / LETTERS


def test_a_constant_answer_is_right_as_often_as_the_most_frequent_target():
    assert constant_accuracy(torch.tensor([[1, 2, 2], [2, 3, 1]])) == 0.5


def test_networks_have_about_as_many_weights_in_their_blocks():
    weights = {name: network_cost(config, LETTERS + 1).block_parameters for name, config in NETWORKS.items()}
    assert weights.keys() == {"gpt", "lstm", "gru", "mingru"}
    assert max(weights.values()) < 1.05 * min(weights.values())


def test_a_run_measures_every_distance_on_its_way():
    declared = load("recall").quickly()
    settings = {**declared.settled("lstm", {"matrix_lr": 0.02}, 0), "steps": 2}
    measured, again = (measure(settings, 0, quiet) for _ in range(2))
    assert measured == again
    accuracies = {f"accuracy_at_{distance}" for distance in DISTANCES}
    assert measured.figures.keys() == accuracies | {"mean_accuracy", "constant_accuracy", "block_parameters"}
    mean = sum(measured.figures[name] for name in accuracies) / len(DISTANCES)
    assert measured.figures["mean_accuracy"] == pytest.approx(mean)
    assert all(0 <= measured.figures[name] <= 1 for name in accuracies)
    assert 1 / LETTERS < measured.figures["constant_accuracy"] < 3 / LETTERS
    assert [row["step"] for row in measured.curve] == [1, 2]
    assert measured.curve[-1].keys() == accuracies | {"step", "mean_accuracy"}
    assert {contrast.figure for contrast in declared.contrasts} == {"accuracy_at_128"}
