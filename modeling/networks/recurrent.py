"""A recurrent language model: blocks whose cells carry a state from token to token, in place of attention.

Notable: the cells are torch's own (cuDNN's on a GPU), but every gate has matrices of its own, so that each is
initialized, orthogonalized by Muon and counted as the matrix that it is. Recurrent matrices begin orthogonal, and the
gates that keep the state begin open (Jozefowicz et al. 2015). Around a cell is what a transformer has around its
attention: a norm before it, a projection after it that begins at zero, a residual stream; all can be left out.

Shape suffixes as in `transformer`, and

    S  size of a layer's state         I  size of what a cell reads (W)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.functional import squared_relu, to_product_dtype
from modeling.networks.language_model import LanguageModel, ParameterKind, State
from modeling.networks.loss_head import cross_entropy
from modeling.networks.transformer import Norm, at_positions, parameter_kinds

if TYPE_CHECKING:
    from modeling.config.network import RecurrentConfig

__all__ = ["CELLS", "RecurrentModel", "RecurrentState", "linear_scan"]

# Gates of each cell, in the order in which torch stacks their matrices, and those that keep the state where they are
# open: their biases begin at 1, or at -1 where a closed gate keeps it
CELLS: dict[str, tuple[str, ...]] = {
    "rnn": ("candidate",), "gru": ("reset_gate", "update_gate", "candidate"),
    "lstm": ("input_gate", "forget_gate", "candidate", "output_gate"), "mingru": ("update_gate", "candidate"),
}  # fmt: skip
KEEPING_BIASES = {"gru": ("update_gate", 1.0), "lstm": ("forget_gate", 1.0), "mingru": ("update_gate", -1.0)}


class RecurrentState(State):
    """The states of all layers, fp32: of an LSTM two [B, S] for each, of other cells one."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)  # by the number of the layer and the name of the state

    def rows(self, rows: range) -> RecurrentState:
        """A copy of the states of some of the texts."""
        return RecurrentState({name: tensor[rows.start : rows.stop].clone() for name, tensor in self.tensors.items()})

    def put(self, rows: range, state: RecurrentState) -> None:
        """Copy the states of some texts here to these rows."""
        for name, tensor in self.tensors.items():
            tensor[rows.start : rows.stop] = state.tensors[name]

    def forget(self, rows: Tensor) -> None:
        """Of these texts, bool [B] on the CPU, nothing was read yet, in place."""
        if rows.any():
            for tensor in self.tensors.values():
                tensor[rows.to(tensor.device)] = 0

    def of_layer(self, layer: int) -> list[Tensor]:
        """The layer's states, fp32 [B, S]."""
        return [state for name, state in self.tensors.items() if name.startswith(f"{layer}.")]

    def keep(self, layer: int, states: tuple[Tensor, ...]) -> None:
        """Put others in the place of the layer's states; the backward pass goes no further back than to them."""
        for name, state in zip(state_names(len(states)), states, strict=True):
            self.tensors[f"{layer}.{name}"] = state.detach().float()


def state_names(count: int) -> tuple[str, ...]:
    """The names of a layer's states."""
    return ("hidden", "cell")[:count]


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keep_BTS: Tensor, add_BTS: Tensor, state_BS: Tensor) -> Tensor:
        h_BTS = scanned(keep_BTS, add_BTS, state_BS)
        ctx.save_for_backward(keep_BTS, h_BTS, state_BS)
        return h_BTS

    @staticmethod
    def backward(ctx: Any, grad_BTS: Tensor) -> tuple[Tensor, Tensor, None]:
        keep_BTS, h_BTS, state_BS = ctx.saved_tensors
        # the same from the end: what reaches h at t is its own gradient and, through the next, that of all later ones
        later_BTS = F.pad(keep_BTS[:, 1:], (0, 0, 0, 1)).flip(1)
        grad_add_BTS = scanned(later_BTS, grad_BTS.flip(1), torch.zeros_like(state_BS)).flip(1)
        before_BTS = torch.cat((state_BS.unsqueeze(1), h_BTS[:, :-1]), dim=1)
        return grad_add_BTS * before_BTS, grad_add_BTS, None


def scanned(keep_BTS: Tensor, add_BTS: Tensor, state_BS: Tensor) -> Tensor:
    """h[t] = keep[t] * h[t - 1] + add[t] without a gradient; on a CPU one position after the other, elsewhere in
    log2(T) passes over all of them (Hillis & Steele 1986)."""
    if keep_BTS.device.type == "cpu" and not torch.compiler.is_compiling():
        h_BTS = torch.empty_like(add_BTS)
        for t in range(add_BTS.shape[1]):
            state_BS = torch.addcmul(add_BTS[:, t], keep_BTS[:, t], state_BS, out=h_BTS[:, t])
        return h_BTS
    h_BTS = torch.cat((add_BTS[:, :1] + keep_BTS[:, :1] * state_BS.unsqueeze(1), add_BTS[:, 1:]), dim=1)
    reach = 1
    while reach < h_BTS.shape[1]:
        h_BTS = torch.cat((h_BTS[:, :reach], h_BTS[:, reach:] + keep_BTS[:, reach:] * h_BTS[:, :-reach]), dim=1)
        keep_BTS = torch.cat((keep_BTS[:, :reach], keep_BTS[:, reach:] * keep_BTS[:, :-reach]), dim=1)
        reach *= 2
    return h_BTS


