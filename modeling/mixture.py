"""How much of a training is from each source: weights, and limits that no source exceeds.

Shares are those of the weights, or without any those of the sources' tokens. A source that would be seen more often
than its limits allow is seen as often as they do, and the others share what is left, in the same relation (Chung et al.
2023, UniMax, arXiv:2304.09151, do so with equal shares). If all sources are at their limits and tokens are left, the
run is refused: it asks for more than the mixture has.

    >>> mixture = {"a": SourceConfig(weight=1, repeat=2), "b": SourceConfig(weight=1)}
    >>> allocate({"a": 101, "b": 10_001}, mixture, WindowPlan(length=10, extra=1, windows=100))
    {'a': 18, 'b': 82}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from modeling.config.run import SourceConfig
from textmill.errors import UserError

__all__ = ["SourceSeen", "WindowPlan", "allocate", "epoch_windows", "seen_of", "stream_steps"]


class WindowPlan(NamedTuple):
    """What a training reads.

    Attributes:
        length: tokens from one window to the next: those that a window counts for.
        extra: tokens that a window has beyond `length`.
        windows: of the whole run.
    """

    length: int
    extra: int
    windows: int


class SourceSeen(NamedTuple):
    """What a training sees of a source.

    Attributes:
        tokens: that the source has.
        seen: tokens that the model is shown, those that are repeated included.
        epochs: how often it sees each on average.
        share: of all that it is shown.
        asked: the share that its weight asks for; None without weights.
    """

    tokens: int
    seen: int
    epochs: float
    share: float
    asked: float | None = None


def epoch_windows(tokens: int, plan: WindowPlan) -> int:
    """How many windows an epoch of so many tokens has; an offset that changes each epoch takes up to one of them."""
    if tokens < plan.length + plan.extra:
        return 0
    return max(1, (tokens - plan.extra - (plan.length - 1)) // plan.length)


def stream_steps(tokens: int, plan: WindowPlan, rows: int) -> int:
    """How many windows each row of a batch reads one after another in an epoch of so many tokens.

    Raises:
        UserError: fewer than two, so that no row could carry a state from a window to the next.
    """
    windows = epoch_windows(tokens, plan)
    if windows < 2 * rows:
        raise UserError(
            f"a recurrent network carries its state from window to window: {rows} rows need {2 * rows} windows of "
            f"{plan.length} tokens but the train split has {windows}; lower batch or model.context, or give more text"
        )
    return windows // rows


def allocate(sizes: Mapping[str, int], mixture: Mapping[str, SourceConfig], plan: WindowPlan) -> dict[str, int]:
    """How many windows a run takes from each source.

    Args:
        sizes: tokens of each source. One that has too few for a window gives none.
        mixture: the settings of sources; those that are not named have no limit.
        plan: the windows.

    Raises:
        UserError: the limits allow fewer windows than the plan has, or a source that is there has no weight while
            others do.
    """
    weighted = any(source.weight is not None for source in mixture.values())
    limits, shares = {}, {}
    for name, tokens in sorted(sizes.items()):
        source = mixture.get(name, SourceConfig())
        if weighted and source.weight is None:
            raise UserError(f"mixture: {name} has no weight but other sources have: give it one, 0 leaves it out")
        limits[name] = _limit(source, epoch_windows(tokens, plan), plan)
        shares[name] = Fraction(tokens if source.weight is None else source.weight)
    return _filled(limits, shares, plan)


def _limit(source: SourceConfig, epoch: int, plan: WindowPlan) -> int:
    """Most windows of a source."""
    most = plan.windows if epoch else 0
    if source.max_tokens is not None:
        most = min(most, source.max_tokens // plan.length)
    if source.repeat is not None:
        most = min(most, math.floor(Fraction(source.repeat) * epoch))
    return most


def _filled(limits: Mapping[str, int], shares: Mapping[str, Fraction], plan: WindowPlan) -> dict[str, int]:
    """The windows of each source, by shares up to the limits."""
    open_names = [name for name in limits if shares[name] > 0]
    windows = dict.fromkeys(limits, 0)
    left = plan.windows
    while open_names:
        whole = sum(shares[name] for name in open_names)
        full = [name for name in open_names if left * shares[name] >= limits[name] * whole]
        if not full:
            break
        for name in full:
            windows[name] = limits[name]
            left -= limits[name]
        open_names = [name for name in open_names if name not in full]
    if not open_names:
        if left > 0:
            raise _too_much(limits, shares, plan)
        return windows
    whole = sum(shares[name] for name in open_names)
    exact = {name: left * shares[name] / whole for name in open_names}
    windows |= {name: math.floor(share) for name, share in exact.items()}
    rest = left - sum(windows[name] for name in open_names)
    for name in sorted(open_names, key=lambda name: (windows[name] - exact[name], name))[:rest]:
        windows[name] += 1  # the largest remainders
    return windows


def _too_much(limits: Mapping[str, int], shares: Mapping[str, Fraction], plan: WindowPlan) -> UserError:
    available = sum(limit for name, limit in limits.items() if shares[name] > 0)
    return UserError(
        f"the run asks for {plan.windows * plan.length:,} tokens but the mixture has {available * plan.length:,}: "
        f"lower steps or batch to {math.floor(1000 * available / plan.windows) / 10:.1f} % of what they are, or raise "
        f"repeat and max_tokens of {', '.join(name for name in limits if shares[name] > 0)}"
    )


def seen_of(
    sizes: Mapping[str, int], seen: Mapping[str, int], mixture: Mapping[str, SourceConfig]
) -> dict[str, SourceSeen]:
    """What a run sees of each source, those of the mixture that have no token included.

    Args:
        sizes: tokens of each source.
        seen: tokens that are seen of each.
        mixture: the settings of sources.
    """
    whole = max(1, sum(seen.values()))
    weights = {name: source.weight for name, source in mixture.items() if source.weight is not None}
    found = {}
    for name in sorted({*sizes, *mixture}):
        tokens, shown = sizes.get(name, 0), seen.get(name, 0)
        asked = round(weights[name] / sum(weights.values()), 4) if name in weights else None
        found[name] = SourceSeen(tokens, shown, round(shown / max(1, tokens), 4), round(shown / whole, 4), asked)
    return found
