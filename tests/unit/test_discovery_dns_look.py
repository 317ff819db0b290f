"""What DNS answers mean, and when DNS is asked again: decided without I/O, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from resilient.discovery.dns_look import DnsLook, Question
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Send, Server, drive
from resilient.testing import VirtualClock

Records = dict[tuple[str, str], tuple[int, Sequence[str]]]


class World:
    """One look, the records that it finds, and the questions that it asked."""

    def __init__(self, question: Question, records: Records, *, servers: int = 1) -> None:
        self.clock = VirtualClock(0.0)
        self.roster = Roster(self.clock)
        self.servers = Servers(
            tuple(Server(f"udp://10.0.0.{number}:53") for number in range(1, servers + 1)), "dns://x", self.clock, 2.0
        )
        self.look = DnsLook(question, self.servers, self.roster, self.clock, lambda: 0.5)
        self.records = records
        self.asked: list[tuple[str, str, str]] = []
        self.answer: Callable[[Send], Answer] = self.well
        self.glue: list[dns.rrset.RRset] = []

    def well(self, step: Send) -> Answer:
        assert step.body is not None
        return Answer(200, self.response(dns.message.from_wire(step.body)).to_wire())

    def response(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        name, kind = query.question[0].name.to_text(), RdataType(query.question[0].rdtype)
        while (name, "CNAME") in self.records:
            ttl, (target,) = self.records[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", target))
            name = target
        if (name, kind.name) in self.records:
            ttl, texts = self.records[name, kind.name]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind.name, *texts))
            response.additional.extend(self.glue)
        elif not any(key[0] == name for key in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def run(self) -> float:
        """Look once when it is due; the seconds until the next look."""
        self.clock.advance(max(0.0, self.look.due() - self.clock.monotonic()) if self.asked else 0.0)
        drive(self.look.work(), self._send, lambda _: None)
        return round(self.look.due() - self.clock.monotonic(), 3)

    def _send(self, step: Send) -> Answer:
        assert step.body is not None
        question = dns.message.from_wire(step.body).question[0]
        self.asked.append((step.method, question.name.to_text(), RdataType(question.rdtype).name))
        return self.answer(step)

    def found(self) -> list[tuple[str, int, float]]:
        return [(one.host, one.port, one.weight) for one in self.roster.get("web")]


def plain(*names: str) -> Question:
    return Question("web", names or ("web.test.",), 80)


def srv(*, every: bool = False) -> Question:
    return Question("web", ("_web._tcp.test.",), None, every=every)


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 1.0), (1, 1.0), (7, 7.0), (30, 30.0), (600, 30.0)])
def test_24_the_time_to_live_is_kept_between_1_and_30_seconds(ttl: int, seconds: float) -> None:
    """Consul says 0, Docker's Swarm says 600: neither a question per call nor ten minutes of old addresses."""
    world = World(plain(), {("web.test.", "A"): (ttl, ["10.1.0.1"])})
    assert world.run() == seconds
    assert world.found() == [("10.1.0.1", 80, 1.0)]


def test_24_a_name_that_is_gone_is_believed_at_the_second_look() -> None:
    """NXDOMAIN empties the list, but a nameserver that just restarts says it too."""
    world = World(plain(), {("web.test.", "A"): (30, ["10.1.0.1"])})
    world.run()
    world.records = {}
    assert world.run() == 4.0
    assert len(world.found()) == 1
    assert world.run() == 5.0
    assert world.found() == []


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
def test_24_a_nameserver_that_fails_changes_nothing(rcode: dns.rcode.Rcode | None) -> None:
    """SERVFAIL, REFUSED and silence say nothing about the service; they are asked again after 1, 2, 4 … seconds."""
    world = World(plain(), {("web.test.", "A"): (30, ["10.1.0.1"])})
    world.run()

    def fail(step: Send) -> Answer:
        if rcode is None:
            return Answer(error="no answer within 2 s")
        response = dns.message.make_response(dns.message.from_wire(step.body or b""))
        response.set_rcode(rcode)
        return Answer(200, response.to_wire())

    world.answer = fail
    assert [world.run() for _ in range(3)] == [1.0, 2.0, 4.0]
    assert len(world.found()) == 1
    assert (dns.rcode.to_text(rcode) if rcode else "no answer") in world.servers.trouble
    world.answer = world.well
    assert world.run() == 30.0
    assert world.servers.trouble == ""


