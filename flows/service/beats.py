"""How the server knows that a run is alive: the run says so, every half a minute.

A run whose process is killed says nothing. `automations.yaml` takes one for dead that has fallen silent for three
beats. Prefect has heartbeats of its own, every 180 seconds unless the process that runs the flow is told otherwise;
these beats come from the run itself, so that they are there however it was started, and a flow that is not
Textmill's is not judged by them.

A server that was away for longer than that, or a machine that slept, may find a run silent that lives: the run then
says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Running

BEAT = "textmill.run.alive"
BEAT_SECONDS = 30.0
# A run that only reuses what is there has ended by then. Its end may overtake a beat on the way to the server, which
# would then wait for the next beat of a run that has ended.
FIRST_BEAT_SECONDS = 2.0
SILENT = "No heartbeat"  # how automations.yaml begins what it says of a dead run


@contextmanager
def beating() -> Iterator[None]:
    """Tell the server that this flow run is alive while the block lasts."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name}
    over = Event()

    def beat() -> None:
        pause = FIRST_BEAT_SECONDS
        while not over.wait(pause):
            emit_event(BEAT, resource)
            with suppress(httpx.HTTPError, PrefectException):  # a server that is away is told at the next beat
                _live_again(UUID(flow_run.id))
            pause = BEAT_SECONDS

    # in our context, so that Prefect knows which server and which run the beats belong to
    Thread(target=copy_context().run, args=(beat,), daemon=True, name="beats").start()
    try:
        yield
    finally:
        over.set()


def _live_again(run: UUID) -> None:
    """Running, if the server took this run for dead. Nobody else works on it: a retry has taken it out of Crashed."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state and state.is_crashed() and (state.message or "").startswith(SILENT):
            client.set_flow_run_state(run, Running(message="Its beats did not arrive for a while"), force=True)
            get_run_logger().warning("The server had taken this run for dead; it goes on")
