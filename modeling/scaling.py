"""One dial: a model's depth decides everything else of a compute-optimal run.

Sources: width = 64 x depth and rates that fall with the square root of width: nanochat (A. Karpathy, 2025). Tokens:
Hoffmann et al. 2022 (20 a parameter). Batch size ~ tokens^0.383 and weight decay so that lr x decay x steps stays
constant: Bergsma et al. 2025, "Power Lines".
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["derive"]

TOKENS_PER_PARAMETER = 20
REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**18  # tokens a step that suit depth 12
TOKENS_PER_PASS = 2**15  # tokens at once: enough to keep a GPU busy, and little enough for its memory


def block_parameters(depth: int) -> int:
    """Weights in the matrices of the blocks at this depth: 12 x width^2 a layer."""
    return 12 * depth * (64 * depth) ** 2


def derive(depth: int) -> dict[str, Any]:
    """Settings of `PretrainConfig` for a depth, as nested keys."""
    width = 64 * depth
    head_size = 64 if depth < REFERENCE_DEPTH or depth % 2 else 128
    context = min(2048, max(256, 2 ** (5 + (depth + 1) // 2)))
    tokens = TOKENS_PER_PARAMETER * block_parameters(depth)
    tokens_relative = tokens / (TOKENS_PER_PARAMETER * block_parameters(REFERENCE_DEPTH))
    batch = 2 ** round_log2(REFERENCE_BATCH * tokens_relative**0.383 / context)
    batch_relative = batch * context / REFERENCE_BATCH
    steps = max(1, round(tokens / (batch * context)))
    rate = batch_relative**0.5
    by_width = (width / 768) ** -0.5
    return {
        "model": {"layers": depth, "width": width, "heads": width // head_size, "context": context},
        "batch": batch,
        "micro_batch": min(batch, max(1, TOKENS_PER_PASS // context)),
        "steps": steps,
        "optimizer": {
            "matrix_lr": rounded(0.02 * rate),
            "embedding_lr": rounded(0.3 * rate * by_width),
            "head_lr": rounded(0.008 * rate * by_width),
            "weight_decay": rounded(0.2 * rate / tokens_relative),
        },
        "schedule": {"shape": "wsd", "decay": 0.5},
        "evaluate_every": max(1, steps // 20),
        "checkpoint_every": max(1, min(1000, steps // 20)),
    }


def round_log2(value: float) -> int:
    """Logarithm of the power of two that is nearest to a value, on a scale of powers; never below 0."""
    return max(0, round(math.log2(value)))


def rounded(value: float) -> float:
    """To three digits: people read derived values."""
    return float(f"{value:.3g}")
