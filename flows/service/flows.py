"""The pipeline as Prefect flows: every stage in order, and each stage alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow, State, flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS

from flows.engine.stage import Outcome
from flows.pipeline.chain import StageName
from flows.pipeline.config import PipelineConfig
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.service.building import run_chain
from flows.service.form import Form, form_of
from textmill.errors import UserError

DEFAULT_CONFIG = "configs/demo.yaml"
if TYPE_CHECKING:
    PipelineForm = Form
else:
    PipelineForm = form_of(PipelineConfig)
NO_OVERRIDES = PipelineForm()

_requested: ContextVar[RunRequest | None] = ContextVar("requested", default=None)


def run_name() -> str:
    """Which configuration runs; a stage that runs alone is named before it."""
    configuration = Path(flow_run.parameters["config"]).stem
    return configuration if flow_run.flow_name == "pipeline" else f"{flow_run.flow_name} of {configuration}"


@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    config: str = DEFAULT_CONFIG,
    overrides: PipelineForm = NO_OVERRIDES,
    force: list[StageName] | None = None,
    start: StageName | None = None,
    verify: bool = False,
) -> State[list[Outcome]]:
    """Web text to language model: every stage in order, building only what is not in the store already.

    Args:
        config: path of the configuration.
        overrides: values in place of those in the configuration; what is left empty stays as it is there.
        force: stages to build again; what follows them is rebuilt only if they come out different.
        start: build this stage and all that is made from it again.
        verify: before anything is reused, compare the SHA-256 of its files.
    """
    selection = Selection(force=frozenset(force or ()), start=start, verify=verify)
    return run_chain(_requested.get() or RunRequest.load(Path(config), overrides.model_dump(), selection))


@cache
def stage_flow(stage: StageName) -> Flow[..., Any]:
    """The flow that runs one stage alone, on what the store holds of the stages before it. It is made when it is asked
    for: working out the form takes Prefect a twentieth of a second a flow."""

    @flow(
        name=stage,
        description=f"{stage} alone, on what the store holds of the stages before it.",
        flow_run_name=run_name,
        persist_result=False,
    )
    def run(
        config: str = DEFAULT_CONFIG,
        overrides: PipelineForm = NO_OVERRIDES,
        force: bool = False,
        verify: bool = False,
    ) -> State[list[Outcome]]:
        """One stage alone.

        Args:
            config: path of the configuration.
            overrides: values in place of those in the configuration; what is left empty stays as it is there.
            force: build it again although the store has it.
            verify: before anything is reused, compare the SHA-256 of its files.
        """
        selection = Selection(force=frozenset([stage] if force else ()), only=stage, verify=verify)
        return run_chain(_requested.get() or RunRequest.load(Path(config), overrides.model_dump(), selection))

    return run


def start_run(request: RunRequest) -> list[Outcome]:
    """Run what was asked for as a flow run of this process. Its parameters say the same, for a retry from the UI; what
    was loaded and planned before is not loaded and planned again."""
    path, form, selection = str(request.path), PipelineForm.of(request.overrides), request.selection
    with _carried(request):
        if selection.only:
            force = selection.only in selection.force or selection.only == selection.start
            alone = stage_flow(selection.only)
            state = alone(path, form, force=force, verify=selection.verify, return_state=True)
        else:
            again, start, verify = sorted(selection.force), selection.start, selection.verify
            state = pipeline(path, form, force=again, start=start, verify=verify, return_state=True)
        return cast(State[list[Outcome]], state).result()


@contextmanager
def _carried(request: RunRequest) -> Iterator[None]:
    """Hand the request to the flow that is started in this context."""
    token = _requested.set(request)
    try:
        yield
    finally:
        _requested.reset(token)


class OneLineMistakes(logging.Filter):
    """Takes the traceback off a user's mistake: its message says what to do, and it is not a bug of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = record.exc_text = None
        return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(OneLineMistakes())
for name in PREFECT_LOGGING_EXTRA_LOGGERS.value():
    logging.getLogger(name).setLevel(logging.INFO)  # Prefect gives them its handler, but leaves the level at WARNING
