"""What etcd's answers mean: a scripted conversation, line by line, in virtual time."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import ConfigError
from resilient.discovery import Discovery
from resilient.discovery.etcd_calls import EtcdCalls
from resilient.discovery.etcd_watch import EtcdWatch
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import MORE, Answer, Send, Server, drive
from resilient.testing import VirtualClock


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def pair(name: str, value: str = "10.0.0.1:80") -> dict[str, str]:
    return {"key": b64(f"/s/{name}"), "value": b64(value)}


def listed(*pairs: dict[str, str], revision: int) -> Answer:
    return Answer(200, json.dumps({"header": {"revision": str(revision)}, "kvs": list(pairs)}).encode())


def line(revision: int = 0, **more: Any) -> Answer:
    return Answer(200, json.dumps({"result": {"header": {"revision": str(revision)}, **more}}).encode())


def put(name: str, value: str = "10.0.0.1:80") -> dict[str, Any]:
    return {"kv": pair(name, value)}


def gone(name: str) -> dict[str, Any]:
    return {"type": "DELETE", "kv": {"key": b64(f"/s/{name}")}}


END = Answer(204)


class World:
    """One watch, what it sent, and the answers that it gets in turn."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0.0)
        self.roster = Roster(self.clock)
        self.servers = Servers((Server("http://a"),), "etcd://a", self.clock, 5.0)
        self.watch = EtcdWatch("/s/", EtcdCalls(self.servers, None), self.roster, 60.0, self.clock, lambda: 0.5)
        self.sent: list[tuple[str, Any]] = []

    def run(self, *answers: Answer) -> float:
        """Work once with these answers; the seconds until it works again."""
        left = list(answers)
        self.clock.advance(max(0.0, self.watch.due() - self.clock.monotonic()) if self.sent else 0.0)

        def send(step: Send) -> Answer:
            if step.method != MORE:
                self.sent.append((step.path, json.loads(step.body or b"{}")))
            return left.pop(0)

        drive(self.watch.work(), send, lambda _: None)
        assert left == []
        return round(self.watch.due() - self.clock.monotonic(), 3)

    def from_revision(self) -> str:
        return str(self.sent[-1][1]["create_request"]["start_revision"])

    def hosts(self, service: str = "web") -> list[str]:
        return [one.host for one in self.roster.get(service)]


def test_all_is_read_once_and_then_watched_from_the_next_revision() -> None:
    """Puts, changes and deletions of services that are there and new; the watch goes on where it ended."""
    world = World()
    events = [put("web/2", "b:1"), put("new/1", "n:1"), gone("web/1"), put("web/2", "c:1")]
    assert world.run(listed(pair("web/1", "a:1"), revision=7), Answer(200), line(7), line(9, events=events), END) == 1.0
    assert world.sent[0] == ("/v3/kv/range", {"key": b64("/s/"), "range_end": b64("/s0")})
    assert world.from_revision() == "8"
    assert (world.hosts(), world.hosts("new")) == (["c"], ["n"])
    world.run(Answer(200), line(9), END)
    assert world.from_revision() == "10"


def test_silence_begins_the_watch_anew_and_notices_of_progress_move_it_on() -> None:
    """Nothing is read again; what is known is confirmed by the word that it watches."""
    world = World()
    world.run(listed(pair("web/1"), revision=7), Answer(200), line(7), line(30), Answer(error="no answer within 60 s"))
    assert world.roster.get("web") != ()
    world.clock.advance(59.0)
    assert world.roster.age() == 59.0
    world.run(Answer(200), line(30), END)
    assert world.roster.age() == 0.0
    assert world.from_revision() == "31"