def test_the_next_nameserver_is_asked_and_kept_to() -> None:
    """One that fails is put aside."""
    world = World(plain(), {("web.test.", "A"): (1, ["10.1.0.1"])}, servers=2)
    asked: list[str] = []

    def first_is_silent(step: Send) -> Answer:
        asked.append(step.server.base)
        return Answer(error="silent") if "10.0.0.1" in step.server.base else world.well(step)

    world.answer = first_is_silent
    world.run()
    world.run()
    assert [base.removeprefix("udp://10.0.0.") for base in asked] == ["1:53", "2:53", "2:53"]
    assert len(world.found()) == 1


def test_the_first_family_that_has_addresses_is_taken() -> None:
    """A host with both is one instance."""
    both: Records = {("web.test.", "A"): (9, ["10.1.0.1"]), ("web.test.", "AAAA"): (9, ["::1"])}
    world = World(plain(), both)
    world.run()
    assert (world.found(), len(world.asked)) == ([("10.1.0.1", 80, 1.0)], 1)
    world = World(plain(), {("web.test.", "AAAA"): (9, ["::1"])})
    world.run()
    assert world.found() == [("::1", 80, 1.0)]


def test_relative_names_are_tried_in_the_order_of_the_search_list() -> None:
    """Until one has addresses."""
    world = World(plain("web.a.test.", "web.b.test.", "web."), {("web.b.test.", "A"): (9, ["10.1.0.1"])})
    world.run()
    assert [name for _, name, kind in world.asked if kind == "A"] == ["web.a.test.", "web.b.test."]
    assert len(world.found()) == 1


def test_an_alias_is_followed_and_the_shortest_time_to_live_counts() -> None:
    """The chain is as old as its oldest part."""
    world = World(plain(), {("web.test.", "CNAME"): (3, ["x.test."]), ("x.test.", "A"): (20, ["10.1.0.1"])})
    assert world.run() == 3.0
    assert len(world.found()) == 1


def test_srv_records_of_the_lowest_priority_with_addresses_are_listed_by_weight() -> None:
    """The others are spares; a weight of 0 is a very small chance; a target without address is dropped."""
    records: Records = {
        ("_web._tcp.test.", "SRV"): (
            9,
            ["5 1 1 lost.test.", "10 60 81 a.test.", "10 0 82 b.test.", "20 1 83 c.test."],
        ),
        ("a.test.", "A"): (9, ["10.1.0.1", "10.1.0.2"]),
        ("b.test.", "A"): (2, ["10.1.0.3"]),
        ("c.test.", "A"): (9, ["10.1.0.4"]),
    }
    world = World(srv(), records)
    assert world.run() == 2.0
    assert world.found() == [("10.1.0.1", 81, 30.0), ("10.1.0.2", 81, 30.0), ("10.1.0.3", 82, 0.01)]
    assert [name for _, name, _ in world.asked if name == "c.test."] == []
    world = World(srv(every=True), records)
    world.run()
    assert [one.metadata["priority"] for one in world.roster.get("web")] == ["10", "10", "10", "20"]
    assert world.roster.get("web")[3].metadata["target"] == "c.test"


def test_weights_that_are_all_zero_are_all_the_same() -> None:
    """Nobody has a smaller chance than the others."""
    world = World(
        srv(),
        {("_web._tcp.test.", "SRV"): (9, ["0 0 81 a.test.", "0 0 82 a.test."]), ("a.test.", "A"): (9, ["10.1.0.1"])},
    )
    world.run()
    assert world.found() == [("10.1.0.1", 81, 1.0), ("10.1.0.1", 82, 1.0)]


def test_24_the_target_that_is_a_dot_says_that_the_service_is_not_there() -> None:
    """An empty list, no error, and no question for an address."""
    world = World(srv(), {("_web._tcp.test.", "SRV"): (9, ["0 0 1 ."])})
    world.run()
    assert world.found() == []
    assert world.roster.confirmed == 0.0
    assert [kind for _, _, kind in world.asked] == ["SRV"]


