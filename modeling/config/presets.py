"""Settings by name."""

from __future__ import annotations

from typing import Any

from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig

MODERN_TINY: dict[str, Any] = {"width": 256, "heads": 4, "layers": 4, "context": 256}
FAST_TINY: dict[str, Any] = MODERN_TINY | {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 2**17}
CLASSIC: dict[str, Any] = {
    "activation": "relu", "norm": "layer", "positions": "learned", "qk_norm": False, "bias": True,
    "zero_init": False,
}  # fmt: skip
MODERN: dict[str, Any] = {name: TransformerConfig.model_fields[name].default for name in CLASSIC}
MUON: dict[str, Any] = OptimizerConfig().model_dump(exclude={"lr"})
ADAMW: dict[str, Any] = {"name": "adamw", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "clip": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    # the report's two settings; its cosine schedule is applied here
    "test": {
        "model": CLASSIC | {"width": 8, "context": 4, "heads": 4, "layers": 3, "dropout": 0.1},
        "optimizer": ADAMW | {"lr": 1e-3}, "schedule": {"shape": "cosine"}, "batch": 8, "steps": 5000,
    },
    "chimera": {
        "model": CLASSIC | {"width": 384, "context": 256, "heads": 6, "layers": 6, "dropout": 0.2},
        "optimizer": ADAMW | {"lr": 3e-4}, "schedule": {"shape": "cosine"}, "batch": 64, "steps": 5000,
    },
    # minutes on a laptop, loads in transformers without custom code
    "nano": {"model": MODERN_TINY, "batch": 16, "steps": 200, "evaluate_every": 50, "evaluate_tokens": 32_768},
    # the same with the parts that need custom code to load elsewhere but learn faster
    "nano-fast": {"model": FAST_TINY, "batch": 16, "steps": 300},
    # a few megabytes of text, read several times: what learns it by heart are tables and the head, so these decay, and
    # learn more slowly (modeling/LOG.md)
    "small-data": {
        "model": FAST_TINY, "optimizer": {"embedding_lr": 0.1, "head_lr": 0.005, "embedding_decay": 0.2},
        "ema": 0.985, "batch": 16, "steps": 1300,
    },
    # Radford et al. 2019 as trained by nanoGPT: 491,520 tokens a step
    "gpt2-124m": {
        "model": CLASSIC
        | {"width": 768, "context": 1024, "heads": 12, "layers": 12, "activation": "gelu", "tied": True},
        "optimizer": ADAMW | {"lr": 6e-4}, "schedule": {"shape": "cosine", "warmup": 2000, "final": 0.1},
        "batch": 480, "micro_batch": 12, "steps": 600_000, "evaluate_every": 1000, "checkpoint_every": 1000,
    },
}  # fmt: skip
