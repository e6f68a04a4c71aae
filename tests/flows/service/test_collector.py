"""A server's event loop never waits for a connection whose garbage it happens to collect."""

from __future__ import annotations

import subprocess

from textmill.processes import python_command, python_environment

# The main thread holds the database's lock, another thread waits for it, and a cursor of the waiting connection becomes
# garbage: where the main thread collects that, it waits as long as the other one.
LOCKED = """
import gc, sqlite3, sys, threading, time

holding = sqlite3.connect(sys.argv[1], isolation_level=None)
holding.execute("CREATE TABLE numbers (number)")
waiting = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, timeout=300)
cycle = [waiting.execute("SELECT 1 UNION ALL SELECT 2")]
cycle.append(cycle)
holding.execute("BEGIN IMMEDIATE")
waiter = threading.Thread(target=waiting.execute, args=["BEGIN IMMEDIATE"])
waiter.start()
time.sleep(0.3)
del cycle
begun = time.monotonic()
while time.monotonic() < begun + 2:
    garbage = []
    garbage.append(garbage)
holding.execute("ROLLBACK")
waiter.join()
assert gc.get_stats()[0]["collections"] > 0
"""


def test_the_holder_of_a_lock_goes_on_while_garbage_waits_for_the_lock(tmp_path):
    (tmp_path / "locked.py").write_text(LOCKED)
    environment = python_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    command = python_command("flows.service.collector", "locked", str(tmp_path / "numbers.db"))
    subprocess.run(command, env=environment, check=True, timeout=200)
