"""When discovery sends what: decided without I/O, so tested in virtual time."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from resilient import listen
from resilient.discovery import (
    Instance,
    InstancesStale,
    Registered,
    RegistrationLost,
    RegistrationRegained,
    RegistryAuthFailed,
    RegistryBack,
    RegistryDown,
)
from resilient.discovery.eureka_fetch import Fetch
from resilient.discovery.eureka_lease import EurekaLease
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Agenda, Answer, Backoff, Send, Server, drive
from resilient.events import Event
from resilient.testing import VirtualClock

APPS = json.dumps(
    {
        "applications": {
            "application": [{"name": "P", "instance": [{"hostName": "h", "port": {"$": 1}, "status": "UP"}]}]
        }
    }
).encode()
EMPTY = b'{"applications": {"application": []}}'
LOCAL = "10.1.1.1"


def well(step: Send) -> Answer:
    """A server that does what it is asked."""
    if step.method == "GET":
        return Answer(200, APPS, local=LOCAL) if step.path == "/apps/" else Answer(404, local=LOCAL)
    return Answer(204 if step.method == "POST" else 200, local=LOCAL)


class World:
    """One loop, its servers and everything that was sent, in virtual time."""

    def __init__(self, *bases: str, interval: float = 30.0, lease: float = 90.0, rng: float = 0.5) -> None:
        self.clock = VirtualClock(0.0)
        self.sent: list[tuple[float, Send]] = []
        self.answer: Callable[[Send], Answer] = well
        self.roster = Roster(self.clock)
        servers = tuple(Server(base) for base in bases or ("http://a/eureka",))
        self.servers = Servers(servers, "eureka://a", self.clock, 5.0)
        self.fetch = Fetch(self.servers, self.roster, interval, lease, self.clock, lambda: rng, delta=False)
        self.health: Callable[[], bool] | None = None
        self.lease = EurekaLease(
            Instance("me", "", 80),
            self.servers,
            renew_interval=interval,
            lease=lease,
            health=lambda: self.health() if self.health else True,
            listed=lambda: None,
            clock=self.clock,
            rng=lambda: rng,
        )
        self.agenda = Agenda(self.clock)

    def run(self, seconds: float) -> None:
        """What the loop does in the next `seconds`."""
        end = self.clock.monotonic() + seconds
        while True:
            job, rest = self.agenda.next()
            if job is None:
                left = end - self.clock.monotonic()
                if rest is None or rest >= left:
                    self.clock.advance(left)
                    return
                self.clock.advance(rest)
            else:
                drive(job.work(), self.send, lambda _: None)

    def send(self, step: Send) -> Answer:
        self.sent.append((self.clock.monotonic(), step))
        return self.answer(step)

    def times(self, method: str) -> list[float]:
        return [round(at, 3) for at, step in self.sent if step.method == method]

    def register(self) -> None:
        self.lease.open()
        self.agenda.jobs = (self.lease,)


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = listen(events.append, Event)
    yield events
    stop()


def posted(step: Send) -> tuple[str, int]:
    assert step.body is not None
    raw = json.loads(step.body)["instance"]
    return raw["status"], int(raw["lastDirtyTimestamp"])


def test_a_failing_first_fetch_comes_again_after_1_2_4_up_to_30_seconds() -> None:
    """The registry that starts after us is found soon, and not hammered."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.answer = lambda step: Answer(error="refused")
    world.run(100)
    assert world.times("GET") == [0, 1, 3, 7, 15, 31, 61, 91]
    world.answer = well
    world.run(30)
    assert [instance.host for instance in world.roster.get("P")] == ["h"]


