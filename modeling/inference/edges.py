"""The functions that the feed-forwards of a KAN have learned, to be drawn.

A checkpoint has far too many edges to look at. Shown are those of the first and the last block that matter most: whose
values vary most over the inputs that a text gives them. Of rational functions there are few, so all are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modeling.checkpoint import load_model, load_tokenizer_of
from modeling.networks.functional import activate
from modeling.networks.kan import (
    REACH,
    KANFeedForward,
    KANLayer,
    RationalFeedForward,
    Rationals,
)
from modeling.networks.transformer import GPT

__all__ = ["LearnedFunctions", "learned_functions"]

EDGES = 4  # of a layer, each from another input
POINTS = 81  # of a curve
SPREAD = (0.05, 0.25, 0.75, 0.95)  # quantiles of the inputs


@dataclass(frozen=True)
class LearnedFunctions:
    """Functions over one axis.

    Attributes:
        title: where in the network they are.
        x: where they are evaluated.
        learned: their values, one list a function.
        beside: what to see them beside: the base function alone, with its weight, or what a rational began as.
        spread: quantiles of the inputs that a text gave them: 5, 25, 75 and 95 %.
    """

    title: str
    x: list[float]
    learned: list[list[float]]
    beside: list[float]
    spread: list[float]


@torch.no_grad()
def learned_functions(checkpoint: Path, text: str) -> list[list[LearnedFunctions]]:
    """A row of functions for each layer of the first and the last feed-forward; none if the model is not a KAN.

    Args:
        checkpoint: its folder.
        text: what the model reads, for the inputs of the functions; at most its window of it.

    Raises:
        UserError: the folder is not a checkpoint.
    """
    model, config = load_model(checkpoint)
    if not isinstance(model, GPT):
        return []
    forwards = [
        (f"block {number}", block.feed_forward)
        for number, block in enumerate(model.blocks, 1)
        if isinstance(block.feed_forward, KANFeedForward | RationalFeedForward)
    ]
    shown = dict(forwards[:1] + forwards[-1:])
    if not shown:
        return []
    tokenizer = load_tokenizer_of(checkpoint, config)
    ids = [tokenizer.eot_id, *tokenizer.encode_ordinary(text)][: model.config.context]
    inputs = inputs_of([module for _, module in functions_in(shown)], model, torch.tensor([ids]))
    return [list(row_of(title, module, inputs[module])) for title, module in functions_in(shown)]


def functions_in(forwards: Mapping[str, nn.Module]) -> Iterator[tuple[str, KANLayer | Rationals]]:
    """The parts of feed-forwards that hold functions, in the order in which a position passes through them."""
    for title, forward in forwards.items():
        for name, module in forward.named_children():
            if isinstance(module, KANLayer | Rationals):
                yield f"{title}, {name}", module


def inputs_of(modules: list[KANLayer | Rationals], model: GPT, ids: Tensor) -> dict[nn.Module, Tensor]:
    """What ids [1, T] give each module to read, [T, I]; of a layer of edges where its grid is."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x_NI = arguments[0].flatten(0, -2)
        seen[module] = module.onto_grid(x_NI) if isinstance(module, KANLayer) else x_NI

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    model.hidden(ids)
    for hook in hooks:
        hook.remove()
    return seen


def row_of(title: str, module: KANLayer | Rationals, x_NI: Tensor) -> Iterator[LearnedFunctions]:
    """The strongest edges of a layer, or all functions of rationals."""
    if isinstance(module, Rationals):
        yield rational_functions(title, module, x_NI)
        return
    for place, source in strongest(module, x_NI):
        yield edge_function(f"{title}: {source} → {place}", module, (place, source), x_NI[:, source])


def strongest(layer: KANLayer, x_NI: Tensor) -> list[tuple[int, int]]:
    """Output and input of the edges whose values vary most over the inputs, the strongest first."""
    features_NFI = features(layer, x_NI)
    centered_NFI = features_NFI - features_NFI.mean(0)
    covariance_IFF = torch.einsum("nfi,ngi->ifg", centered_NFI, centered_NFI) / len(x_NI)
    weights_OFI = coefficients(layer)
    variance_OI = (torch.einsum("ofi,ifg->ogi", weights_OFI, covariance_IFF) * weights_OFI).sum(1)
    best, outputs = variance_OI.max(0)  # of each input
    sources = best.argsort(descending=True, stable=True)[:EDGES].tolist()
    return [(int(outputs[source]), source) for source in sources]


def features(layer: KANLayer, x_NI: Tensor) -> Tensor:
    """What the edges weigh, [N, 1 + F, I]: the base function and the basis."""
    return torch.cat((activate(x_NI, layer.activation).unsqueeze(1), layer.basis_values(x_NI)), 1)


def coefficients(layer: KANLayer) -> Tensor:
    """The weights of `features` on all edges, [O, 1 + F, I]."""
    edges_OFI = layer.edges.weight.unflatten(1, (-1, layer.base.in_features))
    return torch.cat((layer.base.weight.unsqueeze(1), edges_OFI), 1)


def edge_function(title: str, layer: KANLayer, edge: tuple[int, int], inputs_N: Tensor) -> LearnedFunctions:
    """The function of an edge, (output, input), over the grid and its inputs."""
    place, source = edge
    spread = inputs_N.quantile(torch.tensor(SPREAD)).tolist()
    x = torch.linspace(min(-REACH, spread[0]), max(REACH, spread[-1]), POINTS)
    values_NF = features(layer, x.unsqueeze(1)).squeeze(2)
    weights_F = coefficients(layer)[place, :, source]
    learned, base = values_NF @ weights_F, values_NF[:, 0] * weights_F[0]
    return LearnedFunctions(title, x.tolist(), [learned.tolist()], base.tolist(), spread)


def rational_functions(title: str, rationals: Rationals, x_NI: Tensor) -> LearnedFunctions:
    """The functions of all groups, over most of their inputs."""
    spread = x_NI.flatten().quantile(torch.tensor(SPREAD)).tolist()
    x = torch.linspace(min(-REACH, spread[0]), max(REACH, spread[-1]), POINTS)
    learned = rationals(x.unsqueeze(1).expand(-1, rationals.groups)).T.tolist()
    beginning = x if rationals.function == "identity" else activate(x, rationals.function)
    return LearnedFunctions(title, x.tolist(), learned, beginning.tolist(), spread)
