"""The hospital as real processes: what a user of the gateway sees while its parts are away, slow or failing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from examples.hospital.system import REPLICAS, id_of
from tests.hospital.running import Hospital, running_hospital
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SORRY = "Patient information is currently unavailable"


@pytest.fixture(scope="module")
def running() -> Iterator[Hospital]:
    with running_hospital() as hospital:
        yield hospital


@pytest.fixture
def hospital(running: Hospital) -> Iterator[Hospital]:
    """The same processes for every test; each leaves them well."""
    yield running
    running.well()


@pytest.mark.parametrize(
    ("path", "name"), [("/patient/1", "patient"), ("/ward/entries", "ward"), ("/finance/invoices", "finance")]
)
def test_both_replicas_answer_in_turn(hospital: Hospital, path: str, name: str) -> None:
    """The gateway finds both by the service's name; each says who it is."""
    replicas = {id_of(replica.name) for replica in hospital.system.replicas[name]}
    assert len(replicas) == REPLICAS[name] == 2

    def both() -> bool:  # on a busy machine a first answer is slow, and costs its replica some
        seen = [hospital.user.ask(path) for _ in range(8)]
        assert {one.status for one in seen} == {200}
        assert all(one.served_by == one.document["served_by"] for one in seen)
        return {one.served_by for one in seen} == replicas

    wait_until(both, timeout=20.0, what="both replicas answering")


def test_both_patient_replicas_have_the_same_patients(hospital: Hospital) -> None:
    """What one has written the other one reads."""
    made = hospital.user.ask("/patient", "POST", json={"name": "Rosalind Franklin", "born": "1920-07-25"})
    assert made.status == 201
    hospital.system.wait_until_found()
    seen = [hospital.user.ask(f"/patient/{made.document['id']}") for _ in range(10)]
    assert {one.document["name"] for one in seen} == {"Rosalind Franklin"}
    assert len({one.served_by for one in seen}) == 2


def test_bad_input_is_explained_through_the_gateway(hospital: Hospital) -> None:
    """The service's own words and status reach the user, and open no circuit."""
    ask, as_json = hospital.user.ask, {"Content-Type": "application/json"}
    for _ in range(4):
        assert ask("/patient/x").status == 400
        assert ask("/patient/99999").status == 404
        assert ask("/patient", "POST", content=b" " * 20_000, headers=as_json).status == 413
        assert ask("/patient", "POST", content=b" " * 70_000).status == 413
        assert ask("/patient", "POST", json={"name": ""}).status == 422
        assert ask("/reception/check_in_patient", "POST").status == 400
        assert hospital.user.check_in(99999).status == 404
        assert ask("/nowhere").status == 404
        assert ask("/ward/entries", "POST").status == 405
    assert set(hospital.system.circuits().values()) == {"closed"}


def test_a_replica_that_is_killed_costs_no_user_an_answer(hospital: Hospital) -> None:
    """The other one answers; a new one is found and asked."""
    system = hospital.system
    gone = system.replicas["patient"][0]
    with hospital.user.asking("/patient/1", pause=0.01) as seen:
        wait_until(lambda: len(seen) >= 10)
        gone.kill()
        wait_until(lambda: gone.address.removeprefix("http://") not in system.registered("patient"))
        new = system.replace_replica(gone)
        wait_until(lambda: any(one.served_by == id_of(new.name) for one in seen), timeout=20.0)
    assert {one.status for one in seen} == {200}


def test_a_replica_that_hangs_is_left_alone(hospital: Hospital) -> None:
    """Its first requests are answered by the other one after a moment, and then it gets hardly any."""
    hospital.system.wait_until_found()
    hangs = hospital.system.replicas["patient"][0]
    hangs.suspend()
    try:
        seen = [hospital.user.ask("/patient/1") for _ in range(20)]
    finally:
        hangs.resume()
    assert {one.status for one in seen} == {200}
    assert id_of(hangs.name) not in {one.served_by for one in seen}