def test_an_empty_first_answer_is_asked_again_soon() -> None:
    """In a fleet that starts together, the first answer is empty for a moment only."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.answer = lambda step: Answer(200, EMPTY)
    world.run(4)
    assert world.times("GET") == [0, 1, 3]
    assert world.roster.age() == 1.0


def listing(*instances: tuple[str, str]) -> bytes:
    found = [{"hostName": host, "port": {"$": 1}, "status": status} for host, status in instances]
    return json.dumps({"applications": {"application": [{"name": "P", "instance": found}]}}).encode()


def hosts(world: World) -> list[str]:
    return [instance.host for instance in world.roster.get("p")]


def reading(world: World, body: bytes) -> None:
    world.answer = lambda step: Answer(200, body)


def test_a_registry_that_restarted_empty_is_believed_after_a_lease_only(caplog: pytest.LogCaptureFixture) -> None:
    """Its producers renew within a lease and are listed again; until then it is asked often, and that is said once."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(1)
    reading(world, EMPTY)
    world.run(118)
    assert hosts(world) == ["h"]
    assert world.times("GET")[:6] == [0, 30, 31, 33, 37, 41]
    assert max(b - a for a, b in zip(world.times("GET")[1:], world.times("GET")[2:], strict=False)) <= 5
    assert world.roster.age() > 90
    world.run(6)
    assert hosts(world) == []
    assert caplog.text.count("going on with the last known instances") == 1


def test_a_registry_that_filled_again_is_believed_at_once() -> None:
    """Nobody was missed meanwhile, and the pace is the interval's again."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(1)
    reading(world, EMPTY)
    world.run(40)
    reading(world, listing(("new", "UP")))
    world.run(5)
    assert hosts(world) == ["new"]
    last = world.times("GET")[-1]
    world.run(30)
    assert world.times("GET")[-1] == last + 30


def test_the_lease_of_an_empty_registry_begins_again_when_it_was_away() -> None:
    """It has restarted once more, and its producers need their time once more."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(1)
    for _ in range(3):
        reading(world, EMPTY)
        world.run(60)
        world.answer = lambda step: Answer(error="refused")
        world.run(40)
    assert hosts(world) == ["h"]


def test_half_of_the_instances_are_lost_when_two_answers_say_so() -> None:
    """One answer may be that of a server that has not yet heard of everybody; the second one comes within 5 s."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    reading(world, listing(("a", "UP"), ("b", "UP"), ("c", "UP"), ("d", "UP")))
    world.run(1)
    reading(world, listing(("a", "UP"), ("b", "UP"), ("c", "UP")))
    world.run(30)
    assert hosts(world) == ["a", "b", "c"]
    reading(world, listing(("a", "UP")))
    world.run(29.5)
    assert hosts(world) == ["a", "b", "c"]
    world.run(4.5)
    assert hosts(world) == ["a"]
    assert world.times("GET") == [0, 30, 60, 61]


def test_who_is_listed_but_not_up_is_believed_at_once() -> None:
    """A drained instance is not forgotten by its registry: no doubt about that answer."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(1)
    reading(world, listing(("h", "OUT_OF_SERVICE")))
    world.run(30)
    assert hosts(world) == []


@pytest.mark.parametrize(("rng", "first"), [(0.0, 0.8), (1.0, 1.2)])
def test_back_off_spreads_by_a_fifth(rng: float, first: float) -> None:
    """A fleet does not come back in step."""
    backoff = Backoff(rng=lambda: rng)
    assert backoff.next() == pytest.approx(first)
    assert [backoff.next() for _ in range(8)][-1] == pytest.approx(30 * first)


@pytest.mark.parametrize(("rng", "gap"), [(0.0, 27.0), (1.0, 33.0)])
def test_fetches_keep_their_interval_within_a_tenth(rng: float, gap: float) -> None:
    """30 s, more or less a tenth."""
    world = World(rng=rng)
    world.agenda.jobs = (world.fetch,)
    world.run(40)
    assert world.times("GET") == [0, gap]


