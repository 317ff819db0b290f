"""The reception: checks patients in, and tells ward and finance by messages.

    POST /reception/check_in_patient?patientId=1    GET does it, too, for a person with a browser
    GET  /reception/check_ins                       all, a page at a time

The patient service is asked first whether there is such a patient. While it is away, patients that were seen lately are
let in all the same; of others nothing is known, and nobody is checked in.

With an `Idempotency-Key` of its own a check-in can be sent again, and happens once.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from examples.hospital.answers import Problem, number, page_of
from examples.hospital.database import inserted
from examples.hospital.messages import Message
from examples.hospital.post import CHECK_IN_COMPLETED, CHECK_IN_PATIENT, Post, PostRoom, about
from examples.hospital.service import Replica, Service
from resilient import CircuitBreaker, Fallback, RejectedError, StaleCache, command
from resilient.transport import AsyncResilientTransport

PATIENCE: Final = 1.5  # seconds for the question whether there is such a patient; it takes 0.01 s
SEEN_LATELY: Final = 600.0  # seconds for which a patient that was found once is believed to be one
_KEY: Final = re.compile(r"[!-~]{1,100}")

metadata = MetaData()
room = PostRoom(metadata)
check_ins = Table(
    "check_ins",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("reference", String(32), nullable=False, unique=True),  # how the others speak of it
    Column("patient_id", BigInteger, nullable=False),
    Column("at", DateTime, nullable=False),
    Column("state", String(20), nullable=False),
    Column("idempotency_key", String(100), unique=True),
)


@dataclass(frozen=True, slots=True)
class Patient:
    """What reception knows of one.

    Attributes:
        id: the patient's.
        name: the patient's.
        seen_lately: whether nobody could be asked now.
    """

    id: int
    name: str
    seen_lately: bool = False


Ask = Callable[[int], Awaitable[Patient]]


def seen_lately(patient: Patient, _age: float) -> Patient:
    """`patient`, as far as is known."""
    return replace(patient, seen_lately=True)


def guarded(http: httpx.AsyncClient) -> Ask:
    """A question to the patient service: who is that? It raises httpx.HTTPStatusError, 404, when nobody is."""
    circuit = CircuitBreaker("patient", consecutive_failures=5, open_duration=2.0, max_open_duration=5.0)
    lately = Fallback(StaleCache(max_age=SEEN_LATELY, mark=seen_lately))

    @command("patient", timeout=PATIENCE, breaker=circuit, fallback=lately)
    async def who_is(patient_id: int) -> Patient:
        answer = await http.get(f"http://patient/patient/{patient_id}")
        answer.raise_for_status()  # 404 is an answer, no failure: it opens no circuit and gets no fallback
        found = answer.json()
        return Patient(int(found["id"]), str(found["name"]))

    return who_is


async def _exists(who_is: Ask, patient_id: int) -> Patient:
    try:
        return await who_is(patient_id)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            raise Problem(404, f"There is no patient {patient_id}, so nobody was checked in.") from error
        raise _unavailable(error) from error
    except Exception as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Problem:
    wait = error.retry_after if isinstance(error, RejectedError) else None
    return Problem(
        503,
        "Patient information is currently unavailable, so nobody was checked in.",
        headers={"Retry-After": f"{(wait or 0) + 1:.0f}"},
    )


class Reception:
    """What the routes of one replica work with.

    Args:
        replica: this one.
        who_is: asks for a patient.
        post: tells ward and finance.
    """

    def __init__(self, replica: Replica, who_is: Ask, post: Post) -> None:
        self._replica = replica
        self._database = replica.database
        self._who_is = who_is
        self._post = post

    async def check_in(self, request: Request) -> Response:
        """Check a patient in."""
        patient_id = number(request.query_params.get("patientId"), "patientId")
        key = request.headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            raise Problem(400, "Idempotency-Key must be 1 to 100 visible ASCII characters.")
        before = await self._before(key, patient_id)
        if before is not None:
            return self._replica.answer(before)
        patient = await _exists(self._who_is, patient_id)
        now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        reference = uuid.uuid4().hex
        row = {"reference": reference, "patient_id": patient.id, "at": now, "state": "checked in"}
        try:
            async with self._database.writing() as connection:
                number_of_it = await inserted(connection, check_ins, **row, idempotency_key=key)
                await room.send(connection, CHECK_IN_PATIENT, reference=reference, patient_id=patient.id)
        except IntegrityError:  # the same request has just come twice
            before = await self._before(key, patient_id)
            if before is None:
                raise
            return self._replica.answer(before)
        self._post.sent()
        shown = _shown({"id": number_of_it, **row})
        return self._replica.answer({**shown, "patient": patient.name, "seen_lately": patient.seen_lately}, 201)

    async def _before(self, key: str | None, patient_id: int) -> dict[str, Any] | None:
        """What the same request has done before."""
        if key is None:
            return None
        async with self._database.reading() as connection:
            wanted = select(check_ins).where(check_ins.c.idempotency_key == key)
            row = (await connection.execute(wanted)).mappings().first()
        if row is None:
            return None
        if row["patient_id"] != patient_id:
            raise Problem(422, "This Idempotency-Key was used for another patient.")
        return _shown(row)

    async def every(self, request: Request) -> Response:
        """All check-ins."""
        after, limit = page_of(request)
        wanted = select(check_ins).where(check_ins.c.id > after).order_by(check_ins.c.id).limit(limit)
        states = select(check_ins.c.state, func.count()).group_by(check_ins.c.state)
        async with self._database.reading() as connection:
            counts = {str(state): int(count) for state, count in await connection.execute(states)}
            rows = (await connection.execute(wanted)).mappings().all()
        return self._replica.answer(
            {"count": sum(counts.values()), "states": counts, "check_ins": [_shown(row) for row in rows]}
        )


async def completed(connection: AsyncConnection, message: Message) -> None:
    """The invoice is written: the check-in is complete."""
    reference = about(message)["reference"]
    await connection.execute(update(check_ins).where(check_ins.c.reference == reference).values(state="completed"))


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "reference": row["reference"],
        "patient_id": row["patient_id"],
        "at": f"{row['at'].isoformat()}Z",
        "state": row["state"],
    }


def routes(replica: Replica) -> Sequence[BaseRoute]:
    """What can be asked."""
    http = replica.hold(httpx.AsyncClient(transport=AsyncResilientTransport(replica.registry)))
    post = replica.post(room, {CHECK_IN_COMPLETED: completed})
    reception = Reception(replica, guarded(http), post)
    check_in = Route("/reception/check_in_patient", reception.check_in, methods=["GET", "POST"])
    check_in.methods = {"GET", "POST"}  # Starlette adds HEAD to GET, and who only asks for a head checks nobody in
    return [
        check_in,
        Route("/reception/check_ins", reception.every, methods=["GET"]),
        replica.counts_of(post),
    ]


SERVICE = Service("reception", __doc__, metadata, routes)

if __name__ == "__main__":
    SERVICE.main()
