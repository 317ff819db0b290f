"""The patient service: what it answers, and what it says to bad input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.hospital.database import Database
from examples.hospital.patient import FIRST, SERVICE, fill, metadata
from tests.hospital.served import served


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(SERVICE, tmp_path) as client:
        yield client


async def count(patient: httpx.AsyncClient) -> int:
    return int((await patient.get("/patient")).json()["count"])


async def test_a_patient_is_found_and_the_replica_says_who_answered(patient: httpx.AsyncClient) -> None:
    """Patient 1 is always there; the replica's id is a field and a header of every answer."""
    answer = await patient.get("/patient/1")
    assert answer.status_code == 200
    assert answer.json() == {"id": 1, "name": "Ada Lovelace", "born": "1815-12-10", "served_by": "replica-1"}
    assert answer.headers["X-Served-By"] == "replica-1"


async def test_patients_are_listed_a_page_at_a_time(patient: httpx.AsyncClient) -> None:
    """`after` and `limit` walk through all of them."""
    first = (await patient.get("/patient", params={"limit": 2})).json()
    rest = (await patient.get("/patient", params={"after": first["patients"][-1]["id"]})).json()
    assert first["count"] == rest["count"] == len(FIRST)
    assert [one["id"] for one in (*first["patients"], *rest["patients"])] == [1, 2, 3, 4, 5]


async def test_a_new_patient_is_written(patient: httpx.AsyncClient) -> None:
    """201, with the place where it is found from now on."""
    made = await patient.post("/patient", json={"name": "  Elizabeth   Blackwell ", "born": "1921-02-03"})
    assert made.status_code == 201
    found = await patient.get(made.headers["Location"])
    assert found.json()["name"] == made.json()["name"] == "Elizabeth Blackwell"


@pytest.mark.parametrize("given", ["0", "-1", "x", "1.0", "01", "%201", "\uff11", "9" * 19, "9" * 400, "1e3", "%00"])
async def test_a_bad_id_is_refused(patient: httpx.AsyncClient, given: str) -> None:
    """400 and a sentence; what was sent is quoted in part only."""
    answer = await patient.get(f"/patient/{given}")
    assert answer.status_code == 400
    assert answer.json()["error"] == "id must be a whole number from 1 on."
    assert len(answer.text) < 300


async def test_an_unknown_patient_is_not_found(patient: httpx.AsyncClient) -> None:
    """404 names the patient."""
    answer = await patient.get("/patient/987654321")
    assert (answer.status_code, answer.json()["error"]) == (404, "There is no patient 987654321.")


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({}, ["born", "name"]),
        ({"name": "", "born": "1990-01-01"}, ["name"]),
        ({"name": "x" * 101, "born": "1990-01-01"}, ["name"]),
        ({"name": "a\u202eb", "born": "1990-01-01"}, ["name"]),
        ({"name": ["x"], "born": 7}, ["born", "name"]),
        ({"name": "Ada", "born": "1990-02-30"}, ["born"]),
        ({"name": "Ada", "born": "19900101"}, ["born"]),
        ({"name": "Ada", "born": "2990-01-01"}, ["born"]),
        ({"name": "Ada", "born": "1990-01-01", "id": 1}, ["id"]),
    ],
    ids=str,
)
async def test_what_can_be_no_patient_is_explained_by_field(
    patient: httpx.AsyncClient, given: dict[str, Any], fields: list[str]
) -> None:
    """422, a sentence for each wrong field, and nothing is written."""
    answer = await patient.post("/patient", json=given)
    assert answer.status_code == 422
    assert sorted(answer.json()["problems"]) == fields
    assert await count(patient) == len(FIRST)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 10_000, {}, 400),
        (b"name=Ada", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b" " * 16_385, {}, 413),
    ],
    ids=["nothing", "half", "a list", "no text", "deep", "a form", "too long"],
)
async def test_a_body_that_is_no_json_object_is_refused(
    patient: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Each with its own status and a sentence; nothing is written."""
    answer = await patient.post("/patient", content=body, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")
    assert await count(patient) == len(FIRST)


async def test_a_body_without_a_length_is_read_no_further_than_it_may_be_long(patient: httpx.AsyncClient) -> None:
    """413 comes while the body is still being sent."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 4096
            yield b" " * 4096

    answer = await patient.post("/patient", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


async def test_other_methods_and_paths_are_told_as_such(patient: httpx.AsyncClient) -> None:
    """405 and 404, as JSON with the replica's id."""
    for method, path, status in (("DELETE", "/patient/1", 405), ("GET", "/nowhere", 404)):
        answer = await patient.request(method, path)
        assert (answer.status_code, answer.json()["served_by"]) == (status, "replica-1")


async def test_two_replicas_may_set_up_one_database_at_once(tmp_path: Path) -> None:
    """Whoever is second finds the tables and the first patients; they are there once."""
    databases = [Database(f"sqlite:///{tmp_path / 'patient.db'}", metadata) for _ in range(6)]
    await asyncio.gather(*(database.set_up(fill) for database in databases))
    async with served(SERVICE, tmp_path) as client:
        assert await count(client) == len(FIRST)


async def test_two_replicas_write_at_once(tmp_path: Path) -> None:
    """Both wait for their turn; no write is lost and none fails."""
    async with served(SERVICE, tmp_path) as one, served(SERVICE, tmp_path, name="replica-2") as two:
        new = {"name": "Somebody", "born": "1990-01-01"}
        answers = await asyncio.gather(*(client.post("/patient", json=new) for client in (one, two) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {201}
        assert await count(one) == await count(two) == len(FIRST) + 40


async def test_a_service_misbehaves_when_it_is_told_to(tmp_path: Path) -> None:
    """Late, failing, well again; and not at all when it was not started for that."""
    async with served(SERVICE, tmp_path, chaos=True) as client:
        assert (await client.post("/chaos", json={"fail": True})).json()["chaos"] == {"fail": True}
        assert (await client.get("/patient/1")).status_code == 500
        for wrong in ({"fail": 1}, {"latency": -1}, {"latency": "x"}, {"what": 1}):
            assert (await client.post("/chaos", json=wrong)).status_code == 422
        assert (await client.get("/patient/1")).status_code == 500
        await client.post("/chaos", json={"latency": 0.05})
        assert (await client.get("/patient/1")).elapsed.total_seconds() >= 0.05
        await client.post("/chaos", json={})
        assert (await client.get("/patient/1")).status_code == 200
    async with served(SERVICE, tmp_path) as client:
        assert (await client.post("/chaos", json={"fail": True})).status_code == 404