def test_an_early_fetch_comes_at_most_once_a_second() -> None:
    """However many callers see that what is known is not so."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(0.5)
    for _ in range(20):
        world.fetch.soon()
        world.run(0.1)
    assert world.times("GET") == [0, 1, 2]


def test_an_outage_keeps_what_is_known_and_lets_its_age_grow(heard: list[Event]) -> None:
    """One hour without a registry: the same instances; that it is down, that they are stale, that it is back."""
    world = World()
    world.agenda.jobs = (world.fetch,)
    world.run(1)
    known = world.roster.known
    world.answer = lambda step: Answer(500)
    world.run(3600)
    assert world.roster.known is known
    assert world.roster.age() > 3500
    world.answer = well
    world.run(60)
    assert [type(event) for event in heard][1:] == [RegistryDown, InstancesStale, RegistryBack]
    stale = next(event for event in heard if isinstance(event, InstancesStale))
    assert 90 < stale.age < 130
    assert "500" in stale.reason


@pytest.mark.parametrize("bad", [b"<html>", b"", b"{}"])
def test_garbage_is_a_failure_of_that_server_and_the_next_one_is_asked(bad: bytes) -> None:
    """A proxy's error page with status 200 must not empty the list."""
    world = World("http://a/eureka", "http://b/eureka")
    world.agenda.jobs = (world.fetch,)
    world.answer = lambda step: Answer(200, bad) if step.server.base.startswith("http://a") else well(step)
    world.run(1)
    assert [step.server.base for _, step in world.sent] == ["http://a/eureka", "http://b/eureka"]
    assert world.roster.get("p")
    assert not world.servers.trouble


def test_a_server_that_works_is_kept_to_and_a_failed_one_is_skipped_for_30_seconds() -> None:
    """Failover is sticky; with every server put aside all are tried again."""
    world = World("http://a", "http://b", "http://c", interval=5.0)
    world.agenda.jobs = (world.fetch,)
    dead = {"http://a"}
    world.answer = lambda step: Answer(error="refused") if step.server.base in dead else well(step)
    world.run(11)
    assert [step.server.base for _, step in world.sent] == ["http://a", "http://b", "http://b", "http://b"]
    dead.add("http://b")
    world.run(5)
    assert [step.server.base for _, step in world.sent[4:]] == ["http://b", "http://c"]
    dead.add("http://c")
    world.run(5)
    assert world.servers.trouble
    dead.clear()
    world.run(5)
    assert not world.servers.trouble


def test_refused_credentials_are_told_once_and_tried_again_at_the_interval(heard: list[Event]) -> None:
    """401 is no outage: no other server, no back-off, no second event."""
    world = World("http://a", "http://b")
    world.agenda.jobs = (world.fetch,)
    world.answer = lambda step: Answer(401)
    world.run(95)
    assert world.times("GET") == [0, 30, 60, 90]
    assert {step.server.base for _, step in world.sent} == {"http://a"}
    assert [type(event) for event in heard] == [RegistryAuthFailed]


def test_a_registry_that_fails_in_one_way_only_is_told_once(heard: list[Event]) -> None:
    """Reading fails while renewing works: one RegistryDown, not one per renewal; one RegistryBack when all is well."""
    world = World()
    world.register()
    world.agenda.jobs = (world.lease, world.fetch)
    world.run(1)
    world.answer = lambda step: Answer(500) if step.method == "GET" else well(step)
    world.run(300)
    assert [type(event) for event in heard if isinstance(event, (RegistryDown, RegistryBack))] == [RegistryDown]
    world.answer = well
    world.run(60)
    assert type(heard[-1]) is RegistryBack


def test_a_registration_finds_its_address_posts_once_and_renews() -> None:
    """The address is ours on the connection that reaches the registry; renewals carry status and timestamp."""
    world = World()
    world.register()
    world.run(95)
    assert world.times("POST") == [0]
    assert world.times("PUT") == [30, 60, 90]
    assert world.lease.instance == Instance("me", LOCAL, 80, f"{LOCAL}:me:80")
    status, dirty = posted(next(step for _, step in world.sent if step.method == "POST"))
    query = parse_qs(urlsplit(next(step.path for _, step in world.sent if step.method == "PUT")).query)
    assert query == {"status": [status], "lastDirtyTimestamp": [str(dirty)]}
    assert world.lease.registered


def test_renewals_come_at_least_three_to_a_lease() -> None:
    """A long interval with a short lease would lose the entry."""
    world = World(interval=50.0, lease=90.0)
    world.register()
    world.run(65)
    assert world.times("PUT") == [30, 60]


def test_without_an_address_nothing_is_posted_yet() -> None:
    """No server was reached, so nobody knows what reaches it; the question is repeated."""
    world = World()
    world.register()
    world.answer = lambda step: Answer(error="refused")
    world.run(2)
    assert world.times("POST") == []
    assert world.times("GET") == [0, 1]
    world.answer = well
    world.run(2)
    assert world.lease.registered


