"""How the server knows that a run is alive: the run says so, every half a minute.

A run whose process is killed says nothing. `automations.yaml` takes one for dead that has fallen silent for three
beats. Prefect has heartbeats of its own, every 180 seconds unless the process that runs the flow is told otherwise;
these beats come from the run itself, so that they are there however it was started, and a flow that is not
Textmill's is not judged by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread

from prefect.events import emit_event
from prefect.runtime import flow_run

BEAT = "textmill.run.alive"
BEAT_SECONDS = 30.0
# A run that only reuses what is there has ended by then. Its end may overtake a beat on the way to the server, which
# would then wait for the next beat of a run that has ended.
FIRST_BEAT_SECONDS = 2.0


@contextmanager
def beating() -> Iterator[None]:
    """Tell the server that this flow run is alive while the block lasts."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name}
    over = Event()

    def beat() -> None:
        pause = FIRST_BEAT_SECONDS
        while not over.wait(pause):
            emit_event(BEAT, resource)
            pause = BEAT_SECONDS

    # in our context, so that Prefect knows which server and which run the beats belong to
    Thread(target=copy_context().run, args=(beat,), daemon=True, name="beats").start()
    try:
        yield
    finally:
        over.set()
