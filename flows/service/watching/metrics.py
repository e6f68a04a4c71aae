"""The figures of stages at work as Prometheus gauges.

Prefect serves the metrics of a process that runs flows where `PREFECT_CLIENT_METRICS_ENABLED` is on, at
`PREFECT_CLIENT_METRICS_PORT`. What is registered here is served with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from threading import Lock

from prefect.settings import PREFECT_CLIENT_METRICS_ENABLED
from prometheus_client import Gauge

LABELS = ("stage", "label", "pipeline")
_making = Lock()


class Gauges:
    """The gauges of one stage, while the block lasts: `textmill_loss{stage="pretrain", label=…, pipeline="demo"}`."""

    def __init__(self, stage: str, label: str, pipeline: str) -> None:
        self._values = stage, label, pipeline
        self._set: set[str] = set()

    def __enter__(self) -> Gauges:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._set:
            _gauge(name).remove(*self._values)

    def __call__(self, figures: Mapping[str, object]) -> None:
        """Set those that are numbers."""
        if not PREFECT_CLIENT_METRICS_ENABLED.value():
            return
        for name, value in figures.items():
            if isinstance(value, int | float):
                self._set.add(name)
                _gauge(name).labels(*self._values).set(value)


def _gauge(name: str) -> Gauge:
    with _making:  # stages beside each other may be the first to report a figure
        return _made(name)


@cache
def _made(name: str) -> Gauge:
    metric = "textmill_" + re.sub(r"[^a-z0-9_]", "_", name.lower())
    return Gauge(metric, f"{name.replace('_', ' ')} of the stages at work", LABELS)
