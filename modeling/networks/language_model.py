"""What every network is to the rest of the project: trainer, checkpoints, generation and evaluation touch this alone.

Nothing that differs between networks is optional, so that nothing is guessed: a network says itself what its parameters
are, which of its parts are sharded, and what it remembers of the tokens it has read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from modeling.networks.loss_head import token_losses

if TYPE_CHECKING:
    from modeling.config.network import NetworkConfig

__all__ = ["LanguageModel", "ParameterKind", "State"]

# "edges": coefficients of a KAN's basis functions; "new": of a head that the checkpoint which is tuned does not have
ParameterKind = Literal["matrix", "edges", "embedding", "head", "gate", "scalar", "new"]


class State:
    """What a network remembers of the tokens it has read, B texts at once; reading more of them changes it in place."""


class LanguageModel(nn.Module, ABC):
    """Token ids [B, T] to logits [B, T, V], or straight to a loss.

    Attributes:
        config: the architecture.
        vocab_size: V, rows of the embedding.
        causal: whether a position sees only itself and what is before it; otherwise it sees the whole window.
        active_layers: how many blocks are in use, which are evenly spaced, the last one among them; None: all. The
            others are the identity.
        embed: embedding of the tokens.
        head: projection to the vocabulary; its weight is that of `embed` where `config.tied`.
    """

    config: NetworkConfig
    vocab_size: int
    causal: bool
    active_layers: int | None
    embed: nn.Embedding
    head: nn.Linear

    @abstractmethod
    def hidden(self, ids: Tensor, state: State | None = None, documents: Tensor | None = None) -> Tensor:
        """Ids [B, T] to the normalized last hidden states [B, T, W], which the head takes.

        Args:
            ids: int64 [B, T].
            state: what was read before these ids, of `initial_state`; they are added to it. None: nothing.
            documents: the number of the document of each id, int64 [B, T]: a position sees nothing of others. None:
                the window is one. Not beside a state.
        """

    @abstractmethod
    def forward(
        self, ids: Tensor, targets: Tensor | None = None, positions: Tensor | None = None,
        state: State | None = None, documents: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            ids: int64 [B, T].
            targets: int64 [B, T], or [B, K] beside `positions`.
            positions: int64 [B, K], the ones to predict at; None for all.
            state: as in `hidden`, like `documents`.
            documents: as in `hidden`.

        Returns:
            Logits [B, T, V] or [B, K, V]; with targets their mean loss in nats instead, a scalar.
        """

    def token_losses(
        self, ids: Tensor, targets: Tensor, documents: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of every target by itself; ids and targets are int64 [B, T], the others as in `hidden`.

        Returns:
            nll: negative log-likelihoods in nats, fp32 [B, T].
            is_argmax: whether the target is the most probable token, bool [B, T].
        """
        hidden_NW = self.hidden(ids, state, documents).flatten(0, 1)
        nll, is_argmax = token_losses(hidden_NW, self.head.weight, targets.flatten(), self.config.softcap)
        return nll.view(targets.shape), is_argmax.view(targets.shape)

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """What the network remembers before it has read anything, for `batch` texts."""

    @property
    @abstractmethod
    def memory_length(self) -> int | None:
        """Most tokens that a state holds; None: any number."""

    @abstractmethod
    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """What each parameter is, in the order and by the names of `named_parameters`: its optimizer, rate and weight
        decay follow from that.

        Raises:
            TypeError: the network does not say it of a parameter.
        """

    @abstractmethod
    def fsdp_blocks(self) -> Sequence[nn.Module]:
        """The parts that are gathered one at a time where each rank holds a part of every parameter."""

    def block_parameters(self) -> int:
        """Weights in the matrices of the blocks, the number by which models are compared."""
        parts = (part for block in self.fsdp_blocks() for part in block.modules())
        return sum(part.weight.numel() for part in parts if isinstance(part, nn.Linear))

    def is_active(self, layer: int) -> bool:
        """Whether a block is in use: `active_layers` of them are, evenly spaced, the last block among them.

        A block whose output projections are still zero is the identity, so that the others may join at any time.
        """
        active, layers = self.active_layers, self.config.layers
        return active is None or (layer + 1) * active // layers > layer * active // layers

    def logits(self, hidden: Tensor) -> Tensor:
        """Capped logits [..., V] of hidden states [..., W]."""
        logits = self.head(hidden)
        softcap = self.config.softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device
