"""The patient service on PostgreSQL, as it is deployed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from examples.hospital.patient import FIRST
from examples.support.processes import Service
from tests.postgres_server import PostgresProcess
from tests.servers import RegistryProcess
from tests.waiting import wait_until


class Patients:
    """Two replicas, their registry and their database."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.database = stack.enter_context(PostgresProcess())
        registry = stack.enter_context(RegistryProcess())
        secret = folder / "patient_url"
        secret.write_text(f"{self.database.url}\n")
        told = ["--registry", f"{registry.url}?renew_interval=1&lease=3", "--database", f"@{secret}"]
        self.replicas = [
            Service(f"patient {number}", "examples.hospital.patient", *told, logs=folder) for number in (1, 2)
        ]
        for replica in self.replicas:
            stack.callback(replica.stop)
        for replica in self.replicas:
            replica.wait_for_address()
        self.http = stack.enter_context(httpx.Client(trust_env=False, timeout=10.0))

    def statuses(self, group: str) -> set[int]:
        """What the replicas' health answers."""
        return {self.http.get(f"{one.address}/actuator/health/{group}").status_code for one in self.replicas}


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patients]:
    """All of them, for the tests of this file."""
    with ExitStack() as stack:
        yield Patients(stack, tmp_path_factory.mktemp("patients"))


@pytest.mark.timeout(120)
def test_two_replicas_that_start_at_once_share_one_database(patients: Patients) -> None:
    """The first patients are written once, and what one writes the other one reads; the URL comes from a file."""
    first, second = patients.replicas
    assert patients.http.get(f"{first.address}/patient").json()["count"] == len(FIRST)
    made = patients.http.post(f"{first.address}/patient", json={"name": "Virginia Apgar", "born": "1909-06-07"})
    assert made.status_code == 201
    read = patients.http.get(f"{second.address}{made.headers['Location']}")
    assert (read.status_code, read.json()["name"]) == (200, "Virginia Apgar")
    wait_until(lambda: patients.statuses("readiness") == {200}, what="readiness")


@pytest.mark.timeout(120)
def test_a_database_that_dies_makes_replicas_unready_and_kills_nobody(patients: Patients) -> None:
    """Readiness is 503 within its time, liveness stays 200; when the database is back, so are they."""
    patients.database.kill()
    wait_until(lambda: patients.statuses("readiness") == {503}, timeout=20.0, what="the end of readiness")
    began = time.monotonic()
    assert patients.statuses("liveness") == {200}
    assert time.monotonic() - began < 5.0
    patients.database.start()
    wait_until(lambda: patients.statuses("readiness") == {200}, timeout=20.0, what="readiness again")
    assert patients.http.get(f"{patients.replicas[0].address}/patient/1").status_code == 200
