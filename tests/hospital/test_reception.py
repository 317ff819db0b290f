"""Reception: a check-in, once, of a patient that exists; and what it says when that can not be known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from examples.hospital import reception
from examples.hospital.reception import SERVICE
from tests.hospital.served import served

CHECK_IN = "/reception/check_in_patient"


class ScriptedPatients(httpx.AsyncBaseTransport):
    """A patient service in which everybody below 100 is a patient; it may be down, slow, failing or talk nonsense."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.delay = 0.0
        self.status = 200
        self.body: object = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        patient_id = int(request.url.path.rpartition("/")[2])
        if self.status != 200 or patient_id >= 100:
            return httpx.Response(404 if self.status == 200 else self.status, json={"error": "scripted"})
        return httpx.Response(200, json=self.body or {"id": patient_id, "name": f"Patient {patient_id}"})


@pytest.fixture
def patients(monkeypatch: pytest.MonkeyPatch) -> ScriptedPatients:
    scripted = ScriptedPatients()
    monkeypatch.setattr(reception, "AsyncResilientTransport", lambda _registry: scripted)
    return scripted


@pytest.fixture
async def desk(patients: ScriptedPatients, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(SERVICE, tmp_path) as client:
        yield client


async def count(desk: httpx.AsyncClient) -> int:
    return int((await desk.get("/reception/check_ins")).json()["count"])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_patient_is_checked_in(desk: httpx.AsyncClient, method: str) -> None:
    """201 with the patient's name; the list has it from then on."""
    answer = await desk.request(method, CHECK_IN, params={"patientId": 7})
    assert answer.status_code == 201
    assert (answer.json()["patient"], answer.json()["seen_lately"]) == ("Patient 7", False)
    (listed,) = (await desk.get("/reception/check_ins")).json()["check_ins"]
    assert (listed["patient_id"], listed["reference"]) == (7, answer.json()["reference"])


async def test_other_methods_check_nobody_in(desk: httpx.AsyncClient) -> None:
    """HEAD, which other routes take with GET, changes nothing: 405."""
    for method in ("HEAD", "PUT", "DELETE"):
        assert (await desk.request(method, CHECK_IN, params={"patientId": 7})).status_code == 405
    assert await count(desk) == 0


async def test_the_same_key_checks_in_once(desk: httpx.AsyncClient, patients: ScriptedPatients) -> None:
    """Sent again, later or at the same moment, it is the same check-in; 201 the first time, then 200."""
    patients.delay = 0.05  # so that all of them are under way before the first is written
    several = await asyncio.gather(
        *(desk.post(CHECK_IN, params={"patientId": 7}, headers={"Idempotency-Key": "k"}) for _ in range(8))
    )
    later = await desk.post(CHECK_IN, params={"patientId": 7}, headers={"Idempotency-Key": "k"})
    assert sorted(answer.status_code for answer in several) == [200] * 7 + [201]
    assert later.status_code == 200
    assert len({answer.json()["reference"] for answer in (*several, later)}) == 1
    assert await count(desk) == 1


async def test_a_key_belongs_to_one_patient(desk: httpx.AsyncClient) -> None:
    """422 when it comes with another one; keys that are none are refused with 400."""
    headers = {"Idempotency-Key": "k"}
    await desk.post(CHECK_IN, params={"patientId": 7}, headers=headers)
    assert (await desk.post(CHECK_IN, params={"patientId": 8}, headers=headers)).status_code == 422
    for wrong in ("", "a b", "x" * 101):
        answer = await desk.post(CHECK_IN, params={"patientId": 8}, headers={"Idempotency-Key": wrong})
        assert answer.status_code == 400
    assert await count(desk) == 1


@pytest.mark.parametrize(
    "query", ["", "?patientId=", "?patientId=x", "?patientId=-1", "?patientId=99999999999999999999"]
)
async def test_a_bad_id_checks_nobody_in(desk: httpx.AsyncClient, patients: ScriptedPatients, query: str) -> None:
    """400, and the patient service is not even asked."""
    answer = await desk.post(f"{CHECK_IN}{query}")
    assert answer.status_code == 400
    assert "patientId" in answer.json()["error"]
    assert (await count(desk), patients.asked) == (0, 0)


async def test_an_unknown_patient_is_not_checked_in(desk: httpx.AsyncClient) -> None:
    """404, however often: it opens no circuit, and nothing is written."""
    for _ in range(8):
        answer = await desk.post(CHECK_IN, params={"patientId": 100})
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            "There is no patient 100, so nobody was checked in.",
        )
    assert await count(desk) == 0


@pytest.mark.parametrize("trouble", ["down", "failing", "nonsense"])
async def test_without_the_patient_service_a_patient_seen_lately_is_let_in(
    desk: httpx.AsyncClient, patients: ScriptedPatients, trouble: str
) -> None:
    """What was found once is believed for a while, and the answer says so; of others nothing is known: 503."""
    await desk.post(CHECK_IN, params={"patientId": 7})
    patients.down = trouble == "down"
    patients.status = 500 if trouble == "failing" else 200
    patients.body = {"id": "x"} if trouble == "nonsense" else None
    known = await desk.post(CHECK_IN, params={"patientId": 7})
    assert (known.status_code, known.json()["seen_lately"]) == (201, True)
    unknown = await desk.post(CHECK_IN, params={"patientId": 8})
    assert unknown.status_code == 503
    assert unknown.json()["error"] == "Patient information is currently unavailable, so nobody was checked in."
    assert int(unknown.headers["Retry-After"]) >= 1
    assert await count(desk) == 2


async def test_an_open_circuit_asks_nobody(desk: httpx.AsyncClient, patients: ScriptedPatients) -> None:
    """After five failures the answer is immediate, and says when to come back."""
    patients.down = True
    for _ in range(5):
        await desk.post(CHECK_IN, params={"patientId": 8})
    asked = patients.asked
    answer = await desk.post(CHECK_IN, params={"patientId": 8})
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert patients.asked == asked


async def test_a_patient_service_that_hangs_costs_a_limited_time(
    desk: httpx.AsyncClient, patients: ScriptedPatients
) -> None:
    """The question has a time limit of its own."""
    patients.delay = 30.0
    answer = await desk.post(CHECK_IN, params={"patientId": 8})
    assert answer.status_code == 503
    assert answer.elapsed.total_seconds() < reception.PATIENCE + 2.0
