"""The patient service: who the patients are.

    GET  /patient/1          one of them
    GET  /patient            all, a page at a time
    POST /patient            {"name": "Ada Lovelace", "born": "1815-12-10"}

Two replicas share one database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Column, Date, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from examples.hospital.answers import Problem, json_object, number, page_of
from examples.hospital.database import inserted
from examples.hospital.service import Replica, Service

metadata = MetaData()
patients = Table(
    "patients",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("name", String(100), nullable=False),
    Column("born", Date, nullable=False),
)

FIRST = (
    ("Ada Lovelace", date(1815, 12, 10)),
    ("Ignaz Semmelweis", date(1818, 7, 1)),
    ("Florence Nightingale", date(1820, 5, 12)),
    ("Henrietta Lacks", date(1920, 8, 1)),
    ("Alexander Fleming", date(1881, 8, 6)),
)


async def fill(connection: AsyncConnection) -> None:
    """The first patients, so that there is somebody to ask for."""
    if await connection.scalar(select(func.count()).select_from(patients)) == 0:
        await connection.execute(insert(patients), [{"name": name, "born": born} for name, born in FIRST])


def routes(replica: Replica) -> Sequence[BaseRoute]:
    """What can be asked."""
    database = replica.database

    async def one(request: Request) -> Response:
        patient_id = number(request.path_params["id"], "id")
        async with database.reading() as connection:
            row = (await connection.execute(select(patients).where(patients.c.id == patient_id))).mappings().first()
        if row is None:
            raise Problem(404, f"There is no patient {patient_id}.")
        return replica.answer(_shown(row))

    async def every(request: Request) -> Response:
        after, limit = page_of(request)
        wanted = select(patients).where(patients.c.id > after).order_by(patients.c.id).limit(limit)
        async with database.reading() as connection:
            count = await connection.scalar(select(func.count()).select_from(patients))
            rows = (await connection.execute(wanted)).mappings().all()
        return replica.answer({"count": count, "patients": [_shown(row) for row in rows]})

    async def new(request: Request) -> Response:
        patient = _checked(await json_object(request))
        async with database.writing() as connection:
            patient_id = await inserted(connection, patients, **patient)
        answer = replica.answer(_shown({"id": patient_id, **patient}), 201)
        answer.headers["Location"] = f"/patient/{patient_id}"
        return answer

    return [
        Route("/patient", every, methods=["GET"]),
        Route("/patient", new, methods=["POST"]),
        Route("/patient/{id}", one, methods=["GET"]),
    ]


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"], "born": row["born"].isoformat()}


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """A new patient, as the database takes it; 422 with a sentence for each field that is wrong."""
    problems = {word: "There is no such field." for word in given if word not in {"name", "born"}}
    name = " ".join(given["name"].split()) if isinstance(given.get("name"), str) else ""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        problems["name"] = "A name has 1 to 100 characters that can be printed."
    born = _date(given.get("born"))
    if born is None or not date(1850, 1, 1) <= born <= date.today():  # noqa: DTZ011  # a birthday is local
        problems["born"] = "A date of birth is written as 1990-05-17, and is not in the future."
    if problems:
        raise Problem(422, "This can be no patient.", problems=problems)
    return {"name": name, "born": born}


def _date(given: object) -> date | None:
    try:
        return date.fromisoformat(given) if isinstance(given, str) and len(given) == 10 else None
    except ValueError:
        return None


SERVICE = Service("patient", __doc__, metadata, routes, fill=fill)

if __name__ == "__main__":
    SERVICE.main()