def test_a_given_host_is_registered_as_it_is() -> None:
    """A name stays a name beside the address that was found out."""
    world = World()
    world.lease.instance = Instance("me", "shop.local", 80)
    world.register()
    world.run(1)
    body = next(step.body for _, step in world.sent if step.method == "POST")
    raw = json.loads(body or b"")["instance"]
    assert (raw["hostName"], raw["ipAddr"], raw["instanceId"]) == ("shop.local", LOCAL, "shop.local:me:80")


def test_a_change_while_the_registry_fails_waits_for_the_next_attempt() -> None:
    """A status set during an outage does not hammer the registry, and arrives after it."""
    world = World()
    world.register()
    world.run(1)
    world.answer = lambda step: Answer(503)
    world.lease.set_status("DOWN")
    world.run(4)
    assert world.times("POST") == [0, 1, 2, 4]
    world.answer = well
    world.run(10)
    assert posted(world.sent[-1][1])[0] == "DOWN"


def test_a_failing_registration_comes_again_after_1_2_4_seconds() -> None:
    """For ever, and it is no longer failing when the registry is there."""
    world = World()
    world.register()
    world.answer = lambda step: Answer(503, local=LOCAL)
    world.run(8)
    assert world.times("POST") == [0, 1, 3, 7]
    assert not world.lease.registered
    world.answer = well
    world.run(8)
    assert world.lease.registered


def test_a_forgotten_registration_is_posted_again_once_with_a_newer_timestamp(heard: list[Event]) -> None:
    """404 on renew: at once, once, and the next renewal is good."""
    world = World()
    world.register()
    world.run(1)
    gone = [True]
    world.answer = lambda step: Answer(404) if step.method == "PUT" and gone.pop() else well(step)
    world.run(30)
    gone.append(False)
    world.run(30)
    assert world.times("POST") == [0, 30]
    posts = [posted(step)[1] for _, step in world.sent if step.method == "POST"]
    assert posts[1] > posts[0]
    assert [type(event) for event in heard] == [Registered, RegistrationLost, RegistrationRegained]


def test_a_failed_renewal_is_repeated_and_not_registered_anew_until_the_lease_is_over(heard: list[Event]) -> None:
    """5xx and network errors say nothing about the entry; after the lease it counts as lost, and the loop goes on."""
    world = World()
    world.register()
    world.run(1)
    world.answer = lambda step: Answer(error="refused")
    world.run(85)
    assert world.times("PUT")[:5] == [30, 31, 33, 37, 45]
    assert max(b - a for a, b in zip(world.times("PUT"), world.times("PUT")[1:], strict=False)) <= 10
    assert world.times("POST") == [0]
    assert not [event for event in heard if isinstance(event, RegistrationLost)]
    world.run(30)
    lost = [event for event in heard if isinstance(event, RegistrationLost)]
    assert [event.instance.service for event in lost] == ["me"]
    assert not world.lease.registered
    world.answer = well
    world.run(40)
    assert world.lease.registered
    assert [type(event) for event in heard][-1] is RegistrationRegained


def test_a_status_change_is_posted_at_once_with_a_newer_timestamp() -> None:
    """Down is down before the next renewal would have come."""
    world = World()
    world.register()
    world.run(1)
    assert world.lease.set_status("DOWN")
    assert not world.lease.set_status("DOWN")
    world.run(5)
    (before, after) = (posted(step) for _, step in world.sent if step.method == "POST")
    assert (before[0], after[0]) == ("UP", "DOWN")
    assert after[1] > before[1]


def test_draining_goes_through_down_because_real_servers_keep_up_otherwise() -> None:
    """Between UP and OUT_OF_SERVICE a real server keeps the status it has; from DOWN it believes us."""
    world = World()
    world.register()
    world.run(1)
    world.lease.set_status("OUT_OF_SERVICE")
    world.run(1)
    world.lease.set_status("UP")
    world.run(1)
    posts = [posted(step) for _, step in world.sent if step.method == "POST"]
    assert [status for status, _ in posts] == ["UP", "DOWN", "OUT_OF_SERVICE", "DOWN", "UP"]
    assert [dirty for _, dirty in posts] == sorted({dirty for _, dirty in posts})


