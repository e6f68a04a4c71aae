"""Slots that all machines of one server share: its global concurrency limits.

A deployment's concurrency limit counts runs of that deployment alone. What must not happen twice at once,
whatever started it (a training on a device, a crawl of a host), takes a slot around the work itself, where it also
shows on the server's page of limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency._sync import concurrency  # the public one cannot be told to answer at once
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.context import TaskRunContext
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from textmill.progress import Clock

LEASE_SECONDS = 60.0  # so long a slot stays taken after its holder was killed outright
LOOK_SECONDS = 2.0  # between two tries to get a slot; Prefect's own wait takes longer and cannot be interrupted


@contextmanager
def slots(clock: Clock, names: Iterable[str], *, create: int | None = None) -> Iterator[None]:
    """Hold one slot of each limit, taking all of them together; waits, by this clock and saying so, while one is full.

    A limit that the server lacks is made with `create` slots, or else left out: Prefect would warn of it each time.
    Outside of a Prefect run, and with the temporary server of a run on this machine alone, nothing is held.
    """
    served = TaskRunContext.get() is not None and PREFECT_API_URL.value()
    known = _known(names, create) if served else []
    with ExitStack() as held:
        if known and not _taken(held, known):
            _wait(clock, held, known)
        yield


def _wait(clock: Clock, held: ExitStack, names: list[str]) -> None:
    """Take the slots when they are free, and say who has them until then: the server's events are a little late."""
    logger, reason = get_run_logger(), " and ".join(map(_full, names))
    with clock.waiting(reason):
        logger.info("Waiting for %s", reason)
        while not _taken(held, names):
            clock.sleep(LOOK_SECONDS)
            if (now := " and ".join(map(_full, names))) != reason:
                clock.waits_for = reason = now
                logger.info("Waiting for %s", reason)


def _known(names: Iterable[str], create: int | None) -> list[str]:
    """Those of the limits that the server has now, sorted."""
    known = []
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                if create is None:
                    continue
                client.upsert_global_concurrency_limit_by_name(name, create)
            known.append(name)
    return sorted(known)


def _taken(held: ExitStack, names: list[str]) -> bool:
    """Whether there was a slot of each, which are held now."""
    with get_client(sync_client=True) as client:  # a look first: Prefect logs each try that fails as an error
        limits = [client.read_global_concurrency_limit_by_name(name) for name in names]
    if any(limit.active and limit.active_slots >= limit.limit for limit in limits):
        return False
    try:
        held.enter_context(concurrency(names, lease_duration=LEASE_SECONDS, max_retries=0))
    except ConcurrencySlotAcquisitionError as error:
        answer = error.__cause__
        if isinstance(answer, httpx.HTTPStatusError) and answer.response.status_code == httpx.codes.LOCKED:
            return False
        raise
    return True


def _full(name: str) -> str:
    """A limit in words, with the runs that hold it as far as the server's events tell."""
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
        events = client.read_events(
            EventFilter(
                event=EventNameFilter(prefix=["prefect.concurrency-limit."]),
                resource=EventResourceFilter(id=[f"prefect.concurrency-limit.{limit.id}"]),
            ),
            limit=50,
        ).events
    released = {event.follows for event in events}
    runs = [
        f"`{related.name}`"
        for event in events
        if event.event.endswith(".acquired") and event.id not in released
        for related in event.related
        if related.role == "flow-run"
    ]
    holders = ", ".join(dict.fromkeys(runs[: limit.active_slots]))
    return f"the limit `{name}`" + (f", held by {holders}" if holders else "")
