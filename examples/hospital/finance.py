"""The finance service: one invoice for each check-in.

GET /finance/invoices       all, a page at a time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from examples.hospital.answers import page_of
from examples.hospital.service import Replica, Service

metadata = MetaData()
invoices = Table(
    "invoices",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("reference", String(32), nullable=False, unique=True),  # of the check-in
    Column("patient_id", BigInteger, nullable=False),
    Column("at", DateTime, nullable=False),
    Column("cents", Integer, nullable=False),
)


def routes(replica: Replica) -> Sequence[BaseRoute]:
    """What can be asked."""

    async def every(request: Request) -> Response:
        after, limit = page_of(request)
        wanted = select(invoices).where(invoices.c.id > after).order_by(invoices.c.id).limit(limit)
        async with replica.database.reading() as connection:
            count = await connection.scalar(select(func.count()).select_from(invoices))
            rows = (await connection.execute(wanted)).mappings().all()
        return replica.answer({"count": count, "invoices": [_shown(row) for row in rows]})

    return [Route("/finance/invoices", every, methods=["GET"])]


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
