"""A service's own database: SQLite in a file, or by its URL MariaDB or PostgreSQL, for any number of replicas."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import MetaData, Table, event, insert, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from resilient import ConfigError, Retry

BUSY_TIMEOUT: Final = 5.0  # seconds that a replica waits for another one that writes
_DRIVERS: Final = {"sqlite": "aiosqlite", "mariadb": "aiomysql", "mysql": "aiomysql", "postgresql": "asyncpg"}
_BEGIN: Final = "hospital_begin"
_LOCK: Final = 0x_68_6F_73_70  # any number that all replicas agree on
_ONE_AT_A_TIME: Final = {  # SQLite needs nothing: whoever writes has it for itself
    "postgresql": f"SELECT pg_advisory_xact_lock({_LOCK})",
    "mysql": f"SELECT GET_LOCK('{_LOCK}', 30)",
    "mariadb": f"SELECT GET_LOCK('{_LOCK}', 30)",
}

Fill = Callable[[AsyncConnection], Awaitable[None]]


class DatabaseError(Exception):
    """The database cannot be used; the message is a sentence for who started the service."""


class Database:
    """One service's tables, wherever they are.

    Args:
        url: `sqlite:///file.db`, `mariadb://user:password@host/name` or `postgresql://user:password@host/name`.
        metadata: its tables.

    Raises:
        ConfigError: when there is no such database, or its driver is not installed.
    """

    def __init__(self, url: str, metadata: MetaData) -> None:
        self._metadata = metadata
        self._url = _with_driver(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT}} if self._sqlite else {}
        try:
            self.engine: AsyncEngine = create_async_engine(self._url, pool_pre_ping=not self._sqlite, **options)
        except NoSuchModuleError as error:
            raise ConfigError(f"--database: there is no database of the kind {url.partition(':')[0]!r}") from error
        except ImportError as error:
            raise ConfigError(f"--database: {url.partition(':')[0]} needs the package {error.name}") from error
        except (ArgumentError, InvalidRequestError, TypeError) as error:
            raise ConfigError(f"--database: {self._url.render_as_string()} cannot be used: {error}") from error
        if self._sqlite:
            event.listen(self.engine.sync_engine, "connect", _we_begin_ourselves)
            event.listen(self.engine.sync_engine, "begin", _begin)

    async def set_up(self, fill: Fill | None = None) -> None:
        """Make the tables that are not there, and fill them; two replicas may do it at once, one of them does.

        Args:
            fill: writes the first rows, in the same transaction; it has to look first whether they are there.

        Raises:
            DatabaseError: when the database is not there, after half a minute of trying.
        """
        again = Retry(attempts=12, on=(OperationalError, OSError))  # a replica is busy, a server is not there yet
        if self._sqlite:
            self._open_once()
        try:
            await again.acall(self._set_up, fill)
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise DatabaseError(f"{self._url.render_as_string()} cannot be used: {cause}") from error
        finally:
            await self.engine.dispose()  # its connections belong to the event loop that has done this

    def _open_once(self) -> None:
        """See whether there can be such a file, without aiosqlite's thread, which outlives a failure for a moment."""
        try:
            sqlite3.connect(self._url.database or ":memory:").close()
        except sqlite3.OperationalError as error:
            raise DatabaseError(f"{self._url.render_as_string()} cannot be used: {error}") from error

    async def _set_up(self, fill: Fill | None) -> None:
        if self._sqlite:
            async with self.engine.connect() as connection:
                await connection.execution_options(**{_BEGIN: ""})
                await connection.execute(text("PRAGMA journal_mode=WAL"))  # for good: no reader waits for a writer
        async with self.writing() as connection:
            alone = _ONE_AT_A_TIME.get(self._url.get_backend_name())
            if alone:
                await connection.execute(text(alone))
            await connection.run_sync(self._metadata.create_all)
            if fill is not None:
                await fill(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads."""
        async with self.engine.connect() as connection:
            await connection.execution_options(**{_BEGIN: "BEGIN"})
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: all of it is written when the block ends, or nothing when it raises."""
        async with self.engine.begin() as connection:
            yield connection

    async def ping(self) -> None:
        """Ask it for nothing; raises when it does not answer."""
        async with self.engine.connect() as connection:
            await connection.execution_options(**{_BEGIN: "BEGIN"})
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close its connections."""
        await self.engine.dispose()


async def inserted(connection: AsyncConnection, table: Table, **values: Any) -> int:
    """Write a row; its id."""
    key = (await connection.execute(insert(table).values(**values))).inserted_primary_key
    assert key is not None  # the table has one
    return int(key[0])


def _with_driver(url: str) -> URL:
    try:
        found = make_url(url)
    except ArgumentError as error:
        shown = url.rpartition("@")[2]  # what stands before may be a password
        raise ConfigError(f"--database: must be like 'sqlite:///patient.db', not {shown!r}") from error
    driver = _DRIVERS.get(found.drivername)
    return found.set(drivername=f"{found.drivername}+{driver}") if driver else found


def _we_begin_ourselves(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # Python's sqlite3 would begin late, when two that both have read may be stuck


def _begin(connection: Any) -> None:
    """IMMEDIATE: who writes waits for its turn before it reads; a turn that comes while it has read is an error."""
    statement = connection.get_execution_options().get(_BEGIN, "BEGIN IMMEDIATE")
    if statement:
        connection.exec_driver_sql(statement)
