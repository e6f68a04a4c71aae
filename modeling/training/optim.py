"""Optimizers and schedules: Muon for the matrices of the blocks, AdamW (Loshchilov & Hutter 2019) for the rest.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, so that all its directions
advance equally. Here matrices of one shape go through the iteration together, with the coefficients of Polar Express
(Amsel et al. 2025), which converge in fewer rounds than the original quintic.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard, get_args

import torch
from torch import Tensor, nn

from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.networks.language_model import LanguageModel, ParameterKind

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["Muon", "is_dtensor", "lr_scale", "main_learning_rate", "optimizers", "orthogonalized", "set_learning_rates"]

# (a, b, c) of x <- a x + b (x x^T) x + c (x x^T)^2 x, for singular values in [1e-3, 1], with a safety factor of 1.02
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
MUON_ROUNDS = 5


def orthogonalized(matrices: Tensor, rounds: int = MUON_ROUNDS) -> Tensor:
    """About U V^T for each matrix U S V^T: singular values end near 1.

    Args:
        matrices: [N, R, C], of any float dtype; bf16 will do.
        rounds: of the iteration, at most those of `POLAR_EXPRESS`.

    Returns:
        [N, R, C], in the dtype of the matrices.
    """
    x = matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:rounds]:
        # sums inside the products: fewer passes, and one rounding less in half precision
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters, iterating in `dtype`; sharded ones (DTensor) are gathered for it.

    The step's length is lr x sqrt(max(1, rows / columns)), so that wide and tall matrices change outputs alike.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, dtype: torch.dtype):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; a `closure` is not called."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    shapes.setdefault(param.shape, []).append(param)
            for shape, params in shapes.items():
                directions = torch.stack([self._direction(p, group["momentum"]) for p in params])
                updates = orthogonalized(directions.to(self.dtype))
                length = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for param, update in zip(params, updates, strict=True):
                    if is_dtensor(param):
                        # imported here: it costs a second that a single process need not wait
                        from torch.distributed.tensor import distribute_tensor

                        update = distribute_tensor(update.float(), param.device_mesh, param.placements)
                    param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-length)

    def _direction(self, param: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum; the gradient must exist."""
        grad, state = param.grad, self.state[param]
        assert grad is not None
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - momentum)
        direction = grad.lerp(state["momentum"], momentum)
        return direction.full_tensor() if is_dtensor(direction) else direction


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this rank holds a part of the tensor (DTensor, not asked by its slow import)."""
    return hasattr(tensor, "placements")


def optimizers(model: LanguageModel, config: OptimizerConfig, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Optimizers that together hold every parameter once; each group keeps its rate before scaling in `base_lr`.

    Args:
        model: what kind each parameter is decides its rate.
        config: which optimizer, with which rates.
        dtype: that of the run's matrix products.
    """
    parameters, kinds = dict(model.named_parameters()), model.parameter_kinds()
    betas = (config.beta1, config.beta2)
    chosen: list[torch.optim.Optimizer]
    groups: list[dict[str, Any]]
    fused = all(p.device.type in ("cuda", "cpu") for p in parameters.values())
    split: dict[str, list[nn.Parameter]] = {
        kind: [parameter for name, parameter in parameters.items() if kinds[name] == kind]
        for kind in get_args(ParameterKind)
    }
    new = {"params": split["new"], "lr": config.new_lr}
    if config.name == "adamw":
        decayed = [p for name, p in parameters.items() if kinds[name] not in ("scalar", "new", "edges")]
        edges_lr = config.lr * model.config.edges_rate
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": split["edges"], "weight_decay": config.weight_decay, "lr": edges_lr},
            {"params": split["scalar"]},
            new,
        ]
        groups = [group for group in groups if group["params"]]
        chosen = [torch.optim.AdamW(groups, lr=config.lr, betas=betas, weight_decay=0.0, fused=fused)]
    else:
        groups = [
            {"params": split["embedding"], "lr": config.embedding_lr, "weight_decay": config.embedding_decay},
            {"params": split["head"], "lr": config.head_lr, "weight_decay": config.embedding_decay},
            {"params": split["scalar"] + split["gate"], "lr": config.scalar_lr},
            new,
        ]
        groups = [group for group in groups if group["params"]]
        # edges are a matrix too: a KAN's layer is linear in the values of its basis
        matrices = [p for name, p in parameters.items() if kinds[name] in ("matrix", "edges")]
        chosen = [
            torch.optim.AdamW(groups, betas=betas, eps=1e-10, weight_decay=0.0, fused=fused),
            Muon(matrices, config.matrix_lr, config.momentum, config.weight_decay, dtype),
        ]
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return chosen


def main_learning_rate(config: OptimizerConfig) -> float:
    """The learning rate that stands for all of them in logs, before the schedule scales it.

    It is that of the matrices of the blocks: Muon's `matrix_lr`, or AdamW's `lr` where AdamW is alone.
    """
    return config.matrix_lr if config.name == "muon" else config.lr


def lr_scale(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """What every learning rate is multiplied by at `step` (0-based) of `steps`.

    Shapes: cosine (Loshchilov & Hutter 2017), wsd (warm-up, stable, decay: Hu et al. 2024, MiniCPM), constant.
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, steps - schedule.warmup)  # in [0, 1)
    match schedule.shape:
        case "cosine":
            scale = 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            scale = min(1.0, (1 - done) / schedule.decay) if schedule.decay else 1.0
        case "constant":
            return 1.0
    return schedule.final + (1 - schedule.final) * scale


def set_learning_rates(chosen: list[torch.optim.Optimizer], scale: float) -> None:
    """Set every group to its base rate times `scale` (of `lr_scale`)."""
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
