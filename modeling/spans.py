"""Hidden spans of a text: the source with sentinels in their places, and the target that has them (T5).

text     Thank you for inviting me to your party last week .
source   Thank you <extra_id_0> me to your party <extra_id_1> week . <|endoftext|>
target   <extra_id_0> for inviting <extra_id_1> last <|endoftext|>
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config.objective import SpanCorruptionConfig

__all__ = ["Spans", "begun", "random_parts"]


class Spans:
    """Hides spans of windows behind sentinels, and makes targets of them (Raffel et al. 2020, section 3.1.4).

    Lengths of spans, and of what is between them, are random parts of fixed sums, so that all sources of a batch have
    one length, and all targets. A window begins with what is not hidden and ends with a span.

    Attributes:
        window: tokens of a window, as many as source and target have room for.
        length: of both.
        end: the end of text.
    """

    def __init__(self, config: SpanCorruptionConfig, context: int, sentinels: Sequence[int], end: int):
        """`sentinels` are ids, at least one for each span of a window."""
        self.window = config.window(context)
        self.length = config.lengths(self.window)
        self.noise, self.spans = config.counts(self.window)
        self.sentinels, self.end = torch.tensor(sentinels), end

    def corrupt(self, windows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The sources [B, S] and targets [B, T] of windows [B, window]; all are int64."""
        rows = len(windows)
        hidden = self.hidden(rows, generator)
        begins = hidden & ~F.pad(hidden[:, :-1], (1, 0))
        sentinels = self.sentinels[(begins.cumsum(dim=1) - 1).clamp(min=0)]
        source = torch.where(begins, sentinels, windows)[begins | ~hidden].view(rows, -1)
        # before each token of a window its sentinel, and of both only those that a target has
        doubled = torch.stack((sentinels, windows), dim=2).flatten(1)
        target = doubled[torch.stack((begins, hidden), dim=2).flatten(1)].view(rows, -1)
        return F.pad(source, (0, 1), value=self.end), F.pad(target, (0, 1), value=self.end)

    def hidden(self, rows: int, generator: torch.Generator) -> Tensor:
        """Which tokens are hidden, bool [rows, window]."""
        shown = random_parts(rows, self.window - self.noise, self.spans, generator)
        noise = random_parts(rows, self.noise, self.spans, generator)
        changes = torch.stack((shown, noise), dim=2).flatten(1).cumsum(dim=1)  # where shown and hidden parts end
        return torch.searchsorted(changes, torch.arange(self.window).expand(rows, -1).contiguous(), right=True) % 2 == 1


def begun(targets: Tensor, begin: int) -> Tensor:
    """What the decoder reads to write targets [B, T]: the token `begin`, and of each the tokens but its last."""
    return F.pad(targets[:, :-1], (1, 0), value=begin)


def random_parts(rows: int, total: int, parts: int, generator: torch.Generator) -> Tensor:
    """Rows of positive numbers with this sum, every such row as probable as the next: int64 [rows, parts]."""
    cuts = torch.rand(rows, total - 1, generator=generator).argsort(dim=1)[:, : parts - 1].sort(dim=1).values + 1
    return torch.diff(F.pad(F.pad(cuts, (1, 0)), (0, 1), value=total), dim=1)
