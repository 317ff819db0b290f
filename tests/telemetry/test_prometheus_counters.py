"""Counters are exact, never go back, and names stay few."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import httpx
import pytest

import resilient
from resilient import Bulkhead, CircuitBreaker, CircuitOpenError, Keyed, Pipeline, Retry
from resilient.telemetry.prometheus_ledger import Ledger
from resilient.testing import VirtualClock
from resilient.transport import ResilientTransport
from tests.listed import Listed, instance
from tests.telemetry.scrapes import Scrapes

CALLS = "resilient_circuitbreaker_calls_total"


class Thing:
    """Something that may be a member of a series."""


def test_counters_equal_what_was_called_from_many_threads() -> None:
    """Conservation: of 4,000 calls from eight threads none is lost or counted twice, scrapes in between included."""
    breaker = CircuitBreaker("busy", failure_rate=None, consecutive_failures=None, slow_call_duration=60.0)
    bulkhead = Bulkhead(2, name="busy")

    @resilient.command("busy", breaker=breaker, bulkhead=bulkhead)
    def work(number: int) -> int:
        if number % 5 == 0:
            raise OSError
        return number

    scrapes = Scrapes()
    ends: list[str] = []

    def many() -> None:
        for number in range(500):
            try:
                work(number)
                ends.append("successful")
            except OSError:
                ends.append("failed")
            except resilient.RejectedError:
                ends.append("rejected")

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    before = 0.0
    while any(thread.is_alive() for thread in threads):
        values = scrapes.values()
        total = sum(value for (name, _), value in values.items() if name == "resilient_command_calls_total")
        assert total >= before
        before = total
    for thread in threads:
        thread.join()
    expected = {kind: ends.count(kind) for kind in ("successful", "failed", "rejected")}
    found = {
        kind: scrapes.value("resilient_command_calls_total", name="busy", group=work.__module__, kind=kind)
        for kind in expected
    }
    assert found == expected
    assert sum(expected.values()) == 4000
    assert scrapes.value(CALLS, name="busy", kind="successful") == expected["successful"]
    assert scrapes.value(CALLS, name="busy", kind="failed") == expected["failed"]
    assert scrapes.value("resilient_bulkhead_calls_total", name="busy", kind="rejected") == expected["rejected"]


def test_a_counter_does_not_go_back_when_its_policy_is_reset() -> None:
    """Prometheus would take it for a restart and count the rest again."""
    retry = Retry("again", attempts=2, wait=0.0)
    scrapes = Scrapes()
    with pytest.raises(OSError, match="no"):
        retry.call(failing)
    assert scrapes.value("resilient_retry_attempts_total", name="again") == 1
    retry.reset()
    assert scrapes.value("resilient_retry_attempts_total", name="again") == 1
    with pytest.raises(OSError, match="no"):
        retry.call(failing)
    assert scrapes.value("resilient_retry_attempts_total", name="again") == 2


def failing() -> None:
    """A call that never goes well."""
    raise OSError("no")


def test_the_policies_of_a_keyed_are_one_series() -> None:
    """Rule 13: a thousand tenants are no thousand names; states are counted, ratios are absent."""
    breakers: Keyed[Any, CircuitBreaker] = Keyed(lambda tenant: CircuitBreaker(f"db.{tenant}", minimum_calls=1))
    for tenant in range(20):
        breakers[tenant].call(len, "")
    breakers[0].force_open()
    named, unnamed = Scrapes(keyed={"db": breakers}), Scrapes()
    assert named.value("resilient_circuitbreaker_state", name="db", state="closed") == 19
    assert named.value("resilient_circuitbreaker_state", name="db", state="forced_open") == 1
    assert named.value(CALLS, name="db", kind="successful") == 20
    assert named.value("resilient_circuitbreaker_failure_ratio", name="db") is None
    assert unnamed.value(CALLS, name="keyed", kind="successful") == 20
    assert not any(("name", "db.3") in labels for _, labels in named.values())


def test_pipelines_and_commands_of_a_keyed_are_one_series_too() -> None:
    """What is inside of a value is the key's as well."""
    pipelines: Keyed[int, Pipeline[Any]] = Keyed(lambda key: Pipeline(Retry(f"r{key}"), Bulkhead(2, name=f"b{key}")))
    for key in range(3):
        pipelines[key].call(len, "")
    scrapes = Scrapes(keyed={"shards": pipelines})
    assert scrapes.value("resilient_bulkhead_calls_total", name="shards", kind="permitted") == 3
    assert scrapes.value("resilient_bulkhead_max_allowed_concurrent_calls", name="shards") == 6
    assert scrapes.value("resilient_retry_attempts_total", name="shards") == 0


def test_a_key_can_be_shown_on_its_own() -> None:
    """The one tenant that matters."""
    breakers: Keyed[Any, CircuitBreaker] = Keyed(lambda tenant: CircuitBreaker(f"db.{tenant}"))
    for tenant in ("acme", "other"):
        breakers[tenant].call(len, "")
    scrapes = Scrapes(labelled=["db.acme"])
    assert scrapes.value(CALLS, name="db.acme", kind="successful") == 1
    assert scrapes.value(CALLS, name="keyed", kind="successful") == 1


