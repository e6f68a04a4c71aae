"""A database that a server cannot use is told before the server starts."""

from __future__ import annotations

import socket

import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_TIMEOUT, temporary_settings

from flows.service.database import check
from textmill.errors import UserError


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    "address",
    ["postgresql://a:secret@host/name", "mysql://a:secret@host/name", "sqlite:///file.db", "name", "a://b:c@d:port/e"],
)
def test_another_driver_or_no_url_at_all(address):
    with pytest.raises(UserError, match=r"postgresql\+asyncpg://") as told:
        check(address)
    assert "secret" not in str(told.value)


def test_sqlite_needs_no_server():
    check("sqlite+aiosqlite:////nowhere/prefect.db")


def test_a_server_that_accepts_and_says_nothing():
    patience = temporary_settings({PREFECT_API_DATABASE_CONNECTION_TIMEOUT: 0.3})
    with patience, socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="does not answer"):
        check(f"postgresql+asyncpg://a:secret@127.0.0.1:{silent.getsockname()[1]}/name")


def test_up_ends_at_once_where_no_server_is(textmill, tmp_path, closed_port):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "empty.yaml").touch()
    nowhere = f"postgresql+asyncpg://a:secret@127.0.0.1:{closed_port}/name"
    process = textmill("up", "--port", str(closed_port), "--database", nowhere)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (2, "")  # not even "Server ready"
    (line,) = err.splitlines()
    assert line.startswith("textmill: the database postgresql+asyncpg://a:***@127.0.0.1:")
    assert "Connect call failed" in line
