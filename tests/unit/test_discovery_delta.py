"""Deltas: applied when the server's hash confirms them, replaced by everything when it does not; in virtual time."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.discovery.eureka_fetch import Fetch
from resilient.discovery.eureka_mirror import Mirror
from resilient.discovery.eureka_wire import read_applications
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Agenda, Answer, Send, Server, drive
from resilient.testing import VirtualClock

Raw = dict[str, Any]


def raw(service: str, name: str, status: str = "UP", **more: Any) -> Raw:
    return {
        "instanceId": name, "hostName": f"host-{name}", "app": service.upper(), "status": status,
        "port": {"$": 80, "@enabled": "true"}, **more,
    }  # fmt: skip


def applications(listed: list[Raw], hashcode: str | None) -> bytes:
    apps: dict[str, list[Raw]] = {}
    for one in listed:
        apps.setdefault(one["app"], []).append(one)
    found: Raw = {"application": [{"name": name, "instance": these} for name, these in apps.items()]}
    if hashcode is not None:
        found["apps__hashcode"] = hashcode
    return json.dumps({"applications": found}).encode()


class EurekaModel:
    """What a server lists, what changed lately, and how often it was asked for which."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0.0)
        self.roster = Roster(self.clock)
        self.listed: dict[tuple[str, str], Raw] = {}
        self.recent: dict[tuple[str, str], Raw] = {}
        self.asked: list[str] = []
        self.delta: Answer | None = None  # instead of the true one
        self.lie: str | None = None  # instead of the true hash of the full list
        servers = Servers((Server("http://a/eureka"),), "eureka://a", self.clock, 5.0)
        self.fetch = Fetch(servers, self.roster, 30.0, 90.0, self.clock, lambda: 0.5)
        self.agenda = Agenda(self.clock)
        self.agenda.jobs = (self.fetch,)

    def put(self, service: str, name: str, status: str = "UP", **more: Any) -> None:
        key = service, name
        action = "MODIFIED" if key in self.listed else "ADDED"
        self.listed[key] = self.recent[key] = raw(service, name, status, actionType=action, **more)

    def drop(self, service: str, name: str) -> None:
        gone = self.listed.pop((service, name), None)
        if gone is not None:
            self.recent[service, name] = gone | {"actionType": "DELETED"}

    @property
    def hashcode(self) -> str:
        counts = Counter(one["status"] for one in self.listed.values())
        return "".join(f"{status}_{count}_" for status, count in sorted(counts.items()))

    def run(self, seconds: float) -> list[str]:
        """What was asked for in the next `seconds`."""
        self.asked.clear()
        end = self.clock.monotonic() + seconds
        while True:
            job, rest = self.agenda.next()
            if job is None:
                left = end - self.clock.monotonic()
                if rest is None or rest >= left:
                    self.clock.advance(left)
                    return self.asked
                self.clock.advance(rest)
            else:
                drive(job.work(), self.send, lambda _: None)

    def send(self, step: Send) -> Answer:
        self.asked.append(step.path)
        if step.path == "/apps/delta":
            return self.delta or Answer(200, applications(list(self.recent.values()), self.hashcode))
        return Answer(200, applications(list(self.listed.values()), self.lie or self.hashcode))

    def found(self) -> dict[str, list[str]]:
        return {service: [one.id for one in found] for service, found in self.roster.known.items()}

    def true(self) -> dict[str, list[str]]:
        usable: dict[str, list[str]] = {}
        for (service, name), one in sorted(self.listed.items()):
            if one["status"] == "UP":
                usable.setdefault(service, []).append(name)
        return usable


@pytest.fixture
def model() -> EurekaModel:
    """A server with two instances of one service and one that is down, of which the client knows."""
    model = EurekaModel()
    model.put("p", "1")
    model.put("p", "2")
    model.put("q", "3", "DOWN")
    assert model.run(1) == ["/apps/"]
    return model


def test_what_came_changed_and_left_is_learnt_from_deltas_alone(model: EurekaModel) -> None:
    """A new service, a status, a cancel: no further full list, and the delta that overlaps changes nothing."""
    model.put("new", "9")
    model.put("q", "3", "UP")
    model.drop("p", "1")
    assert model.run(30) == ["/apps/delta"]
    assert model.found() == {"new": ["9"], "p": ["2"], "q": ["3"]}
    known = model.roster.known
    assert model.run(30) == ["/apps/delta"]
    assert all(model.roster.known[service] is found for service, found in known.items())
    assert model.roster.age() == 1.0


def test_an_application_that_lost_its_last_instance_is_gone(model: EurekaModel) -> None:
    """And a delete of one that was never known is no error."""
    model.drop("q", "3")
    model.recent["x", "8"] = raw("x", "8", actionType="DELETED")
    assert model.run(30) == ["/apps/delta"]
    assert model.found() == {"p": ["1", "2"]}


def test_a_hash_that_differs_leads_to_one_full_list_in_the_same_cycle(model: EurekaModel) -> None:
    """What the delta did not say is found all the same, at once, and the next cycle asks for a delta again."""
    model.put("p", "4")
    model.recent.clear()
    assert model.run(30) == ["/apps/delta", "/apps/"]
    assert model.found() == {"p": ["1", "2", "4"]}
    assert model.run(30) == ["/apps/delta"]


