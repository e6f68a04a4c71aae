"""Slots that all machines of one server share: its global concurrency limits.

A deployment's concurrency limit counts runs of that deployment alone. What must not happen twice at once,
whatever started it (a training on a device, a crawl of a host), takes a slot around the work itself, where it also
shows on the server's page of limits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

LEASE_SECONDS = 60.0  # so long a slot stays taken after its holder was killed outright
logger = logging.getLogger(__name__)


@contextmanager
def slots(names: Iterable[str], *, create: int | None = None) -> Iterator[None]:
    """Hold one slot of each limit, taking all of them together; waits, saying so, while one is full.

    A limit that the server lacks is made with `create` slots, or else left out: Prefect would warn of it each time.
    Outside of a Prefect run, and with the temporary server of a run on this machine alone, nothing is held.
    """
    served = TaskRunContext.get() is not None and PREFECT_API_URL.value()
    known = _known(names, create) if served else []
    with concurrency(known, lease_duration=LEASE_SECONDS) if known else nullcontext():
        yield


def _known(names: Iterable[str], create: int | None) -> list[str]:
    """Those of the limits that the server has now, sorted."""
    known = []
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                if create is None:
                    continue
                client.upsert_global_concurrency_limit_by_name(name, create)
            else:
                if limit.active_slots >= limit.limit:
                    logger.info("Another run holds the limit %r; waiting for it", name)
            known.append(name)
    return sorted(known)
