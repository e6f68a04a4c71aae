"""Where a stage stands while it works: a bar on a terminal, log lines elsewhere, a live page, gauges."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flows.service.watching.markdown import picture, plain, table
from textmill.errors import first_line
from textmill.progress import Clock

LOG_SECONDS = 15.0
CURVE_POINTS = 240
BAR_CHARACTERS = 30
COLORS = ("#4c78a8", "#c23b22")  # of the training loss, of the validation loss

Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Standing:
    """What a stage said last.

    Attributes:
        rate: of its work in this phase, in units a second; 0 while it cannot be known.
    """

    done: float = 0.0
    total: float | None = None
    unit: str = ""
    phase: str = ""
    metrics: Mapping[str, object] = field(default_factory=dict)
    rate: float = 0.0

    @property
    def count(self) -> str:
        """How much is done, e.g. "120/300 steps"."""
        total = f"/{self.total:,.0f}" if self.total else ""
        return f"{self.done:,.0f}{total}" + (f" {self.unit}" if self.unit else "")

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def left(self) -> str:
        """The time that the rest will take."""
        if not self.total or not self.rate:
            return ""
        return f"{duration((self.total - self.done) / self.rate)} left"

    @property
    def speed(self) -> str:
        return f"{shown(self.rate)} {self.unit}/s" if self.rate else ""

    def line(self) -> str:
        """All of it in one line."""
        metrics = [f"{name.replace('_', ' ')} {text}" for name, text in self.texts().items()]
        return " · ".join(filter(None, [self.phase, self.count, *metrics, self.left]))

    def texts(self) -> dict[str, str]:
        """The metrics for people; those that say nothing are left out."""
        return {name: text for name, value in self.metrics.items() if (text := shown(value))}


class StageProgress:
    """The `textmill.progress.Progress` of a stage.

    Args:
        title: of the stage.
        logger: of its run.
        clock: which the work waits by.
        logs: whether the log is told every 15 seconds; a terminal with bars needs no such lines.
        figures: called with every figure that the stage tells.
    """

    def __init__(
        self,
        title: str,
        logger: Logger,
        clock: Clock | None = None,
        *,
        logs: bool = True,
        figures: Callable[[Mapping[str, object]], None] | None = None,
    ) -> None:
        self.title, self.logger, self.logs, self.figures = title, logger, logs, figures
        self.clock = clock or Clock()
        self.started = datetime.now(UTC)
        self.standing = Standing()
        # Both are there from the start: the watch draws them while the work adds to them.
        self.curves: dict[str, list[tuple[float, float]]] = {"loss": [], "validation_loss": []}
        self._logged = time.monotonic()
        self._phase_began = (0.0, 0.0)  # what was done then, and seconds on the clock

    def __call__(
        self, done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
    ) -> None:
        self.clock.check()
        self.standing = Standing(done, total, unit, phase, metrics, self._rate(done, phase))
        self._keep_losses(done, metrics)
        if self.figures:
            self.figures({"done": done, "total": total, **metrics})
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            if self.logs:
                self.logger.info("%s", self.standing.line())

    def _rate(self, done: float, phase: str) -> float:
        """Units a second of this phase, from its first report on: what an interrupted build had done is not counted."""
        seconds = self.clock.seconds
        if phase != self.standing.phase or not self.standing.unit or done < self._phase_began[0]:
            self._phase_began = done, seconds
        before, since = self._phase_began
        return (done - before) / (seconds - since) if seconds - since > 0.5 else 0.0

    def _keep_losses(self, done: float, metrics: Mapping[str, object]) -> None:
        for name, curve in self.curves.items():
            if isinstance(value := metrics.get(name), int | float):
                if not curve or done > curve[-1][0]:
                    curve.append((done, float(value)))
                if len(curve) > CURVE_POINTS:
                    del curve[1:-1:2]

    # -- shown -----------------------------------------------------------------------------------------------------

    @property
    def share(self) -> float | None:
        return self.standing.share

    @property
    def now(self) -> str:
        """What it does at the moment, in one line."""
        if waits_for := self.clock.waits_for:
            return f"waiting for {waits_for} ({duration(self.clock.waiting_seconds)})"
        return self.standing.line() if self.standing.unit else "working"

    def page(self) -> str:
        """Its live page."""
        return "\n".join(self._page(self.now))

    def ended_page(self, error: BaseException) -> str:
        """The page of a build that did not end well: how far it came."""
        return "\n".join(self._page(f"stopped: {first_line(error)}"))

    def _page(self, now: str) -> list[str]:
        standing = self.standing
        share = standing.share
        lines = [f"{plain(now)}\n"]
        if share is not None:
            filled = round(BAR_CHARACTERS * share)
            lines.append(f"{'█' * filled}{'░' * (BAR_CHARACTERS - filled)} {100 * share:.0f} %\n")
        if len(self.curves["loss"]) > 1:
            lines.append(picture("Loss so far", curve_svg(self.curves)))
        rows = [
            ("done", plain(standing.count) if standing.unit else ""),
            ("rate", plain(standing.speed)),
            ("time left", standing.left.removesuffix(" left")),
            *((plain(name.replace("_", " ")), plain(text)) for name, text in standing.texts().items()),
            ("worked", duration(self.clock.seconds)),
            ("started", f"{self.started:%Y-%m-%d %H:%M:%S} UTC"),
            ("as of", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"),
        ]
        return [*lines, *table(("figure", "now"), [row for row in rows if row[1]])]


def curve_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Curves over the steps as a small SVG element, each with its name and its last value; empty ones are left out."""
    curves = {name: list(curve) for name, curve in curves.items() if curve}  # as of now: the work goes on
    width, height, right, margin = 640, 200, 170, 24
    points = [point for curve in curves.values() for point in curve]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / ((last - first) or 1)
        up = (y - low) / ((high - low) or 1)
        return margin + across * (width - right - margin), height - margin - up * (height - 2 * margin)

    drawn, labels = [], []
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        line = " ".join(f"{across:.1f},{up:.1f}" for across, up in (at(x, y) for x, y in curve))
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        across, up = at(*curve[-1])
        drawn.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{color}"/>')
        labels.append((up, color, f"{name.replace('_', ' ')} {curve[-1][1]:.4g}"))
    for number, (up, color, text) in enumerate(sorted(labels)):
        apart = max(up, sorted(labels)[number - 1][0] + 14) if number else up
        drawn.append(f'<text x="{width - right + 8}" y="{apart + 4:.1f}" fill="{color}">{text}</text>')
    gray = 'fill="#888"'
    drawn += [
        f'<text x="{margin}" y="14" {gray}>{high:.4g}</text>',
        f'<text x="{margin}" y="{height - 6}" {gray}>{low:.4g} · step {first:,.0f} to {last:,.0f}</text>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'{head} font-family="sans-serif" font-size="12">{"".join(drawn)}</svg>'


def duration(seconds: float) -> str:
    """As minutes:seconds, with hours in front where there are some."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(value: object) -> str:
    """A metric for people: rounded numbers, the greatest three of counts; empty where there is nothing to say."""
    match value:
        case bool() | str():
            return str(value)
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case int():
            return f"{value:,}"
        case Mapping():
            greatest = sorted(value.items(), key=lambda item: (-item[1], str(item[0])))
            more = [f"and {len(greatest) - 3} more"] if len(greatest) > 3 else []
            return ", ".join([f"{name} × {count:,}" for name, count in greatest[:3]] + more)
        case Sequence():
            return ", ".join(map(str, value))
    return str(value)
