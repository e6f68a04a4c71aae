"""The pipeline as Prefect flows: every stage in order, and each stage alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, cast

from prefect import Flow, State, flow
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flow_engine import run_flow
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS
from pydantic import MISSING

from flows.engine.stage import Outcome
from flows.pipeline.chain import StageName
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.service import LOGGERS
from flows.service.building import run_chain
from flows.service.form import (
    COMMON,
    DEFAULT_CONFIG,
    checked,
    overrides_of,
    parameters_of,
    pipeline_form,
    stage_form,
    takes,
)
from textmill.errors import UserError
from textmill.secrets import masked

_requested: ContextVar[RunRequest | None] = ContextVar("requested", default=None)


def run_name() -> str:
    """Which configuration runs; a stage that runs alone is named before it, a crawl with its sites."""
    configuration = Path(flow_run.parameters["config"]).stem
    if flow_run.flow_name == "pipeline":
        return configuration
    sites = _sites() if flow_run.flow_name == "scrape" else []
    shown = sites if len(sites) <= 3 else [f"{len(sites)} sites"]
    return " ".join(filter(None, (flow_run.flow_name, ", ".join(shown), "of", configuration)))


def _sites() -> list[str]:
    """Names of the sites that this run crawls; none where the configuration has a mistake, which the run will tell."""
    given = {name: value for name, value in flow_run.parameters.items() if value is not MISSING}
    settings = {name: value for name, value in given.items() if name not in COMMON}
    try:
        settled = overrides_of("scrape", settings, given.get("overrides"))
        request = _requested.get() or RunRequest.load(Path(given["config"]), settled)
        return [source.name for source in request.config.scrape.load()]
    except (UserError, ValueError):
        return []


@flow(name="pipeline", flow_run_name=run_name, persist_result=False, validate_parameters=False)
@takes(pipeline_form())
def pipeline(
    *,
    force: Sequence[StageName] | None = None,
    start: StageName | None = None,
    verify: bool = False,
    overrides: Mapping[str, Any] | None = None,
    config: str = DEFAULT_CONFIG,
) -> State[list[Outcome]]:
    """Web text to language model: every stage in order, building only what is not in the store already."""
    selection = Selection(force=frozenset(force or ()), start=start, verify=verify)
    return run_chain(_requested.get() or RunRequest.load(Path(config), checked(overrides), selection))


@cache
def stage_flow(stage: StageName) -> Flow[..., Any]:
    """The flow that runs one stage alone, on what the store holds of the stages before it. It is made when it is asked
    for: working out the form takes Prefect some hundredths of a second a flow."""

    @flow(
        name=stage,
        description=f"{stage} alone, on what the store holds of the stages before it.",
        flow_run_name=run_name,
        persist_result=False,
        validate_parameters=False,
    )
    @takes(stage_form(stage))
    def run(
        *,
        force: bool = False,
        build_missing: bool = False,
        verify: bool = False,
        overrides: Mapping[str, Any] | None = None,
        config: str = DEFAULT_CONFIG,
        **settings: Any,
    ) -> State[list[Outcome]]:
        again = frozenset([stage] if force else ())
        selection = Selection(force=again, only=stage, build_missing=build_missing, verify=verify)
        settled = overrides_of(stage, settings, overrides)
        return run_chain(_requested.get() or RunRequest.load(Path(config), settled, selection))

    return run


def start_run(request: RunRequest) -> list[Outcome]:
    """Run what was asked for as a flow run of this process. Its parameters say the same, for a retry from the UI, but
    for secrets; what was loaded and planned before is not loaded and planned again."""
    selection, overrides = request.selection, masked(request.overrides)
    parameters: dict[str, Any] = {"config": str(request.path), "verify": selection.verify}
    if selection.only:
        flow = stage_flow(selection.only)
        parameters["force"] = selection.only in selection.force or selection.only == selection.start
        parameters["build_missing"] = selection.build_missing
        parameters |= parameters_of(selection.only, overrides)
    else:
        flow = pipeline
        parameters |= {"force": sorted(selection.force), "start": selection.start, "overrides": overrides}
    with _carried(request):  # not a call, which would add every setting that was not given
        state = cast(State[list[Outcome]], run_flow(flow, parameters=parameters, return_type="state"))
    return state.result()


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


def is_of_a_run(record: logging.LogRecord) -> bool:
    """Whether a record can be shown with a run: it names one, or was made in one."""
    return bool(getattr(record, "flow_run_id", None) or FlowRunContext.get() or TaskRunContext.get())


def send_logs_to_runs() -> None:
    """Show what our packages log with the run it is logged in, and nowhere else but on the terminal.

    Prefect gives the loggers of its settings its handlers, but was imported before our settings where its own worker
    starts a run; and it leaves their level at WARNING.
    """
    handlers = logging.getLogger("prefect.extra").handlers
    for handler in handlers:
        if isinstance(handler, APILogHandler):
            handler.addFilter(is_of_a_run)  # or Prefect warns of it
    for name in {*LOGGERS, *PREFECT_LOGGING_EXTRA_LOGGERS.value()}:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)


send_logs_to_runs()
