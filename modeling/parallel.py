"""A model on many devices: replicated (DDP) or sharded (FSDP2). The model file knows nothing of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from modeling.device import Compute
from modeling.distributed import Ranks
from modeling.model import GPT


def parallelized(model: GPT, ranks: Ranks, compute: Compute, how: Literal["ddp", "fsdp"]) -> nn.Module:
    """The module to call in place of `model`; whose parameters stay those of `model`."""
    if ranks.world == 1:
        return model
    if how == "ddp":
        devices = [compute.device] if compute.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    # products are done in the autocast dtype anyway; gathering in it halves the traffic
    policy = MixedPrecisionPolicy(param_dtype=compute.dtype if compute.device.type == "cuda" else None)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    return model


def synchronize_gradients(module: nn.Module, now: bool) -> None:
    """Whether the next backward pass exchanges gradients: only the last micro-batch of a step needs to."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = now
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all ranks if it is sharded (all ranks must call)."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).to("cpu", copy=True)


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the CPU, moved or sharded as `like` is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def gathered_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(value) for name, value in model.state_dict().items()}


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        value.copy_(placed_like(weights[name], value))


def gathered_optimizer_state(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State tensors as `<parameter>/<key>`: the same whatever the ranks and the order of groups."""
    state = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"{name}/{key}"] = whole(value)
    return state


def set_optimizer_state(model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    owners = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for path, value in state.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:  # moments follow their parameter, counters stay on the CPU
            value = placed_like(value, parameter)
        owners[parameter].state[parameter][key] = value