@pytest.mark.parametrize("ill", ["false", "raises"])
def test_a_health_check_that_fails_makes_the_status_down_until_it_is_well(
    ill: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked before each renewal; one that raises is logged."""
    world = World()
    world.register()
    world.run(1)

    def failing() -> bool:
        if ill == "raises":
            raise OSError("disk full")
        return False

    world.health = failing
    with caplog.at_level(logging.WARNING, "resilient"):
        world.run(60)
    world.health = None
    world.run(30)
    assert [posted(step)[0] for _, step in world.sent if step.method == "POST"] == ["UP", "DOWN", "UP"]
    assert ("disk full" in caplog.text) == (ill == "raises")


def test_leaving_tries_each_server_once_and_takes_404_for_an_answer() -> None:
    """The entry is not there afterwards, which is what was wanted."""
    world = World("http://a", "http://b", "http://c")
    world.register()
    world.run(1)
    world.sent.clear()
    world.answer = lambda step: Answer(error="refused") if step.server.base == "http://a" else Answer(404)
    world.lease.close()
    drive(world.lease.leave(5.0), world.send, lambda _: None)
    assert [(step.method, step.server.base) for _, step in world.sent] == [
        ("DELETE", "http://a"),
        ("DELETE", "http://b"),
    ]
    assert world.lease.due() == math.inf


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_refuses_the_farewell_is_told_of_once(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A token that was revoked meanwhile leaves the entry there until its lease ends: somebody should know."""
    world = World("http://a", "http://b")
    world.register()
    world.run(1)
    world.sent.clear()
    world.answer = lambda step: Answer(status)
    world.lease.close()
    drive(world.lease.leave(5.0), world.send, lambda _: None)
    assert [(step.method, step.server.base) for _, step in world.sent] == [("DELETE", "http://a")]
    name = world.lease.instance.id
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{name} could not be taken out of eureka://a (HTTP status {status}); its lease will end"
    ]


def test_closing_stops_a_registration_between_two_servers() -> None:
    """The request in flight ends; the next server is not told of an entry that is being taken out."""
    world = World("http://a", "http://b")
    world.lease.instance = Instance("me", LOCAL, 80)
    world.register()

    def closing(step: Send) -> Answer:
        world.lease.close()
        return Answer(error="no complete answer")

    world.answer = closing
    world.run(10)
    assert [(step.method, step.server.base) for _, step in world.sent] == [("POST", "http://a")]


def test_leaving_shares_its_time_among_the_servers() -> None:
    """One that hangs leaves time for the others."""
    world = World("http://a", "http://b", "http://c")
    world.register()
    world.run(1)
    world.sent.clear()
    world.answer = lambda step: Answer(error="no complete answer")
    drive(world.lease.leave(3.0), world.send, lambda _: None)
    assert [step.timeout for _, step in world.sent] == pytest.approx([1.0, 1.5, 3.0], abs=0.1)


def test_what_nobody_confirmed_for_a_lease_is_not_registered() -> None:
    """Even when no renewal failed, because none was sent: the registry has dropped it by now."""
    world = World()
    world.register()
    world.run(1)
    world.clock.advance(88)
    assert world.lease.registered
    world.clock.advance(2)
    assert not world.lease.registered


def test_what_was_never_sent_is_not_taken_out() -> None:
    """No DELETE for an entry that can not be there."""
    world = World()
    world.lease.open()
    world.lease.close()
    drive(world.lease.leave(5.0), world.send, lambda _: None)
    assert world.sent == []


def test_a_status_that_flickers_is_told_four_times_a_minute() -> None:
    """What it is in the end arrives with the first change that may be told."""
    world = World()
    world.register()
    world.run(1)
    for number in range(40):
        world.lease.set_status(("DOWN", "UP")[number % 2])
        world.run(1)
    world.run(60)
    changes = world.times("POST")[1:]
    assert changes[:4] == [1, 2, 3, 4]
    assert all(later - earlier >= 25 for earlier, later in zip(changes, changes[4:], strict=False))
    assert posted([step for _, step in world.sent if step.method == "POST"][-1])[0] == "UP"
