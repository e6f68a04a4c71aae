"""A model on many devices: replicated (DDP) or sharded (FSDP2). The model's own file knows nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modeling.device import Compute
from modeling.networks.language_model import LanguageModel
from modeling.training.distributed import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

__all__ = [
    "allocate_optimizer_state", "is_sharded", "optimizer_state", "parallelized", "set_weights", "synchronize_gradients",
]  # fmt: skip


def parallelized(
    model: LanguageModel, ranks: Ranks, compute: Compute, how: Literal["ddp", "fsdp"], grows: bool = False
) -> nn.Module:
    """The module to call in place of `model`; its parameters stay those of `model`.

    Args:
        model: on the device that trains it.
        ranks: those that train it together.
        compute: device and dtype of the products.
        how: a copy on each rank (DDP, Li et al. 2020), or a part (FSDP2, after Zhao et al. 2023).
        grows: whether some steps leave some blocks out.
    """
    if ranks.world == 1:
        return model
    if how == "ddp":
        devices = [compute.device] if compute.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=grows)
    # imported here: it costs a second that a single process need not wait
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # products are done in the autocast dtype anyway: gathering in it halves the traffic; gradients are summed in fp32
    half = compute.dtype if compute.device.type == "cuda" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    for block in model.fsdp_blocks():
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    if grows:  # the backward pass looks for room that a block gets when it is first gathered
        for sharded_block in cast("list[FSDPModule]", list(model.fsdp_blocks())):
            sharded_block.unshard()
            sharded_block.reshard()
    return model


def synchronize_gradients(module: nn.Module, now: bool) -> None:
    """Set whether the next backward pass exchanges gradients: only the last micro-batch of a step needs to."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = now
    elif is_sharded(module):
        module.set_requires_gradient_sync(now)


def is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether each rank holds a part of every parameter (an FSDPModule, not asked by its slow import)."""
    return hasattr(module, "set_requires_gradient_sync")


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights that are placed as those of the model."""
    for name, value in model.state_dict().items():
        if name in weights:  # a matrix shared by embedding and head may be named once
            value.copy_(weights[name])


def optimizer_state(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State tensors as `<parameter>/<key>`: names that depend on neither the ranks nor the order of groups."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def allocate_optimizer_state(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], shapes: dict[str, tuple[torch.Size, torch.dtype]]
) -> None:
    """Allocate the tensors that `optimizer_state` is to give, by its names, to be filled in."""
    parameters = dict(model.named_parameters())
    owners = {p: (o, group) for o in optimizers for group in o.param_groups for p in group["params"]}
    for path, (shape, dtype) in shapes.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        optimizer, group = owners[parameter]
        if shape == parameter.shape:  # moments are placed as their parameter is
            allocated = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        else:  # a counter: fused steps read it on the device
            allocated = torch.empty(shape, dtype=dtype, device=parameter.device if group.get("fused") else "cpu")
        optimizer.state[parameter][key] = allocated
