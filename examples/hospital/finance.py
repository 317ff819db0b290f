"""The finance service: one invoice for each check-in.

GET /finance/invoices       all, a page at a time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from examples.hospital.answers import page_of
from examples.hospital.messages import Message
from examples.hospital.post import CHECK_IN_COMPLETED, OPEN_INVOICE, PostRoom, about
from examples.hospital.service import Replica, Service

CENTS: Final = 12_000  # for a day

metadata = MetaData()
room = PostRoom(metadata)
invoices = Table(
    "invoices",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("reference", String(32), nullable=False, unique=True),  # of the check-in
    Column("patient_id", BigInteger, nullable=False),
    Column("at", DateTime, nullable=False),
    Column("cents", Integer, nullable=False),
)


async def open_invoice(connection: AsyncConnection, message: Message) -> None:
    """The ward expects somebody: an invoice is written, and whoever waits for it is told."""
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    check_in = about(message)
    await connection.execute(insert(invoices).values(**check_in, at=now, cents=CENTS))
    await room.send(connection, CHECK_IN_COMPLETED, **check_in)


def routes(replica: Replica) -> Sequence[BaseRoute]:
    """What can be asked."""

    async def every(request: Request) -> Response:
        after, limit = page_of(request)
        wanted = select(invoices).where(invoices.c.id > after).order_by(invoices.c.id).limit(limit)
        async with replica.database.reading() as connection:
            count = await connection.scalar(select(func.count()).select_from(invoices))
            rows = (await connection.execute(wanted)).mappings().all()
        return replica.answer({"count": count, "invoices": [_shown(row) for row in rows]})

    post = replica.post(room, {OPEN_INVOICE: open_invoice})
    return [Route("/finance/invoices", every, methods=["GET"]), replica.counts_of(post)]


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "reference": row["reference"],
        "patient_id": row["patient_id"],
        "at": f"{row['at'].isoformat()}Z",
        "amount": f"{row['cents'] / 100:.2f} EUR",
    }


SERVICE = Service("finance", __doc__, metadata, routes)

if __name__ == "__main__":
    SERVICE.main()
