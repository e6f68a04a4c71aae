"""PostgreSQL in SQLite's place: a real one, of the system's packages, behind a real service."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from flows.service.database import check
from textmill.errors import UserError

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)
ACCOUNT = "postgres"  # of the package; PostgreSQL refuses to run as root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="no PostgreSQL here: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Callable[..., str]]:
    """A server on loopback; the URL of a database on it, by default one that its user `prefect` owns."""
    as_root = os.getuid() == 0
    identity = {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid, "extra_groups": []} if as_root else {}
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # pytest's own folders are closed to the other account
    if as_root:
        shutil.chown(folder, ACCOUNT)
    password = folder / "password"
    password.write_text("secret")
    password.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def url(user: str = "prefect", word: str = "secret", name: str = "prefect", driver: str = "postgresql+asyncpg"):
        return f"{driver}://{user}:{word}@127.0.0.1:{port}/{name}"

    subprocess.run(
        [BINARIES / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password,
         "--encoding", "UTF8", "--locale", "C", "--no-sync"],
        cwd=folder, check=True, stdout=subprocess.DEVNULL, **identity,
    )  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [BINARIES / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"],
            cwd=folder, stderr=log, **identity,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        ready = [BINARIES / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        administer = url("postgres", name="postgres", driver="postgresql")
        for statement in (
            "CREATE ROLE prefect LOGIN PASSWORD 'secret'",
            "CREATE ROLE guest LOGIN PASSWORD 'secret'",
            "CREATE DATABASE prefect OWNER prefect",
        ):
            asyncio.run(query(administer, statement))
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # "fast shutdown": whoever is still connected is sent away
        ended = server.wait(120)
        told = (folder / "log").read_text()
        shutil.rmtree(folder)
        assert (ended, "database system is shut down" in told) == (0, True), told


async def query(address: str, statement: str, *values) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(address)
    try:
        return await connection.fetch(statement, *values)
    finally:
        await connection.close()


def test_a_service_keeps_its_records_there(postgresql, start_service):
    with start_service("--database", postgresql()) as service:
        run = service.start("scrape/python-docs", force=True)
        assert service.wait(run, "Completed").message == "1 built, 0 reused"
    # The service is gone; what it knew is in PostgreSQL, and no SQLite was made.
    rows = asyncio.run(
        query(
            postgresql(driver="postgresql"),
            "SELECT flow_run.state_name, deployment.name, count(log.id) AS lines FROM flow_run"
            " JOIN deployment ON deployment.id = flow_run.deployment_id JOIN log ON log.flow_run_id = flow_run.id"
            " WHERE flow_run.id = $1 GROUP BY 1, 2",
            run,
        )
    )
    assert [(row["state_name"], row["name"]) for row in rows] == [("Completed", "python-docs")]
    assert rows[0]["lines"] > 3
    assert not (service.folder / "prefect" / "prefect.db").exists()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"word": "wrong"}, 'password authentication failed for user "prefect"'),
        ({"name": "prefct"}, 'database "prefct" does not exist'),
        ({"user": "guest"}, "ALTER DATABASE prefect OWNER TO guest"),
        ({"driver": "postgresql"}, "begin with postgresql+asyncpg://"),
        ({"name": "prefect?sslmode=require"}, "unexpected keyword argument 'sslmode'"),
    ],
    ids=["password", "database", "rights", "driver", "query"],
)
def test_what_will_not_do_is_told_in_one_line(postgresql, changed, complaint):
    check(postgresql())
    with pytest.raises(UserError, match=re.escape(complaint)) as told:
        check(postgresql(**changed))
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)
    assert "wrong" not in str(told.value)
