"""A fleet that changes under a balancer, and figures that make no sense: the choice goes on, soon and with the new."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from resilient.balancing import (
    Balancer,
    ConsistentHash,
    HealthChecks,
    Lease,
    Priorities,
    RoundRobin,
    Strategy,
    Subset,
    WeightedRoundRobin,
    Zoned,
)
from resilient.discovery import Instance
from resilient.outcome import SUCCESS
from resilient.testing import VirtualClock
from tests.listed import Listed, instance, instances


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def chosen(balancer: Balancer, count: int) -> Counter[str]:
    """Who answers `count` calls that go well."""
    found: Counter[str] = Counter()
    for _ in range(count):
        with balancer.pick() as lease:
            found[lease.instance.id] += 1
    return found


@pytest.mark.parametrize("light", [1e-4, 1e-5, 1e-20])
def test_who_is_left_weighs_next_to_nothing_and_is_found(light: float) -> None:
    """When the only heavy instance was tried already, whoever is left is chosen and not waited for."""
    heavy, *rest = instances("abc")
    fleet = Listed(replace(heavy, weight=1.0), *(replace(one, weight=light) for one in rest))
    balancer = Balancer("producer", fleet, lambda: RoundRobin(rng=lambda: 0.0))
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(balancer.pick(exclude=[heavy]).instance.id), daemon=True)
    thread.start()
    thread.join(10.0)
    assert found in (["b"], ["c"])


class Master(Strategy):
    """Whoever says that it is the master."""

    def pick(self, instances: Sequence[Instance], key: object = None) -> Instance:
        return next(one for one in instances if one.metadata.get("master"))


def test_the_same_addresses_with_other_metadata_are_another_fleet() -> None:
    """A strategy of your own, weights and zones see what the registry says now."""
    a, b = instances("ab")
    fleet = Listed(replace(a, metadata={"master": "yes", "share": "1"}), replace(b, metadata={"share": "1"}))
    by_role = Balancer("producer", fleet, Master)
    by_share = Balancer(
        "producer", fleet, lambda: WeightedRoundRobin(weight=lambda one: float(one.metadata["share"]), rng=lambda: 0.0)
    )
    assert chosen(by_role, 1) == {"a": 1}
    assert chosen(by_share, 10) == {"a": 5, "b": 5}
    fleet.set(replace(a, metadata={"share": "9"}), replace(b, metadata={"master": "yes", "share": "1"}))
    assert chosen(by_role, 1) == {"b": 1}
    assert chosen(by_share, 100) == {"a": 90, "b": 10}


def test_zones_that_were_swapped_are_heeded() -> None:
    """The same instances, said to be elsewhere."""
    near, far = (
        [replace(one, zone="near") for one in instances("abc")],
        [replace(one, zone="far") for one in instances("def")],
    )
    fleet = Listed(*near, *far)
    balancer = Balancer("producer", fleet, lambda: Zoned(zone="near"))
    assert set(chosen(balancer, 20)) == set("abc")
    fleet.set(*(replace(one, zone="far") for one in near), *(replace(one, zone="near") for one in far))
    assert set(chosen(balancer, 20)) == set("def")


@pytest.mark.usefixtures("often")
def test_a_list_that_changes_while_threads_choose_by_priority() -> None:
    """No pick fails, and none sees a level of an instance that it does not know."""
    lists = [instances("abcdefghij"), instances("fghijklmno")]
    fleet = Listed(*lists[0])
    balancer = Balancer("producer", fleet, lambda: Priorities(lambda one: ord(one.id) % 2))
    errors: list[BaseException] = []
    done = threading.Event()

    def choose() -> None:
        try:
            while not done.is_set():
                balancer.pick().success()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=choose) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(2_000):
        fleet.set(*lists[turn % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("figure", [math.nan, math.inf, -1.0])
def test_a_latency_that_is_none_says_nothing(figure: float) -> None:
    """However it was told, an instance that is well again has its share again."""
    clock = VirtualClock()
    balancer = Balancer("producer", Listed(*instances("abc")), lambda: RoundRobin(rng=lambda: 0.0), clock=clock)

    def run(count: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(count):
            lease = balancer.pick()
            found[lease.instance.id] += 1
            lease.success(0.01)
            clock.advance(0.01)
        return found

    def answered(lease: Lease) -> None:
        lease.answered(SUCCESS, figure)
        lease.success()

    def ended(lease: Lease) -> None:
        lease.success(figure)

    run(300)
    for tell in (answered, ended):
        tell(balancer.pick())
        assert run(300) == {"a": 100, "b": 100, "c": 100}
        assert all(math.isfinite(entry.latency or 0.0) for entry in balancer.snapshot().instances)


def test_two_instances_and_a_black_hole_that_callers_do_not_wait_for() -> None:
    """Callers who give up after a second are not sent there one after the other."""
    clock = VirtualClock()
    balancer = Balancer("producer", Listed(*instances("ab")), lambda: RoundRobin(rng=lambda: 0.0), clock=clock)
    ready = clock.monotonic() + 5.0
    while clock.monotonic() < ready:
        lease = balancer.pick()
        if lease.instance.id == "a":
            lease.success(0.01)
        else:
            lease.failure()
        clock.advance(0.05)
    lost, end = 0, clock.monotonic() + 60.0
    while clock.monotonic() < end:
        lease = balancer.pick()
        if lease.instance.id == "b":
            lost += 1
            clock.advance(1.0)
            lease.ignored()
        else:
            clock.advance(0.01)
            lease.success()
    assert lost <= 10


def test_who_left_is_shown_until_its_last_call_ends() -> None:
    """And no longer, though the list does not change again."""
    fleet = Listed(*instances("ab"))
    balancer = Balancer("producer", fleet, lambda: RoundRobin(rng=lambda: 0.0))
    lease = balancer.pick()
    fleet.set(*instances("b"))
    balancer.pick().success()
    assert {entry.instance.id for entry in balancer.snapshot().instances} == {"a", "b"}
    lease.success()
    assert {entry.instance.id for entry in balancer.snapshot().instances} == {"b"}


@pytest.mark.parametrize(
    "strategy",
    [ConsistentHash, lambda: Subset(50, ConsistentHash), lambda: Zoned(ConsistentHash, zone="z")],
    ids=["whole", "subset", "zone"],
)
def test_a_key_keeps_its_instance_also_in_a_part_and_when_leases_are_dropped(strategy: Callable[[], Strategy]) -> None:
    """Nobody settles these: they must not look like load that moves keys."""
    fleet = Listed(*(replace(instance(f"i{n}"), zone="z") for n in range(100)))
    balancer = Balancer("producer", fleet, strategy, clock=VirtualClock())
    keys = [f"user {n}" for n in range(50)]
    first = {key: balancer.pick(key=key).instance.id for key in keys}
    assert {key: balancer.pick(key=key).instance.id for key in keys} == first
    assert len(set(first.values())) > 10


def test_a_key_that_is_no_text_is_told() -> None:
    """And the balancer goes on."""
    balancer = Balancer("producer", Listed(*instances("ab")), ConsistentHash)
    with pytest.raises(TypeError, match="key must be text, not 7"):
        balancer.pick(key=7)  # type: ignore[arg-type]
    with balancer.pick(key="7"):
        assert balancer.snapshot().in_flight == 1


# --- checks ---------------------------------------------------------------------------------------------------------


def test_closed_checks_keep_nobody_out() -> None:
    """Whom they took out comes back: nobody is left who would find out."""
    clock = VirtualClock()
    balancer = Balancer("producer", Listed(*instances("abc")), clock=clock)
    checks = HealthChecks(balancer, lambda one: one.id != "a", unhealthy_after=1)
    checks.round()
    assert set(chosen(balancer, 30)) == {"b", "c"}
    checks.close()
    clock.advance(60.0)
    assert set(chosen(balancer, 300)) == {"a", "b", "c"}


def test_checks_can_be_asked_by_hand_after_a_with() -> None:
    """`round()` asks everybody, as before."""
    asked: list[str] = []

    def probe(one: Instance) -> bool:
        asked.append(one.id)
        return True

    checks = HealthChecks(Balancer("producer", Listed(*instances("abc"))), probe)
    with checks:
        pass
    asked.clear()
    checks.round()
    assert sorted(asked) == ["a", "b", "c"]
