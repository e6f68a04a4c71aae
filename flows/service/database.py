"""The database of a Prefect server, looked at before the server starts: the server complains late, by a traceback."""

from __future__ import annotations

import asyncio

import sqlalchemy
from asyncpg import InterfaceError, PostgresError
from prefect.server.database.configurations import AsyncPostgresConfiguration
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from textmill.errors import UserError

POSTGRESQL, SQLITE = "postgresql+asyncpg", "sqlite+aiosqlite"  # the drivers that Prefect takes
MAY_MIGRATE = sqlalchemy.text(
    "SELECT has_schema_privilege(current_schema(), 'CREATE') AND has_database_privilege(current_database(), 'CREATE')"
)


def check(address: str) -> None:
    """Look whether a Prefect server could keep its records at this SQLAlchemy URL. A PostgreSQL is connected to, in the
    way that Prefect's settings say (TLS, search path, time limits).

    Raises:
        UserError: not a URL, a driver that is not Prefect's, no answer, a wrong password, no such database, or a
            user who may not make tables in it.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise UserError(f"the database is not a URL: write {POSTGRESQL}://user:password@host/name") from None
    shown = url.render_as_string(hide_password=True)
    if url.drivername not in (POSTGRESQL, SQLITE):
        raise UserError(
            f"the database {shown} is not of a kind that Prefect can use: begin with {POSTGRESQL}:// or {SQLITE}://"
        )
    if url.drivername == SQLITE:
        return
    try:
        may_migrate = asyncio.run(_connect(address))
    except TimeoutError:
        raise UserError(f"the database {shown} does not answer: look whether it runs, and is to be reached") from None
    except (
        OSError,
        PostgresError,
        InterfaceError,
        TypeError,
    ) as error:  # TypeError: an option in the URL's query that asyncpg does not know
        raise UserError(f"the database {shown} cannot be used: {error}") from error
    if not may_migrate:
        raise UserError(
            f"{url.username} may not make tables in {shown}: let the user own it, "
            f"ALTER DATABASE {url.database} OWNER TO {url.username}"
        )


async def _connect(address: str) -> bool:
    """Whether the user may make what the server's migrations make."""
    engine = await AsyncPostgresConfiguration(connection_url=address).engine()
    try:
        async with engine.connect() as connection:
            return bool((await connection.execute(MAY_MIGRATE)).scalar())
    finally:
        await engine.dispose()
