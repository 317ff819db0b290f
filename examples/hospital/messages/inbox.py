"""The inbox: a message that comes twice is handled once.

The broker delivers at least once. What was handled is written down in the service's own database, in the same
transaction as what the handler writes: either both are there, or neither is, and then the message comes again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, delete, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from examples.hospital.database import Database
from examples.hospital.messages.counts import Counts
from examples.hospital.messages.delivery import Handler
from examples.hospital.messages.message import Message, checked_topic
from examples.hospital.messages.outbox import MESSAGE_ID
from resilient.checks import positive_seconds
from resilient.clock import wall_ms

logger = logging.getLogger(__name__)

KEEP = 14 * 86_400.0
"""Seconds that an id is remembered: twice as long as NATS and Kafka keep a message here."""
_TIDY = 600.0  # seconds between two removals

Work = Callable[[AsyncConnection, Message], Awaitable[None]]


class _HandledBeforeError(Exception):
    """Ends the transaction of a duplicate."""


class Inbox:
    """The ids of the messages that a service has handled.

    Make it beside the service's tables: it adds one of its own to their `metadata`.

    Args:
        metadata: the service's.
        keep: seconds that an id is remembered, default 14 days. It must be longer than the broker keeps a message, and
            than a publisher may be down between the publishing and the marking of one.
    """

    def __init__(self, metadata: MetaData, *, keep: float = KEEP) -> None:
        self._rows = Table(
            "inbox",
            metadata,
            Column("taken_by", String(100), primary_key=True),
            Column("id", MESSAGE_ID, primary_key=True),
            Column("taken_ms", BigInteger, nullable=False),  # since 1970
            Index("inbox_age", "taken_ms"),
        )
        self._keep = positive_seconds("Inbox", "keep", keep)
        self._tidied = time.monotonic()

    def once(self, database: Database, group: str, work: Work, *, counts: Counts) -> Handler:
        """A handler for `broker.subscribe` that calls `work` once for each message.

        Args:
            database: the one that the inbox is in.
            group: the consumer group.
            work: an async function of the transaction and the message; it writes with that connection only. What it
                does outside of it may happen twice.
            counts: where duplicates are counted: the broker's.
        """
        checked_topic(group, "group")

        async def handler(message: Message) -> None:
            try:
                async with database.writing() as connection:
                    await self._take(connection, group, message)
                    await work(connection, message)
            except _HandledBeforeError:
                counts.duplicates += 1
                logger.info("%s %s had been handled by %s before", message.topic, message.id, group)
            await self._tidy(database)

        return handler

    async def _take(self, connection: AsyncConnection, group: str, message: Message) -> None:
        """Before the work: of two that handle it at once, the second waits here for the first one's end."""
        try:
            await connection.execute(
                insert(self._rows).values(taken_by=group, id=message.id, taken_ms=wall_ms()),
            )
        except IntegrityError as error:
            raise _HandledBeforeError from error

    async def forget_old(self, database: Database) -> None:
        """Remove the ids that cannot come again; `once` does it every ten minutes."""
        async with database.writing() as connection:
            old = self._rows.c.taken_ms < wall_ms() - int(self._keep * 1000)
            await connection.execute(delete(self._rows).where(old))

    async def _tidy(self, database: Database) -> None:
        if time.monotonic() - self._tidied < _TIDY:
            return
        self._tidied = time.monotonic()
        try:
            await self.forget_old(database)
        except Exception as error:  # it must not bring back a message that was handled
            logger.warning("old message ids are removed later (%s: %s)", type(error).__name__, error)