def test_addresses_that_come_along_are_used() -> None:
    """Consul and Kubernetes send them with the SRV records: one question for all."""
    world = World(srv(), {("_web._tcp.test.", "SRV"): (9, ["0 0 81 a.test."])})
    world.glue = [dns.rrset.from_text("a.test.", 0, "IN", "A", "10.1.0.9")]
    world.run()
    assert world.found() == [("10.1.0.9", 81, 1.0)]
    assert len(world.asked) == 1


def test_a_target_whose_nameserver_fails_keeps_its_addresses() -> None:
    """It is not known to be gone; the other targets are as new."""
    records: Records = {
        ("_web._tcp.test.", "SRV"): (9, ["0 0 81 a.test.", "0 0 81 b.test."]),
        ("a.test.", "A"): (9, ["10.1.0.1"]),
        ("b.test.", "A"): (9, ["10.1.0.2"]),
    }
    world = World(srv(), records)
    world.run()
    world.records = {**records, ("b.test.", "A"): (9, ["10.1.0.3"])}

    def a_fails(step: Send) -> Answer:
        lost = dns.message.from_wire(step.body or b"").question[0].name.to_text() == "a.test."
        return Answer(error="silent") if lost else world.well(step)

    world.answer = a_fails
    world.run()
    assert [host for host, _, _ in world.found()] == ["10.1.0.1", "10.1.0.3"]


def test_a_target_that_is_no_longer_asked_for_is_no_trouble_any_more() -> None:
    """It failed when it was asked for last, and then left the records: the registry answers, and is told to be back."""
    records: Records = {
        ("_web._tcp.test.", "SRV"): (9, ["0 0 81 a.test.", "0 0 81 b.test."]),
        ("b.test.", "A"): (9, ["10.1.0.2"]),
    }
    world = World(srv(), records)

    def a_fails(step: Send) -> Answer:
        lost = dns.message.from_wire(step.body or b"").question[0].name.to_text() == "a.test."
        return Answer(error="silent") if lost else world.well(step)

    world.answer = a_fails
    world.run()
    assert "silent" in world.servers.trouble
    world.records = {**records, ("_web._tcp.test.", "SRV"): (9, ["0 0 81 b.test."])}
    world.run()
    assert world.servers.trouble == ""


def test_a_truncated_answer_is_asked_for_by_tcp() -> None:
    """However it was cut; truncated by TCP too it is a failure."""
    world = World(plain(), {("web.test.", "A"): (9, ["10.1.0.1"])})

    def cut(step: Send) -> Answer:
        whole = world.well(step)
        if step.method == "TCP":
            return whole
        return Answer(200, whole.body[:2] + bytes([whole.body[2] | 2]) + whole.body[3:-3])

    world.answer = cut
    world.run()
    assert [method for method, _, _ in world.asked] == ["UDP", "TCP"]
    assert len(world.found()) == 1
    world.answer = lambda step: Answer(200, b"\0\0\2")
    world.run()
    assert "truncated" not in world.servers.trouble
    assert world.roster.age() > 0


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_no_answer_whatsoever_breaks_the_look(junk: bytes, seed: int) -> None:
    """Garbage, and true answers with some bytes changed, are failures or answers, never exceptions."""
    world = World(plain(), {("web.test.", "A"): (9, ["10.1.0.1"])})
    world.run()
    rng = random.Random(seed)

    def spoilt(step: Send) -> Answer:
        body = bytearray(world.well(step).body)
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        return Answer(200, bytes(body))

    world.answer = spoilt
    world.run()
    world.answer = lambda step: Answer(200, junk)
    assert world.run() > 0


def test_answers_in_another_order_change_nothing() -> None:
    """Nameservers turn the records with each answer: the tuple stays the same object."""
    world = World(plain(), {("web.test.", "A"): (1, ["10.1.0.1", "10.1.0.2", "10.1.0.3"])})
    world.run()
    known = world.roster.get("web")
    world.records = {("web.test.", "A"): (1, ["10.1.0.3", "10.1.0.1", "10.1.0.2"])}
    world.run()
    assert world.roster.get("web") is known
