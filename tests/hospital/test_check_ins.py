"""Check-ins go from reception to ward and finance by messages, once each, whatever is killed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from examples.hospital.system import Progress
from examples.hospital.user import Seen
from tests.hospital.running import Hospital, running_hospital
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    with running_hospital() as hospital:
        yield hospital


def complete(hospital: Hospital, count: int, *, within: float = 30.0) -> Progress:
    """Wait until so many check-ins are there and everything has happened for each."""

    def done() -> bool:
        now = hospital.system.done()
        return now.check_ins >= count and now.complete

    wait_until(done, timeout=within, what=f"{count} check-ins being complete")
    return hospital.system.done()


def check_in_many(hospital: Hospital, count: int, meanwhile: Callable[[threading.Event], None]) -> list[Seen]:
    """So many check-ins, each sent until it is done, by four users; `meanwhile` runs until it has done its harm."""
    begun = threading.Event()

    def one(number: int) -> Seen:
        if number == count // 10:
            begun.set()
        return hospital.user.insist(1 + number % 5)

    with ThreadPoolExecutor(5) as pool:
        harm = pool.submit(meanwhile, begun)
        seen = list(pool.map(one, range(count)))
        harm.result()
    return seen


def total(hospital: Hospital, name: str, word: str) -> int:
    return sum(
        counts[word] for replica, counts in hospital.system.messages().items() if replica.partition("-")[0] == name
    )


def test_a_check_in_reaches_ward_and_finance(hospital: Hospital) -> None:
    """The ward expects the patient, finance writes an invoice, reception and ward hear that it is complete."""
    before = hospital.system.done()
    seen = hospital.user.check_in(3)
    assert seen.status == 201
    after = complete(hospital, before.check_ins + 1)
    assert after.invoices == before.invoices + 1
    (entry,) = [
        entry
        for entry in hospital.user.ask("/ward/entries?limit=1000").document["entries"]
        if entry["reference"] == seen.document["reference"]
    ]
    assert (entry["patient_id"], entry["state"]) == (3, "admitted")
    invoices = hospital.user.ask("/finance/invoices?limit=1000").document["invoices"]
    assert [one["amount"] for one in invoices if one["reference"] == seen.document["reference"]] == ["120.00 EUR"]


def test_one_member_of_each_group_takes_each_message(hospital: Hospital) -> None:
    """Both replicas of ward and finance work, and together they take each message once."""
    before = hospital.system.done()
    taken = {name: total(hospital, name, "taken") for name in ("reception", "ward", "finance")}
    for _ in range(30):
        assert hospital.user.check_in(1).status == 201
    complete(hospital, before.check_ins + 30)
    new = {name: total(hospital, name, "taken") - count for name, count in taken.items()}
    assert new == {"reception": 30, "ward": 60, "finance": 30}
    counts = hospital.system.messages()
    assert all(counts[replica]["taken"] > 0 for replica in counts)
    assert {counts[replica]["duplicates"] for replica in counts} == {0}


def test_while_the_broker_is_away_check_ins_wait_in_the_outbox(hospital: Hospital) -> None:
    """They are accepted as quickly as ever, and when the broker is back everything happens for them."""
    system = hospital.system
    assert system.broker is not None
    before = system.done()
    system.broker.kill()
    try:
        seen = [hospital.user.check_in(1) for _ in range(10)]
        wait_until(lambda: total(hospital, "reception", "pending") >= 10, what="the messages waiting")
        away = system.done()
    finally:
        system.start_broker(system.broker)
    assert {one.status for one in seen} == {201}
    assert (away.check_ins, away.entries) == (before.check_ins + 10, before.entries)
    complete(hospital, before.check_ins + 10)


def test_nothing_is_lost_and_nothing_happens_twice(hospital: Hospital) -> None:
    """200 check-ins, while broker, a finance replica and the gateway are killed, are 200 invoices and ward entries."""
    system = hospital.system
    before = complete(hospital, system.done().check_ins)

    def harm(begun: threading.Event) -> None:
        assert begun.wait(30.0)
        assert system.broker is not None
        system.broker.kill()
        finance = system.replicas["finance"][0]
        finance.kill()
        system.gateway.kill()
        system.restart_gateway()
        system.replace_replica(finance)
        system.start_broker(system.broker)

    seen = check_in_many(hospital, 200, harm)
    assert {one.status for one in seen} <= {200, 201}
    assert len({one.document["reference"] for one in seen}) == 200
    after = complete(hospital, before.check_ins + 200, within=60.0)
    assert after.check_ins == before.check_ins + 200
    assert (after.invoices, after.entries) == (before.invoices + 200, before.entries + 200)
    assert total(hospital, "ward", "dead_lettered") == total(hospital, "finance", "dead_lettered") == 0
