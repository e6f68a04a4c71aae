"""The flows under names of their own, as `prefect.yaml` deploys them: an entrypoint is an attribute of a module."""

from __future__ import annotations

from typing import Any

from prefect import Flow

from flows.pipeline.chain import STAGES
from flows.service.experiment import experiment
from flows.service.flows import pipeline, stage_flow
from flows.service.verify import verify

__all__ = ["experiment", "pipeline", "verify"]


def __getattr__(name: str) -> Flow[..., Any]:
    """The flow of a stage alone, under the stage's name; a run makes only the one that it needs."""
    if name in STAGES:
        return stage_flow(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