@pytest.mark.parametrize(
    "last",
    [
        Answer(200, b'{"result":{"header":{"raft_term":"2"},"canceled":true,"compact_revision":"30"}}'),
        Answer(200, b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}'),
        line(3),
    ],
    ids=["compacted", "no leader", "another store"],
)
def test_24_a_watch_that_can_not_go_on_reads_everything_again_without_a_gap(last: Answer) -> None:
    """Compacted behind us, cancelled, or a store that begins anew: the old set is known until the new one is."""
    world = World()
    seen: list[int] = []
    world.run(listed(pair("web/1", "a:1"), pair("web/2", "b:1"), pair("web/3", "c:1"), revision=7), Answer(200), last)
    assert world.hosts() == ["a", "b", "c"]
    world.roster.subscribe("web", lambda change: seen.append(len(world.roster.get("web"))))
    world.run(listed(pair("web/2", "b:1"), pair("web/3", "c:1"), revision=40), Answer(200), line(40), END)
    assert [path for path, _ in world.sent] == ["/v3/kv/range", "/v3/watch", "/v3/kv/range", "/v3/watch"]
    assert (world.hosts(), seen) == (["b", "c"], [2])


def test_11_a_list_that_lost_half_is_read_again_before_it_is_believed() -> None:
    """Within five seconds; a deletion that is told is believed at once."""
    world = World()
    world.run(listed(pair("web/1", "a:1"), pair("web/2", "b:1"), revision=7), Answer(200), line(3))
    assert world.run(listed(revision=3)) == 4.0
    assert world.hosts() == ["a", "b"]
    world.run(listed(pair("web/1", "a:1"), revision=3), Answer(200), line(3, events=[gone("web/1")]), END)
    assert world.hosts() == []


def test_10_what_fails_is_tried_again_after_a_while_that_grows() -> None:
    """By etcd's own words; what is known stays."""
    world = World()
    world.run(listed(pair("web/1"), revision=7), Answer(200), line(3))
    refused = Answer(503, b'{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}')
    assert [world.run(answer) for answer in (Answer(error="x"), refused, Answer(200, b"[]"))] == [1.0, 2.0, 4.0]
    assert "no answer of etcd" in world.servers.trouble
    assert world.hosts() == ["10.0.0.1"]


def test_16_a_key_that_can_not_be_read_loses_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is named once; when it is put right it counts."""
    world = World()
    bad = [pair("web/2", "{"), pair("alone", "a:1"), {"key": "%", "value": ""}, {"value": ""}]
    world.run(listed(pair("web/1"), *bad, revision=7), Answer(200), line(7), line(8, events=[7, {}, put("web/1")]), END)
    assert world.hosts() == ["10.0.0.1"]
    (told,) = (record.getMessage() for record in caplog.records)
    assert "/s/web/2: its value is no JSON" in told
    assert "/s/alone: a key is /s/SERVICE/ID" in told
    world.run(Answer(200), line(8), line(9, events=[put("web/2", '{"host": "x", "port": "81", "zone": "z"}')]), END)
    assert world.hosts() == ["10.0.0.1", "x"]
    world.run(Answer(200), line(9), line(10, events=[put("web/2", "spoilt")]), END)
    assert world.hosts() == ["10.0.0.1"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["web/1", "web/2", "x/1", "x/2"]), st.integers(1, 9))))
def test_events_lead_to_what_reading_everything_would(events: list[tuple[bool, str, int]]) -> None:
    """Whatever is put and deleted in whatever order, in lines of whatever length."""
    world, keys = World(), {"web/1": 1}
    lines = []
    for number, (present, name, port) in enumerate(events):
        lines.append(line(8 + number, events=[put(name, f"h:{port}") if present else gone(name)]))
        keys[name] = port if present else 0
    world.run(listed(pair("web/1", "h:1"), revision=7), Answer(200), line(7), *lines, END)
    for service in ("web", "x"):
        expected = sorted(f"{name}:{port}" for name, port in keys.items() if port and name.startswith(service))
        assert [f"{service}/{one.id}:{one.port}" for one in world.roster.get(service)] == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("etcd://", "write the members' addresses"),
        ("etcd://root@a", "write user and password"),
        ("etcd://a:s3cret@b:s3cret@c", "must be percent-encoded"),
        ("etcd://a:x", "'a:x' is no host or host:port"),
        ("etcd://a?tll=3", "unknown option 'tll'; known are ttl, watch, drain, tls; did you mean 'ttl'"),
        ("etcd://a?ttl=1", "ttl must be from 2 to 3600 seconds, not '1'"),
        ("etcd://a?ttl=5&drain=6", "drain must be shorter than ttl"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, words: str) -> None:
    """What is wrong and what is allowed; no password is shown."""
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(url)
    assert "s3cret" not in str(caught.value)
