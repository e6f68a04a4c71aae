"""Cost on paper: what a training run needs and takes, before any GPU is rented.

Formulas: weights of a decoder counted from its matrices; 6 FLOPs a matrix weight and token, and 12 x layers x width x
context a token for attention (Chowdhery et al. 2022, PaLM, appendix B); activations counted as Korthikanti et al. 2022
(section 4.1) do it, one by one as the backward pass needs them, for these blocks with fused attention. Of a KAN the
products are counted as of any layer; its basis functions, as all nonlinearities, are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from modeling.config.network import (
    AttentionConfig,
    EncoderDecoderConfig,
    ModelConfig,
    RationalConfig,
    RecurrentConfig,
    TransformerConfig,
)
from modeling.config.objective import EVALUATED_SPANS, SourceTarget, token_count
from modeling.config.pretrain import PretrainConfig
from modeling.device import GPUS
from modeling.networks.kan import RATIONALS
from modeling.networks.loss_head import SLICE_ELEMENTS
from modeling.networks.recurrent import CELLS
from modeling.networks.transformer import GATE_INPUTS
from textmill.errors import UserError

__all__ = ["Cost", "NetworkCost", "flops_per_token", "network_cost", "recurrent_like", "training_cost"]

USUAL_MFU = 0.40  # nanochat reaches 0.40-0.46 on H100, nanoGPT about 0.3 on A100


@dataclass(frozen=True)
class Cost:
    """What a training run takes.

    Attributes:
        parameters: all weights.
        block_parameters: those in the matrices of the blocks.
        tokens: trained on, in all.
        flops_per_token: forward and backward, through all layers.
        flops: of the run.
        devices: how many GPUs.
        gpu: which, as in `device.GPUS`.
        windows_per_device: in one pass.
        state_memory: bytes a device for weights, gradients and optimizer.
        activation_memory: bytes a device for what the backward pass needs.
        memory: both.
        device_memory: bytes that a device has.
        seconds: of the run.
        dollars: of the run.
    """

    parameters: int
    block_parameters: int
    tokens: int
    flops_per_token: int
    flops: float
    devices: int
    gpu: str
    windows_per_device: int
    state_memory: float
    activation_memory: float
    memory: float
    device_memory: float
    seconds: float
    dollars: float

    @property
    def fits(self) -> bool:
        """Whether a device has memory enough."""
        return self.memory <= 0.9 * self.device_memory  # the rest goes to the context, NCCL and fragments


class NetworkCost(NamedTuple):
    """What a network takes, counted from its configuration.

    Attributes:
        parameters: all weights.
        block_parameters: those in the matrices of the blocks.
        products: those that a token is multiplied by (blocks and head).
        other_flops: FLOPs a token, forward and backward, of what is no product with a weight: attention.
        activations: bytes that the blocks keep of a token for the backward pass, the stream and products in 16 bits.
    """

    parameters: int
    block_parameters: int
    products: int
    other_flops: int
    activations: int

    @property
    def flops(self) -> int:
        """FLOPs of a token, forward and backward."""
        return 6 * self.products + self.other_flops


def network_cost(model: ModelConfig, vocab_size: int, length: int | SourceTarget | None = None) -> NetworkCost:
    """What a network takes in windows of `length` tokens (default: the context); of an encoder-decoder, for each token
    of sources and targets of this length (default: those of a window with the usual spans hidden)."""
    match model:
        case EncoderDecoderConfig():
            spans = EVALUATED_SPANS.lengths(EVALUATED_SPANS.window(model.context))
            return encoder_decoder_cost(model, vocab_size, length if isinstance(length, SourceTarget) else spans)
        case TransformerConfig():
            return transformer_cost(model, vocab_size, length if isinstance(length, int) else model.context)
        case RecurrentConfig():
            return recurrent_cost(model, vocab_size)


def transformer_cost(model: TransformerConfig, vocab_size: int, length: int) -> NetworkCost:
    """`network_cost` of a `GPT`."""
    kv_width = (model.kv_heads or model.heads) * model.head_size
    attention, feed_forward = attention_weights(model), feed_forward_weights(model)
    blocks = model.layers * (attention + feed_forward)
    gated_layers = -(-model.layers // 2) if model.value_embeddings else 0
    blocks += gated_layers * GATE_INPUTS * (model.kv_heads or model.heads)
    embedding = vocab_size * model.width
    total = blocks + embedding * (1 if model.tied else 2)
    if model.positions == "learned":
        total += model.context * model.width
    total += model.layers * (attention_scalars(model) + feed_forward_scalars(model))
    total += (2 * model.layers + 1 if model.norm_place == "pre" else 2 * model.layers) * norm_weights(model)
    total += gated_layers * vocab_size * kv_width
    total += model.bigrams * model.bigram_channels
    if model.smear:
        total += GATE_INPUTS + 1
    if model.x0_skip:
        total += 2 * model.layers
    other_flops = 12 * model.layers * model.width * length
    activations = layer_activations(model)
    if model.value_embeddings:
        activations += kv_width  # on every other layer
    if model.x0_skip:
        activations += 2 * model.width
    return NetworkCost(total, blocks, blocks + embedding, other_flops, model.layers * activations)


def encoder_decoder_cost(model: EncoderDecoderConfig, vocab_size: int, length: SourceTarget) -> NetworkCost:
    """`network_cost` of an `EncoderDecoder`."""
    source, target = length
    attention, feed_forward = attention_weights(model), feed_forward_weights(model)
    encoder, decoder = model.source_layers * (attention + feed_forward), model.layers * (2 * attention + feed_forward)
    blocks, embedding = encoder + decoder, vocab_size * model.width
    total = blocks + embedding * (1 if model.tied else 2)
    if model.positions == "learned":
        total += model.context * model.width
    stacks = model.source_layers + model.layers
    total += (stacks + model.layers) * attention_scalars(model) + stacks * feed_forward_scalars(model)
    total += (2 * stacks + model.layers + (2 if model.norm_place == "pre" else 0)) * norm_weights(model)
    # keys and values that the decoder attends to are made of the source's tokens
    memory = model.layers * 2 * model.width * (model.kv_heads or model.heads) * model.head_size
    products = (encoder + memory) * source + (decoder - memory + embedding) * target
    scores = model.source_layers * source**2 + model.layers * (target**2 + source * target)
    # of a target token what a block keeps, and the norm, query and output of its attention to the source
    kv_width = (model.kv_heads or model.heads) * model.head_size
    seen, seeing = 2 * kv_width, 4 * model.width
    if model.qk_norm:
        seen, seeing = seen + kv_width, seeing + model.width
    kept = layer_activations(model)
    activations = model.source_layers * kept * source + model.layers * (
        (kept + 2 * seeing) * target + 2 * seen * source
    )
    tokens = source + target
    other_flops = 12 * model.width * scores // tokens
    return NetworkCost(total, blocks, products // tokens, other_flops, activations // tokens)


def attention_weights(model: AttentionConfig) -> int:
    """Weights in the matrices of an attention."""
    return 2 * model.width**2 + 2 * model.width * (model.kv_heads or model.heads) * model.head_size


def feed_forward_weights(model: AttentionConfig) -> int:
    """Weights in the matrices of a feed-forward."""
    matrices = 3 if model.activation == "swiglu" else 2
    return matrices * model.feed_forward.features * model.width * model.hidden_units


def attention_scalars(model: AttentionConfig) -> int:
    """Biases of an attention."""
    return 2 * model.width + 2 * (model.kv_heads or model.heads) * model.head_size if model.bias else 0


def feed_forward_scalars(model: AttentionConfig) -> int:
    """Biases of a feed-forward, and coefficients of its rationals."""
    scalars = 0
    if model.bias:
        scalars += (2 if model.activation == "swiglu" else 1) * model.hidden_units + model.width
    if isinstance(model.feed_forward, RationalConfig):
        scalars += 2 * model.feed_forward.groups * sum(len(part) for part in RATIONALS["identity"][:2])
    return scalars


def norm_weights(model: AttentionConfig) -> int:
    """Weights of a norm."""
    has_weights = model.norm == "layer" and model.norm_place != "none"
    return model.width * (2 if model.bias else 1) if has_weights else 0


def layer_activations(model: AttentionConfig) -> int:
    """Bytes that a block keeps of a token."""
    kv_width = (model.kv_heads or model.heads) * model.head_size
    values = (2 if model.norm_place == "none" else 4) * model.width  # what goes into and comes out of both norms
    values += 2 * model.width + 2 * kv_width  # queries, keys, values and the output of attention
    if model.feed_forward.kind == "mlp":
        values += (3 if model.activation == "swiglu" else 2) * model.hidden_units  # before and after the nonlinearity
    else:  # before and after the functions of both layers
        values += (1 + model.feed_forward.features) * (model.width + model.hidden_units)
    if model.qk_norm:
        values += model.width + kv_width
    masks = 2 * model.width if model.dropout else 0
    return 2 * values + masks


def recurrent_like(model: ModelConfig, cell: str) -> RecurrentConfig:
    """The recurrent network with layers, width and context of another, and with states of the size, a multiple of 4, at
    which its blocks have about as many weights."""
    shape = {name: getattr(model, name) for name in ("layers", "width", "context")}
    sizes = [
        RecurrentConfig.model_validate({"kind": "recurrent", "cell": cell, "hidden": hidden} | shape)
        for hidden in range(4, 8 * model.width, 4)
    ]
    weights = block_parameters(model)
    return min(sizes, key=lambda config: abs(block_parameters(config) - weights))


def block_parameters(model: ModelConfig) -> int:
    """Weights in the matrices of the blocks."""
    return network_cost(model, vocab_size=1).block_parameters


def recurrent_cost(model: RecurrentConfig, vocab_size: int) -> NetworkCost:
    """`network_cost` of a `RecurrentModel`. What a cell does with each element of its state is not counted."""
    width, size, gates = model.width, model.hidden_units, len(CELLS[model.cell])
    sees_state = model.cell != "mingru"
    layer = gates * size * (width + (size if sees_state else 0)) + size * width + 2 * width * model.feed_forward
    parts = 2 if model.feed_forward else 1
    blocks, embedding = model.layers * layer, vocab_size * width
    total = blocks + embedding * (1 if model.tied else 2)
    total += model.layers * gates * size * (2 if sees_state else 1)  # biases of the gates
    if model.bias:
        total += model.layers * (parts * width + model.feed_forward)
    if model.norm == "layer" and model.norm_place != "none":
        norms = parts * model.layers + (1 if model.norm_place == "pre" else 0)
        total += norms * width * (2 if model.bias else 1)
    values = (2 * parts + 1) * width + 2 * model.feed_forward  # into and out of each part, and of the norms
    values += (2 * gates + 2) * size if sees_state else (gates + 2) * 2 * size  # what a scan keeps is fp32
    masks = parts * width if model.dropout else 0
    return NetworkCost(total, blocks, blocks + embedding, 0, model.layers * (2 * values + masks))


def flops_per_token(
    model: ModelConfig, vocab_size: int, length: int | SourceTarget | None = None, layers: int | None = None
) -> int:
    """FLOPs of the forward and backward pass, in windows of `length` tokens as `network_cost` has them, through
    `layers` (default: all)."""
    if layers is not None:
        model = model.model_copy(update={"layers": layers})
    return network_cost(model, vocab_size, length).flops


def training_cost(
    config: PretrainConfig, vocab_size: int, gpus: str = "1xH100", mfu: float = USUAL_MFU, price: float | None = None
) -> Cost:
    """What a pretraining run takes.

    Args:
        config: the run.
        vocab_size: of the tokenizer.
        gpus: how many of which.
        mfu: share of their peak that the devices reach (model FLOPs utilization, Chowdhery et al. 2022).
        price: dollars a GPU hour; None for a usual price.

    Raises:
        UserError: the GPUs are not known, or the batch does not divide over them.

    Example:
        >>> training_cost(PretrainConfig(preset="gpt2-124m"), 50_257, "8xA100").parameters
        124439808
    """
    match = re.fullmatch(r"(?:(\d+)x)?(.*)", gpus)
    devices, name = (int(match[1] or 1), match[2].upper()) if match else (0, gpus)
    if name not in GPUS or not devices:
        raise UserError(f"unknown GPUs {gpus!r}; write 8xH100 or the like, with one of {', '.join(GPUS)}")
    if not 0 < mfu <= 1:
        raise UserError(f"mfu is a share of the peak in (0, 1], not {mfu}")
    if config.batch % devices:
        raise UserError(f"batch {config.batch} does not divide over {devices} devices; make it a multiple")
    gpu, model = GPUS[name], config.model
    network = network_cost(model, vocab_size, config.window)
    total, blocks = network.parameters, network.block_parameters
    window = token_count(config.window)
    tokens = config.steps * config.batch * window
    windows = min(config.micro_batch or config.batch, config.batch // devices)
    # fp32 weights and gradients; AdamW keeps two moments of a weight, Muon one for the blocks' matrices
    moments = 2 * total - (blocks if config.optimizer.name == "muon" else 0)
    averages = total if config.ema else 0
    state: float = 4 * (2 * total + moments + averages) + 2 * total  # and a bf16 copy for the products
    if config.parallel == "fsdp":
        state /= devices
    positions = windows * window
    activations = positions * network.activations
    activations += 4 * min(SLICE_ELEMENTS["cuda"], positions * vocab_size)  # a slice of the loss head's logits
    early = config.progressive_steps * config.batch * window  # tokens that only some layers see
    flops = (tokens - early) * network.flops
    flops += early * flops_per_token(model, vocab_size, layers=config.active_layers(0))
    seconds = flops / (devices * gpu.peak * mfu)
    return Cost(
        parameters=total, block_parameters=blocks, tokens=tokens, flops_per_token=network.flops, flops=flops,
        devices=devices, gpu=name, windows_per_device=windows, state_memory=state, activation_memory=activations,
        memory=state + activations, device_memory=gpu.memory, seconds=seconds,
        dollars=seconds / 3600 * devices * (gpu.price if price is None else price),
    )  # fmt: skip
