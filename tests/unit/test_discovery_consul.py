"""What Consul's answers mean and when it is asked: in virtual time, and against what a real agent said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from resilient import ConfigError, listen
from resilient.discovery import Discovery, Instance, RegistryAuthFailed, RegistryBack, RegistryDown
from resilient.discovery.consul_lease import ConsulLease, _unknown
from resilient.discovery.consul_watch import Agent, ConsulWatch
from resilient.discovery.consul_wire import read_health, write_service
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Send, Server, drive
from resilient.testing import VirtualClock

CAPTURE = Path(__file__).parents[1] / "interop" / "captures" / "real-consul-1.8.7-probe.jsonl"
GOLDEN: list[dict[str, Any]] = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
AGENT = Agent({"X-Consul-Token": "s3cret"}, {"dc": "eu"}, {"stale": "", "tag": "v1"}, 30.0)


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"Node": {"Address": "10.0.0.9"}, "Service": {"ID": name, "Address": name, "Port": 80, **more}}


def listing(*names: str, index: int = 5, status: int = 200) -> Answer:
    return Answer(status, json.dumps([entry(name) for name in names]).encode(), headers={"x-consul-index": str(index)})


class World:
    """One watch, in virtual time, and what it sent."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0.0)
        self.roster = Roster(self.clock)
        self.servers = Servers((Server("http://a:8500"),), "consul://a:8500", self.clock, 5.0)
        self.watch = ConsulWatch("web", AGENT, self.servers, self.roster, self.clock, lambda: 0.5)
        self.sent: list[Send] = []

    def look(self, answer: Answer) -> float:
        """Look when it is due; the seconds until the next look."""
        self.clock.advance(max(0.0, self.watch.due() - self.clock.monotonic()) if self.sent else 0.0)

        def send(step: Send) -> Answer:
            self.sent.append(step)
            return answer

        drive(self.watch.work(), send, lambda _: None)
        return round(self.watch.due() - self.clock.monotonic(), 3)

    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.sent[-1].path).query, True).items()}

    def hosts(self) -> list[str]:
        return [one.host for one in self.roster.get("web")]


def test_24_the_first_question_is_answered_at_once_and_the_next_when_something_changed() -> None:
    """With the index of the last answer; the time limit is derived from the wait."""
    world = World()
    assert world.look(listing("a", index=7)) == 0.1
    assert world.query() == {"passing": "1", "stale": "", "tag": "v1", "dc": "eu"}
    assert world.sent[-1].timeout == 5.0
    assert world.sent[-1].headers == {"X-Consul-Token": "s3cret"}
    world.look(listing("a", "b", index=9))
    assert world.query() | {"index": "7", "wait": "30000ms"} == world.query()
    assert world.sent[-1].timeout == 30 * 17 / 16 + 5
    assert world.hosts() == ["a", "b"]


def test_24_an_index_that_went_back_is_read_anew_at_once() -> None:
    """The agent was restored or restarted: the old index would wait for a change that was long ago."""
    world = World()
    world.look(listing("a", index=28))
    world.look(listing("a", index=12))
    world.look(listing("a", index=12))
    assert "index" not in world.query()
    world.look(listing("a", index=12))
    assert world.query()["index"] == "12"


def test_24_an_index_that_did_not_move_is_no_change_and_one_of_zero_is_no_busy_loop() -> None:
    """The tuple stays the same object; after an answer that came for nothing the next question waits a second."""
    world = World()
    changes: list[object] = []
    world.roster.subscribe("web", changes.append)
    world.look(listing("a", index=0))
    known = world.roster.get("web")
    assert world.look(listing("a", index=0)) == 1.0
    assert world.query()["index"] == "1"
    assert world.roster.get("web") is known
    assert len(changes) == 1
    assert world.look(listing("a", "b", index=0)) == 0.1
    for text in ("", "x", "-3", "²"):
        assert world.look(Answer(200, b"[]", headers={"x-consul-index": text})) > 0


def test_10_what_fails_is_tried_again_from_the_beginning() -> None:
    """After 1, 2, 4 … seconds, without the index; nothing that is known changes."""
    world = World()
    world.look(listing("a"))
    failing = [Answer(error="refused"), Answer(500, b"No cluster leader"), Answer(200, b"<html>"), Answer(200, b"{}")]
    assert [world.look(answer) for answer in failing] == [1.0, 2.0, 4.0, 8.0]
    assert "index" not in world.query()
    assert "no list of instances" in world.servers.trouble
    assert world.hosts() == ["a"]
    world.look(listing("a"))
    assert world.servers.trouble == ""


def test_08_a_refused_token_is_told_once_and_asked_again_at_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    """It is no outage, and stands in no message."""
    heard: list[object] = []
    stops = [listen(lambda event: heard.append(type(event)), kind) for kind in (RegistryDown, RegistryBack)]
    world = World()
    with caplog.at_level(logging.DEBUG):
        assert [world.look(Answer(403, b"Permission denied")) for _ in range(3)] == [30.0] * 3
        world.look(listing("a"))
    for stop in stops:
        stop()
    assert heard == [RegistryAuthFailed, RegistryBack]
    assert "s3cret" not in caplog.text + repr(world.sent) + repr(AGENT)


