"""Where and in which precision to compute, and the environment a training process should be started in."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from textmill.errors import UserError
from textmill.processes import python_environment

# A step frees and allocates the same large blocks again; by default glibc returns them to the kernel each time, and
# page faults were measured as 30 % of a step on CPU. glibc reads this once, before main().
GLIBC_TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 4 << 30,
    "glibc.malloc.trim_threshold": 8 << 30,
    "glibc.malloc.top_pad": 64 << 20,
}


__all__ = ["GPUS", "Compute", "Gpu", "choose", "fast_bf16", "gpu_called", "training_environment"]


@dataclass(frozen=True)
class Gpu:
    """Peak dense bf16 FLOP/s (without sparsity) and memory in bytes from the maker's data sheet; a usual price of an
    hour in dollars (2025)."""

    peak: float
    memory: float
    price: float


GPUS = {
    "A100": Gpu(312e12, 80e9, 1.8),
    "A100-40GB": Gpu(312e12, 40e9, 1.5),
    "H100": Gpu(989e12, 80e9, 3.0),
    "H100-PCIE": Gpu(756e12, 80e9, 2.5),
    "H200": Gpu(989e12, 141e9, 3.8),
    "B200": Gpu(2250e12, 180e9, 5.5),
    "L4": Gpu(121e12, 24e9, 0.8),
    "L40S": Gpu(362e12, 48e9, 1.2),
    "4090": Gpu(165e12, 24e9, 0.5),
}


def gpu_called(name: str) -> Gpu | None:
    """The data sheet of the device that its driver calls `name`, such as "NVIDIA A100-SXM4-40GB"; None if unknown."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    fitting = [known for known in GPUS if words.issuperset(known.split("-"))]
    return GPUS[max(fitting, key=len)] if fitting else None


@dataclass(frozen=True)
class Compute:
    """A device and the dtype of its matrix products."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    @property
    def peak_flops(self) -> float | None:
        """Known peak of the device in FLOP/s, for the share of it that training reaches (MFU)."""
        if self.device.type != "cuda":
            return None
        known = gpu_called(torch.cuda.get_device_name(self.device))
        return known.peak if known else None

    @property
    def peak_memory(self) -> float | None:
        """Most GiB of the GPU's memory that tensors have taken so far."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None


def choose(device: str = "auto", precision: str = "auto", local_rank: int = 0) -> Compute:
    """The device asked for, or the best there is; bf16 where it runs on native instructions.

    Args:
        device: auto, cuda, mps or cpu.
        precision: auto, fp32 or bf16.
        local_rank: which of the machine's GPUs.

    Raises:
        UserError: this machine does not have the device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    elif device not in available:
        raise UserError(f"there is no device {device!r}; use auto, {', '.join(available)}")
    elif not available[device]:
        raise UserError(f"device {device!r} is not available here; use device: auto or cpu")
    if precision == "auto":
        precision = "bf16" if fast_bf16(device) else "fp32"
    place = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    return Compute(place, torch.bfloat16 if precision == "bf16" else torch.float32)


def fast_bf16(device: str) -> bool:
    """Whether bf16 products are native, and so faster than fp32: Ampere or newer; AVX512-BF16 or AMX on a CPU."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    features = torch.cpu.get_capabilities()
    return device == "cpu" and any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))


def training_environment() -> dict[str, str]:
    """The environment of a child that trains: its allocator set for that, which a running process cannot do.

    What this process's environment says of the allocator and of threads stays.
    """
    environment = python_environment()
    if sys.platform == "linux":
        environment.setdefault("GLIBC_TUNABLES", ":".join(f"{name}={value}" for name, value in GLIBC_TUNABLES.items()))
    # Threads that spin for long while they wait take the core from the one they wait for, as soon as anything else
    # runs; threads that sleep at once cost 4 to 10 % on an idle machine (modeling/LOG.md). libgomp's own count is 3e8.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("GOMP_SPINCOUNT", "20000")
    environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    return environment
