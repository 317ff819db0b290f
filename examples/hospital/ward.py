"""The ward: who is expected, and who has been admitted.

GET /ward/entries       all, a page at a time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from examples.hospital.answers import page_of
from examples.hospital.messages import Message
from examples.hospital.post import CHECK_IN_COMPLETED, CHECK_IN_PATIENT, OPEN_INVOICE, PostRoom, about
from examples.hospital.service import Replica, Service

metadata = MetaData()
room = PostRoom(metadata)
entries = Table(
    "entries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("reference", String(32), nullable=False, unique=True),  # of the check-in
    Column("patient_id", BigInteger, nullable=False),
    Column("at", DateTime, nullable=False),
    Column("state", String(20), nullable=False),
)


async def expect(connection: AsyncConnection, message: Message) -> None:
    """Somebody was checked in: a bed is made, and finance is told to write an invoice."""
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    check_in = about(message)
    await connection.execute(insert(entries).values(**check_in, at=now, state="expected"))
    await room.send(connection, OPEN_INVOICE, **check_in)


async def admit(connection: AsyncConnection, message: Message) -> None:
    """The invoice is written: the patient may come in."""
    reference = about(message)["reference"]
    await connection.execute(update(entries).where(entries.c.reference == reference).values(state="admitted"))


def routes(replica: Replica) -> Sequence[BaseRoute]:
    """What can be asked."""

    async def every(request: Request) -> Response:
        after, limit = page_of(request)
        wanted = select(entries).where(entries.c.id > after).order_by(entries.c.id).limit(limit)
        states = select(entries.c.state, func.count()).group_by(entries.c.state)
        async with replica.database.reading() as connection:
            counts = {str(state): int(count) for state, count in await connection.execute(states)}
            rows = (await connection.execute(wanted)).mappings().all()
        return replica.answer(
            {"count": sum(counts.values()), "states": counts, "entries": [_shown(row) for row in rows]}
        )

    post = replica.post(room, {CHECK_IN_PATIENT: expect, CHECK_IN_COMPLETED: admit})
    return [Route("/ward/entries", every, methods=["GET"]), replica.counts_of(post)]


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "reference": row["reference"],
        "patient_id": row["patient_id"],
        "at": f"{row['at'].isoformat()}Z",
        "state": row["state"],
    }


SERVICE = Service("ward", __doc__, metadata, routes)

if __name__ == "__main__":
    SERVICE.main()