def test_11_a_list_that_lost_half_is_believed_at_the_second_look() -> None:
    """Within five seconds, asked without waiting."""
    world = World()
    world.look(listing("a", "b"))
    assert world.look(listing(index=6)) == 4.0
    assert world.hosts() == ["a", "b"]
    assert world.look(listing(index=6)) == 0.1
    assert "index" not in world.query()
    assert world.hosts() == []


def test_16_what_a_real_agent_lists_is_read() -> None:
    """Every recorded list: address, port, zone, weight."""
    lists = [
        one["response_body"].encode()
        for one in GOLDEN
        if "/v1/health/service/web" in one["request"] and one["status"] == 200
    ]
    assert len(lists) >= 10
    found = [read_health("web", body) for body in lists]
    assert all(problems == [] for _, problems in found)
    instances = {instance for read, _ in found for instance in read}
    assert instances == {Instance("web", "10.1.10.12", 8080, "web-1", zone="z1", weight=10.0)}


def test_16_one_bad_entry_never_loses_the_others() -> None:
    """It is named, with the reason; an address that is missing is the node's."""
    odd = [{}, 7, None, entry("x", Port="none"), entry("y", Meta=7, Weights=[]), {"Service": {"ID": "z", "Port": 1}}]
    found, problems = read_health("web", json.dumps([*odd, entry("n", Address="")]).encode())
    assert [(one.id, one.host) for one in found] == [("n", "10.0.0.9"), ("y", "y")]
    assert problems == [
        *("web: it is no instance", "web: it is no instance", "web: it is no instance"),
        *("x: port must be from 1 to 65535, not 'none'", "z: it is no instance"),
    ]


def test_registering_says_what_a_real_agent_took() -> None:
    """The recorded body, field for field; a check that is not passing from the start is invisible."""
    recorded = GOLDEN[0]["body"]
    one = Instance("web", "10.1.10.12", 8080, "web-1", zone="z1", weight=10.0)
    ours = write_service(one, tag="v1", check="service:web-1", ttl=3.0, reap=60.0, passing=True)
    assert set(ours) == set(recorded)
    assert {key: ours[key] for key in ours if key not in {"Check", "Tags"}} == {
        key: recorded[key] for key in recorded if key not in {"Check", "Tags"}
    }
    assert ours["Check"]["TTL"] == recorded["Check"]["TTL"]
    assert set(recorded["Check"]) < set(ours["Check"])
    assert ours["Check"]["Status"] == "passing"


@pytest.mark.parametrize("unknown", [Answer(404, b'Unknown check ID "x"'), None])
def test_24_an_unknown_check_means_register_again_at_once(unknown: Answer | None) -> None:
    """404 of newer agents, the recorded 500 of older ones; any other error does not."""
    if unknown is None:
        (recorded,) = (one for one in GOLDEN if one["note"] == "TTL pass unknown check")
        unknown = Answer(recorded["status"], recorded["response_body"].encode())
    assert _unknown(unknown)
    assert not _unknown(Answer(500, b"No cluster leader"))
    world = World()
    answer: Callable[[Send], Answer] = lambda step: Answer(200, local="10.0.0.1")
    lease = ConsulLease(
        Instance("web", "10.0.0.1", 80),
        world.servers,
        AGENT,
        tag=None,
        ttl=15.0,
        reap=60.0,
        drain=0.0,
        health=None,
        listed=lambda: None,
        clock=world.clock,
    )
    lease.open()

    def paths(*, forgot: bool) -> list[str]:
        sent: list[str] = []

        def send(step: Send) -> Answer:
            sent.append(urlsplit(step.path).path.removeprefix("/v1/agent/"))
            return unknown if forgot and "/check/" in step.path else answer(step)

        drive(lease.work(), send, lambda _: None)
        return sent

    name = "10.0.0.1%3Aweb%3A80"
    registering = ["service/register", f"service/maintenance/{name}"]
    assert paths(forgot=False) == registering
    assert paths(forgot=False) == [f"check/pass/service%3A{name}"]
    assert paths(forgot=True) == [f"check/pass/service%3A{name}", *registering]
    assert lease.registered


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("consul://a,b", "write one agent"),
        ("consul://", "write one agent"),
        ("consul://tok:s3cret@a", "write consul://token@host:8500"),
        ("consul://s3cret@x@a", "must be percent-encoded"),
        ("consul://s3cret/x@a", "must be percent-encoded"),
        ("consul://a:99999", "'a:99999' is no host or host:port"),
        ("consul://a?datacenter=eu", "unknown option 'datacenter'; known are dc, tag"),
        ("consul://a?consistancy=stale", "did you mean 'consistency'"),
        ("consul://a?consistency=strong", "consistency must be stale or default or consistent, not 'strong'"),
        ("consul://a?wait=0", "wait must be from 0.2 to 600 seconds, not '0'"),
        ("consul://a?reap=5", "reap must be at least 60 seconds"),
        ("consul://a?tls=yes", "tls must be true or false"),
        ("consul://a?ttl=5&drain=5", "drain must be shorter than ttl"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, words: str) -> None:
    """What is wrong and what is allowed; no token is shown."""
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(url)
    assert "s3cret" not in str(caught.value)