def linear_scan(keep_BTS: Tensor, add_BTS: Tensor, state_BS: Tensor) -> Tensor:
    """h[t] = keep[t] * h[t - 1] + add[t] from h[-1] = state, fp32 [B, T, S].

    Products of shares within [0, 1] can only vanish, so that nothing overflows, however long the window is: unlike
    sums of logarithms (Heinsen 2023), it needs no bound on `add`. No gradient reaches `state`.
    """
    return cast("Tensor", _LinearScan.apply(keep_BTS, add_BTS, state_BS))


class Cell(nn.Module):
    """A recurrent layer of torch: Elman (1990), GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997)."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.kind, self.states, self.gates = config.cell, 2 if config.cell == "lstm" else 1, CELLS[config.cell]
        size = config.hidden_units
        self.inputs = nn.ModuleDict({gate: nn.Linear(config.width, size) for gate in self.gates})
        self.recurrent = nn.ModuleDict({gate: nn.Linear(size, size) for gate in self.gates})

    def initialize(self) -> None:
        for gate in self.gates:
            read, carried = cast("nn.Linear", self.inputs[gate]), cast("nn.Linear", self.recurrent[gate])
            nn.init.orthogonal_(carried.weight)
            nn.init.zeros_(carried.bias)
            initialize_gate(read, gate, self.kind)

    def forward(self, x_BTI: Tensor, states: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs [B, T, S], and the states [B, S] after them, in the dtype of what is read: torch's cells compute
        them in it at every position, so that nothing is lost between windows."""
        weights = [
            torch.cat([cast("Tensor", getattr(layers[gate], part)) for gate in self.gates]).to(x_BTI.dtype)
            for part in ("weight", "bias")
            for layers in (self.inputs, self.recurrent)
        ]
        return torch_cell(self.kind, x_BTI, [state.to(x_BTI.dtype).unsqueeze(0) for state in states], weights)