def test_a_full_list_whose_own_hash_differs_is_taken_and_not_asked_for_again(
    model: EurekaModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers count while they change; that is logged, not looped."""
    model.put("p", "4")
    model.recent.clear()
    model.lie = "UP_99_"
    with caplog.at_level(logging.DEBUG, "resilient"):
        assert model.run(30) == ["/apps/delta", "/apps/"]
    assert "UP_99_" in caplog.text
    assert model.found() == {"p": ["1", "2", "4"]}


@pytest.mark.parametrize(
    "useless", [Answer(403), Answer(404), Answer(200, b"<html>"), Answer(200, applications([], None))]
)
def test_a_server_without_useful_deltas_is_asked_for_everything(model: EurekaModel, useless: Answer) -> None:
    """In the same cycle; after five in a row for ten minutes without the question, then it is asked again."""
    model.delta = useless
    for _ in range(5):
        assert model.run(30) == ["/apps/delta", "/apps/"]
    assert set(model.run(590)) == {"/apps/"}
    model.delta = None
    assert model.run(30) == ["/apps/delta"]


def test_four_useless_deltas_and_a_good_one_end_nothing(model: EurekaModel) -> None:
    """Only those in a row count."""
    for _ in range(3):
        model.delta = Answer(404)
        model.run(120)
        model.delta = None
        assert model.run(30) == ["/apps/delta"]


def test_a_delta_that_no_server_answers_is_an_outage_and_not_a_question_for_everything(model: EurekaModel) -> None:
    """What is down is not asked twice; afterwards deltas go on."""
    model.delta = Answer(error="refused")
    assert model.run(30) == ["/apps/delta"]
    model.delta = None
    model.put("p", "5")
    assert model.run(5) == ["/apps/delta"]
    assert model.found() == {"p": ["1", "2", "5"]}


def test_a_delta_that_takes_half_away_is_confirmed_by_a_full_list(model: EurekaModel) -> None:
    """Within five seconds; until then what is known stays."""
    model.drop("p", "1")
    model.drop("q", "3")
    assert model.run(30) == ["/apps/delta"]
    assert model.found() == {"p": ["1", "2"]}
    assert model.run(5) == ["/apps/"]
    assert model.found() == {"p": ["2"]}
    assert model.run(30) == ["/apps/delta"]


def test_a_server_that_restarted_empty_is_not_believed_through_its_delta(model: EurekaModel) -> None:
    """Its hash is empty, ours is not: everything is asked for, and that is doubted."""
    model.listed.clear()
    model.recent.clear()
    asked = model.run(40)
    assert asked[:2] == ["/apps/delta", "/apps/"]
    assert "/apps/delta" not in asked[2:]
    assert model.found() == {"p": ["1", "2"]}


def test_without_doubts_every_answer_is_believed_at_once() -> None:
    """By option, for tests and fleets of one."""
    model = EurekaModel()
    servers = Servers((Server("http://a/eureka"),), "eureka://a", model.clock, 5.0)
    model.fetch = Fetch(servers, model.roster, 30.0, 90.0, model.clock, lambda: 0.5, confirm=False)
    model.agenda.jobs = (model.fetch,)
    model.put("p", "1")
    model.run(1)
    model.listed.clear()
    model.recent.clear()
    model.run(30)
    assert model.found() == {}


def test_one_that_can_not_be_read_counts_for_the_hash_and_is_told_once(
    model: EurekaModel, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of the same delta are learnt; the sentence says which instance of which service, and what is wrong."""
    model.put("p", "6")
    model.put("p", "7", port={"$": 99999, "@enabled": "true"})
    assert model.run(30) == ["/apps/delta"]
    assert model.found() == {"p": ["1", "2", "6"]}
    assert model.fetch.skipped == 1
    model.run(60)
    told = [record.message for record in caplog.records if "skipped" in record.message]
    assert told == ["registry eureka://a: skipped: instance '7' of 'p': port 99999 is not one of 1 to 65535"]
    model.put("p", "7")
    model.run(30)
    assert model.fetch.skipped == 0


STATUSES = ["UP", "DOWN", "OUT_OF_SERVICE", "STARTING", "UNKNOWN"]
changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("pqr"), st.sampled_from("12345"), st.sampled_from(STATUSES)),
        st.tuples(st.just("drop"), st.sampled_from("pqr"), st.sampled_from("12345"), st.just("")),
    ),
    max_size=6,
)


@given(st.lists(st.tuples(changes, st.booleans()), max_size=12))
def test_whatever_changes_the_mirror_is_the_servers_list(rounds: list[tuple[Any, bool]]) -> None:
    """Deltas that overlap or were forgotten (then a full list), in any order: the same instances, the same hash."""
    model, mirror = EurekaModel(), Mirror()
    mirror.fill(read_applications(applications([], "")))
    known: dict[str, Any] = {}
    for changed, forgotten in rounds:
        for what, service, name, status in changed:
            if what == "put":
                model.put(service, name, status)
            else:
                model.drop(service, name)
        if forgotten:
            model.recent.clear()
        known |= mirror.apply(read_applications(applications(list(model.recent.values()), model.hashcode)))
        if mirror.hashcode != model.hashcode:
            known = dict(mirror.fill(read_applications(applications(list(model.listed.values()), model.hashcode))))
        elif forgotten:  # a hash does not see everything: two that changed places
            continue
        assert mirror.hashcode == model.hashcode
        assert mirror.listed == len(model.listed)
        if not any(forgot for _, forgot in rounds):
            assert {service: [one.id for one in found] for service, found in known.items() if found} == model.true()
