"""The outbox: a message is written with what it tells, in one transaction, and published afterwards.

So there is no check-in without its message and no message without its check-in, whatever dies in between. The relay
(relay.py) publishes what waits here. It may do so twice, with the same id, when it dies between the publishing and
the marking: the broker recognises the id, and if that was too long ago, the Inbox does.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT, VARCHAR
from sqlalchemy.exc import IntegrityError

from examples.hospital.database import Database
from examples.hospital.messages.message import checked_id, checked_topic, encode
from resilient.clock import wall_ms

MESSAGE_ID = String(200).with_variant(VARCHAR(200, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
"""MariaDB would take `a` and `A` for the same id otherwise."""
_BODY = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")  # its TEXT ends at 64 KiB


class Executes(Protocol):
    """A connection or a session of SQLAlchemy's asyncio extension, in the caller's transaction."""

    async def execute(self, statement: Any, /) -> Any:
        """Run a statement."""
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits to be published."""

    place: int
    id: str
    topic: str
    body: str


class Outbox:
    """The messages of one service that are to be published.

    Make it beside the service's tables: it adds two of its own to their `metadata`.

    Args:
        metadata: the service's.
    """

    def __init__(self, metadata: MetaData) -> None:
        self._rows = Table(
            "outbox",
            metadata,
            Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
            Column("id", MESSAGE_ID, nullable=False),
            Column("topic", String(100), nullable=False),
            Column("body", _BODY, nullable=False),
            Column("published_ms", BigInteger),  # since 1970; NULL: it waits
            Column("refused", String(500)),  # why it can never be published; a person has to look
            Index("outbox_waiting", "published_ms", "place"),
        )
        self._leases = Table(
            "outbox_lease",
            metadata,
            Column("name", String(20), primary_key=True),
            Column("holder", String(32), nullable=False),
            Column("until_ms", BigInteger, nullable=False),
        )
        self._waits = self._rows.c.published_ms.is_(None) & self._rows.c.refused.is_(None)

    async def add(
        self,
        transaction: Executes,
        topic: str,
        body: Mapping[str, Any],
        *,
        id: str | None = None,  # noqa: A002  # as Message has it
    ) -> str:
        """Write a message, to be published if and only if the caller's transaction is committed.

        Args:
            transaction: the caller's connection or session.
            topic: 1 to 100 letters, digits, `_` or `-`.
            body: what JSON can say, at most 256 KiB.
            id: 1 to 200 visible ASCII characters; default: a new one.

        Returns:
            The message's id.

        Raises:
            ConfigError: when an argument is out of range.
        """
        message_id = checked_id(id) if id is not None else uuid.uuid4().hex
        row = {"id": message_id, "topic": checked_topic(topic), "body": encode(body).decode()}
        await transaction.execute(insert(self._rows).values(row))
        return message_id

    async def pending(self, database: Database) -> int:
        """How many messages wait."""
        async with database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(self._rows).where(self._waits)) or 0

    async def waiting(self, database: Database, limit: int) -> Sequence[Waiting]:
        """The oldest messages that wait, in the order they were written."""
        rows = self._rows.c
        wanted = select(rows.place, rows.id, rows.topic, rows.body).where(self._waits).order_by(rows.place).limit(limit)
        async with database.reading() as connection:
            return [Waiting(*row) for row in await connection.execute(wanted)]

    async def mark(self, database: Database, places: Sequence[int]) -> None:
        """They are published."""
        async with database.writing() as connection:
            await connection.execute(
                update(self._rows).where(self._rows.c.place.in_(places)).values(published_ms=wall_ms())
            )

    async def refuse(self, database: Database, place: int, reason: str) -> None:
        """It can never be published, and must not stop those behind it."""
        async with database.writing() as connection:
            await connection.execute(update(self._rows).where(self._rows.c.place == place).values(refused=reason[:500]))

    async def remove(self, database: Database, older_than: float) -> None:
        """Remove what was published more than `older_than` seconds ago."""
        async with database.writing() as connection:
            await connection.execute(
                delete(self._rows).where(self._rows.c.published_ms < wall_ms() - int(older_than * 1000))
            )

    async def take_lease(self, database: Database, holder: str, seconds: float) -> bool:
        """Be the only one who publishes for a while; False while another one is."""
        lease, now = self._leases.c, wall_ms()
        values = {"holder": holder, "until_ms": now + int(seconds * 1000)}
        free = (lease.holder == holder) | (lease.until_ms < now)
        async with database.writing() as connection:
            taken = await connection.execute(update(self._leases).where(lease.name == _LEASE, free).values(values))
            if taken.rowcount:
                return True
            if await connection.scalar(select(lease.holder).where(lease.name == _LEASE)):
                return False
        return await self._make_lease(database, values)

    async def _make_lease(self, database: Database, values: Mapping[str, Any]) -> bool:
        try:
            async with database.writing() as connection:
                await connection.execute(insert(self._leases).values(name=_LEASE, **values))
        except IntegrityError:  # another one came first
            return False
        return True

    async def give_lease_back(self, database: Database, holder: str) -> None:
        """Let another one publish at once."""
        lease = self._leases.c
        async with database.writing() as connection:
            await connection.execute(
                update(self._leases).where(lease.name == _LEASE, lease.holder == holder).values(until_ms=0)
            )


_LEASE = "relay"