@torch.compiler.disable  # which would write out every position of the window
def torch_cell(
    kind: str, x_BTI: Tensor, states: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer of torch over a window."""
    options = (True, 1, 0.0, torch.is_grad_enabled(), False, True)  # biases, layers, dropout, ..., batch first
    with torch.autocast(x_BTI.device.type, enabled=False):
        match kind:
            case "lstm":
                y_BTS, h, c = torch.lstm(x_BTI, states, weights, *options)
                return y_BTS, (h[0], c[0])
            case "gru":
                y_BTS, h = torch.gru(x_BTI, states[0], weights, *options)
            case _:
                y_BTS, h = torch.rnn_tanh(x_BTI, states[0], weights, *options)
    return y_BTS, (h[0],)


class MinGRU(nn.Module):
    """minGRU (Feng et al. 2024, Were RNNs All We Needed?): gates that do not see the state, so that all positions are
    computed at once. h[t] = (1 - z[t]) h[t - 1] + z[t] g(new[t]), g positive as in the paper."""

    states = 1

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.inputs = nn.ModuleDict({gate: nn.Linear(config.width, config.hidden_units) for gate in CELLS["mingru"]})

    def initialize(self) -> None:
        for gate in CELLS["mingru"]:
            initialize_gate(cast("nn.Linear", self.inputs[gate]), gate, "mingru")

    def forward(self, x_BTI: Tensor, states: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs [B, T, S], and the state [B, S] after them."""
        update_BTS, new_BTS = self.inputs["update_gate"](x_BTI).float(), self.inputs["candidate"](x_BTI).float()
        add_BTS = torch.sigmoid(update_BTS) * torch.where(new_BTS >= 0, new_BTS + 0.5, torch.sigmoid(new_BTS))
        h_BTS = linear_scan(torch.sigmoid(-update_BTS), add_BTS, states[0])
        return h_BTS.to(x_BTI.dtype), (h_BTS[:, -1],)


def initialize_gate(read: nn.Linear, gate: str, cell: str) -> None:
    """Weights of unit gain, and the bias of the gate that keeps the state."""
    bound = math.sqrt(3 / read.in_features)
    nn.init.uniform_(read.weight, -bound, bound)
    keeping, bias = KEEPING_BIASES.get(cell, ("", 0.0))
    nn.init.constant_(read.bias, bias if gate == keeping else 0.0)


class FeedForward(nn.Module):
    """Two linear layers with a squared ReLU between them."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.up = nn.Linear(config.width, config.feed_forward, bias=config.bias)
        self.down = nn.Linear(config.feed_forward, config.width, bias=config.bias)

    def forward(self, x_BTW: Tensor) -> Tensor:
        return self.down(squared_relu(self.up(x_BTW)))


class RecurrentBlock(nn.Module):
    """A cell and a projection of its outputs, and a feed-forward where there is one, each on the normalized stream and
    added to it; norms and sums can be elsewhere, as in `transformer.Block`."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config = config
        norm: type[nn.Module] = nn.Identity if config.norm_place == "none" else Norm
        self.cell_norm = norm(config)
        self.cell = MinGRU(config) if config.cell == "mingru" else Cell(config)
        self.out = nn.Linear(config.hidden_units, config.width, bias=config.bias)
        self.feed_forward = FeedForward(config) if config.feed_forward else None
        if self.feed_forward is not None:
            self.feed_forward_norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTW: Tensor, states: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, T, W] to [B, T, W], and the states of the cell [B, S] after it."""
        is_post = self.config.norm_place == "post"
        y_BTS, states_after = self.cell(x_BTW if is_post else self.cell_norm(x_BTW), states)
        x_BTW = self.joined(x_BTW, self.out(y_BTS), self.cell_norm)
        if self.feed_forward is not None:
            y_BTW = self.feed_forward(x_BTW if is_post else self.feed_forward_norm(x_BTW))
            x_BTW = self.joined(x_BTW, y_BTW, self.feed_forward_norm)
        return x_BTW, states_after

    def joined(self, x_BTW: Tensor, y_BTW: Tensor, norm: nn.Module) -> Tensor:
        """The stream [B, T, W] after a part of the block that made y of it."""
        y_BTW = self.dropout(y_BTW)
        if self.config.residual:
            y_BTW = x_BTW + y_BTW
        return norm(y_BTW) if self.config.norm_place == "post" else y_BTW


class RecurrentModel(LanguageModel):
    """Token ids [B, T] to logits [B, T, V], or straight to a loss; every position sees what is before it."""

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig, vocab_size: int):
        super().__init__()
        self.config, self.vocab_size, self.causal, self.active_layers = config, vocab_size, True, None
        self.embed = nn.Embedding(vocab_size, config.width)
        self.embed_norm = Norm(config) if config.norm == "rms" and config.norm_place != "none" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        blocks = [RecurrentBlock(config) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = Norm(config) if config.norm_place == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        self.initialize()
        if config.tied:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the weights from torch's global generator: matrices of unit gain, recurrent ones orthogonal, projections
        to the stream zero where blocks are to start as the identity; a head near zero."""
        config, blocks = self.config, cast("list[RecurrentBlock]", list(self.blocks))
        nn.init.normal_(self.embed.weight, std=0.02 if config.tied else 1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for block in blocks:
            block.cell.initialize()
            linears = {block.out: config.zero_init}  # and whether its weights begin at zero
            if block.feed_forward is not None:
                linears |= {block.feed_forward.up: False, block.feed_forward.down: config.zero_init}
            for linear, begins_at_zero in linears.items():
                bound = 0.0 if begins_at_zero else math.sqrt(3 / linear.in_features)
                nn.init.uniform_(linear.weight, -bound, bound)
                if config.bias:
                    nn.init.zeros_(linear.bias)

    def hidden(self, ids: Tensor, state: State | None = None, documents: Tensor | None = None) -> Tensor:
        if documents is not None:
            raise ValueError("a recurrent network reads documents one after another; it does not keep them apart")
        carried = cast("RecurrentState", self.initial_state(len(ids)) if state is None else state)
        x_BTW = self.dropout(self.embed_norm(to_product_dtype(self.embed(ids))))
        for layer, block in enumerate(self.blocks):
            if self.is_active(layer):
                x_BTW, states = block(x_BTW, carried.of_layer(layer))
                carried.keep(layer, states)
        return self.norm(x_BTW)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, positions: Tensor | None = None,
        state: State | None = None, documents: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        hidden = self.hidden(ids, state, documents)
        if positions is not None:
            hidden = at_positions(hidden, positions)
        if targets is None:
            return self.logits(hidden)
        return cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap)

    def initial_state(self, batch: int) -> RecurrentState:
        names = state_names(2 if self.config.cell == "lstm" else 1)
        return RecurrentState(
            {
                f"{layer}.{name}": torch.zeros(batch, self.config.hidden_units, device=self.device)
                for layer in range(self.config.layers)
                for name in names
            }
        )

    @property
    def memory_length(self) -> None:
        return None

    def fsdp_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        return parameter_kinds(self)  # of each gate, the matrices that it has of its own
