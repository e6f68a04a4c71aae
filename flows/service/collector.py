"""Start a Python program whose garbage is collected in a thread of its own: `python -m flows.service.collector MODULE`.

A Prefect server on SQLite needs it. Python's collector runs in whichever thread allocates, and so does the destructor
of a SQLite cursor that it finds: `sqlite3_reset`, which waits for the mutex of the cursor's connection. Where that is
the thread of the event loop, and the connection is waiting for the database's lock in a thread of its own, and the
transaction that holds the lock is waiting for the event loop, all of them wait until SQLite's busy timeout ends it:
Prefect sets a minute. A collector with its own thread waits alone.
"""

from __future__ import annotations

import gc
import threading
import time

from textmill.processes import run_named_module

SECONDS = 0.5  # between looks


def collect_in_a_thread() -> None:
    """Collect garbage there instead of where objects are made: a generation is due when Python's own thresholds say so.

    Full collections come about once a minute in a busy process.
    """
    gc.disable()
    threading.Thread(target=_collect, name="garbage collector", daemon=True).start()


def _collect() -> None:
    while True:
        time.sleep(SECONDS)
        due = [count > threshold for count, threshold in zip(gc.get_count(), gc.get_threshold(), strict=True)]
        for generation in (2, 1, 0):
            if due[generation]:
                gc.collect(generation)
                break


if __name__ == "__main__":
    collect_in_a_thread()
    run_named_module()