def test_a_replica_that_is_taken_away_costs_no_user_an_answer(hospital: Hospital) -> None:
    """It leaves the registry first and answers what still comes: under load every answer is good."""
    system = hospital.system
    extra = system.add_replica("patient")
    with hospital.user.asking("/patient/1", pause=0.002, users=4) as seen:
        wait_until(lambda: any(one.served_by == id_of(extra.name) for one in seen), timeout=20.0)
        system.remove_replica(extra)
        after = time.monotonic()
        wait_until(lambda: sum(one.asked > after for one in list(seen)) >= 50)
    assert [one for one in seen if one.status != 200] == []
    assert id_of(extra.name) not in {one.served_by for one in seen if one.asked > after}


def test_when_every_patient_replica_is_gone_the_user_reads_a_sentence(hospital: Hospital) -> None:
    """503 or 502 with Retry-After, in the gateway's own words; reception lets in whom it has seen lately."""
    system, user = hospital.system, hospital.user
    assert user.check_in(2).status == 201
    both = list(system.replicas["patient"])
    for replica in both:
        replica.kill()
    first = user.ask("/patient/1")
    assert first.status in {502, 503}
    assert first.error == SORRY
    assert first.served_by == ""
    later = hospital.unavailable("/patient/1")
    assert later.error == SORRY
    assert later.retry_after is not None
    known, unknown = user.check_in(2), user.check_in(3)
    assert (known.status, known.document["seen_lately"]) == (201, True)
    assert (unknown.status, unknown.error) == (503, f"{SORRY}, so nobody was checked in.")
    for replica in both:
        system.replace_replica(replica)


def test_when_patient_fails_the_user_reads_the_same_sentence(hospital: Hospital) -> None:
    """A 500 of the service never reaches the user; after five of them the circuit answers at once."""
    hospital.system.chaos("patient", fail=True)
    first = hospital.user.ask("/patient/1")
    assert (first.status, first.error) == (502, SORRY)
    later = hospital.unavailable("/patient/1")
    assert (later.error, later.retry_after is not None) == (SORRY, True)
    assert hospital.system.circuits()["patient"] in {"open", "half-open"}


@pytest.mark.parametrize("how", ["slow", "hanging"])
def test_when_patient_is_slow_or_hangs_the_user_waits_a_limited_time(hospital: Hospital, how: str) -> None:
    """504 within the route's time limit, the same sentence; then the circuit opens and the answer is immediate."""
    if how == "slow":
        hospital.system.chaos("patient", latency=5.0)
    else:
        for replica in hospital.system.replicas["patient"]:
            replica.suspend()
    try:
        first = hospital.user.ask("/patient/1")
        assert (first.status, first.error) == (504, SORRY)
        assert first.milliseconds < 4000  # the limit is 2 s; the rest is for a busy machine
        assert first.retry_after is not None
        later = hospital.unavailable("/patient/1", within=30.0)
        assert later.error == SORRY
    finally:
        for replica in hospital.system.replicas["patient"]:
            replica.resume()


def test_when_reception_is_away_or_hangs_the_user_reads_a_sentence(hospital: Hospital) -> None:
    """The same for reception, and nobody is checked in twice: a check-in is not sent again by the gateway."""
    (reception,) = hospital.system.replicas["reception"]
    reception.suspend()
    try:
        hanging = hospital.user.ask("/reception/check_ins")
    finally:
        reception.resume()
    assert (hanging.status, hanging.error) == (504, "Reception is currently unavailable")
    reception.kill()
    away = hospital.user.check_in(1)
    assert away.status in {502, 503}
    assert away.error == "Reception is currently unavailable"
    assert away.retry_after is not None
    hospital.system.replace_replica(reception)


def test_a_patient_service_that_hangs_does_not_hold_up_reception(hospital: Hospital) -> None:
    """Each route has its own connections and limits: no answer waits for patient's. `make bench` has the latencies."""
    for replica in hospital.system.replicas["patient"]:
        replica.suspend()
    try:
        with hospital.user.asking("/patient/1", users=10, pause=0.01) as seen:
            wait_until(lambda: len(seen) >= 10)
            others = [hospital.user.ask("/reception/check_ins?limit=1") for _ in range(200)]
    finally:
        for replica in hospital.system.replicas["patient"]:
            replica.resume()
    assert {one.status for one in seen} <= {503, 504}
    assert {one.status for one in others} == {200}