def test_a_sum_does_not_go_back_when_a_key_is_dropped() -> None:
    """What a dropped key had counted when it was last seen stays in the sum."""
    breakers: Keyed[Any, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(f"k{key}"), max_keys=2)
    scrapes = Scrapes(keyed={"k": breakers})
    for key in range(2):
        breakers[key].call(len, "")
    assert scrapes.value(CALLS, name="k", kind="successful") == 2
    for key in range(2):
        breakers[key].reset()  # now they remember nothing, and make room
    breakers[2].call(len, "")
    assert len(breakers) == 2
    assert scrapes.value(CALLS, name="k", kind="successful") == 3


def test_numbered_names_beyond_the_tenth_are_one() -> None:
    """A program that makes a breaker per call makes no series per call."""
    with pytest.warns(resilient.ResilienceWarning):
        made = [CircuitBreaker("percall") for _ in range(40)]
    names = {dict(labels)["name"] for name, labels in Scrapes().values() if name == CALLS}
    mine = {name for name in names if name.startswith("percall")}
    assert mine == {"percall", *(f"percall#{number}" for number in range(2, 11)), "percall#11+"}
    assert made


def test_hosts_of_a_transport_are_one_series_and_its_services_have_their_own(clock: VirtualClock) -> None:
    """Hosts and unknown names come from users, services from the registry."""
    discovery = Listed(instance("a"), clock=clock)
    answers = httpx.MockTransport(lambda request: httpx.Response(200))
    transport = ResilientTransport(discovery, transport=lambda instance: answers, clock=clock)
    with httpx.Client(transport=transport) as client:
        client.get("http://producer/")
        for number in range(5):
            client.get(f"http://host{number}.example.org/")
        scrapes = Scrapes(labelled=["http://host1.example.org:80"])
        assert scrapes.value(CALLS, name="producer", kind="successful") == 1
        assert scrapes.value("resilient_balancer_picks_total", name="producer", host="a.test:80") == 1
        assert scrapes.value(CALLS, name="hosts", kind="successful") == 4
        assert scrapes.value(CALLS, name="http://host1.example.org:80", kind="successful") == 1


def test_an_open_circuit_of_a_host_is_seen_in_the_sum(clock: VirtualClock) -> None:
    """The number of circuits per state says that something is wrong."""
    breakers: Keyed[Any, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(f"k{key}", clock=clock))
    breakers["a"].open(30.0)
    with pytest.raises(CircuitOpenError):
        breakers["a"].call(len, "")
    scrapes = Scrapes(keyed={"k": breakers})
    assert scrapes.value("resilient_circuitbreaker_state", name="k", state="open") == 1
    assert scrapes.value("resilient_circuitbreaker_not_permitted_calls_total", name="k", kind="not_permitted") == 1


def test_an_older_reading_that_arrives_late_is_no_reset() -> None:
    """Two scrapes at once: the one that read first and entered last changes nothing."""
    ledger, thing = Ledger(), Thing()
    series, member = ("calls", "", "db"), weakref.ref(thing)
    older = ledger.begin()
    newer = ledger.begin()
    assert ledger.totals({series: {member: 10.0}}, newer) == {series: 10.0}
    assert ledger.totals({series: {member: 7.0}}, older) == {series: 10.0}
    assert ledger.totals({}, older) == {series: 10.0}


def test_a_member_that_left_does_not_come_back_with_an_older_reading() -> None:
    """What it counted is kept once, at this scrape and at every later one."""
    ledger, one, two = Ledger(), Thing(), Thing()
    series, first, second = ("calls", "", "db"), weakref.ref(one), weakref.ref(two)
    ledger.totals({series: {first: 100.0, second: 1.0}}, ledger.begin())
    older = ledger.begin()
    newer = ledger.begin()
    assert ledger.totals({series: {second: 1.0}}, newer) == {series: 101.0}
    assert ledger.totals({series: {first: 100.0, second: 1.0}}, older) == {series: 101.0}
    assert ledger.totals({series: {second: 1.0}}, ledger.begin()) == {series: 101.0}


def test_a_reset_and_a_departure_keep_what_was_counted() -> None:
    """A smaller value in a newer reading was a reset; a member that is missing from it is gone."""
    ledger, one, two = Ledger(), Thing(), Thing()
    series, first, second = ("calls", "", "db"), weakref.ref(one), weakref.ref(two)
    ledger.totals({series: {first: 10.0, second: 1.0}}, ledger.begin())
    assert ledger.totals({series: {first: 2.0, second: 1.0}}, ledger.begin()) == {series: 13.0}
    assert ledger.totals({series: {second: 4.0}}, ledger.begin()) == {series: 16.0}
    assert ledger.totals({}, ledger.begin()) == {}
    assert ledger.totals({series: {second: 5.0}}, ledger.begin()) == {series: 5.0}
