"""What a balancer promises, statement by statement, in virtual time."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from resilient import Event, NoInstanceError, listen
from resilient.balancing import (
    Balancer,
    ConsistentHash,
    InstanceEjected,
    InstancePutAside,
    InstanceReturned,
    LeastRequest,
    PanicEntered,
    PanicLeft,
    RoundRobin,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from tests.fleets import STRATEGIES, balancer, but, calls, entry, fail, fleet, rotation, well
from tests.listed import Listed


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    """Every event of a balancer."""
    found: list[Event] = []
    kinds = (InstanceEjected, InstanceReturned, InstancePutAside, PanicEntered, PanicLeft)
    stop = listen(lambda event: found.append(event) if isinstance(event, kinds) else None, Event)
    yield found
    stop()


# --- 1 to 3: rotation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 3, 10])
def test_statement_1_equal_hosts_get_equal_numbers(clock: VirtualClock, hosts: int) -> None:
    """Statement 1: k x H picks in a row give each of H hosts exactly k."""
    found = calls(balancer(fleet(hosts), clock), clock, 7 * hosts, well)
    assert set(found.values()) == {7}
    assert len(found) == hosts


def test_statement_1_threads_and_a_loop_share_one_rotation() -> None:
    """Statement 1: 64 threads x 1,000 picks while a loop picks too: the busiest has one more than the idlest."""
    chosen = Balancer("producer", Listed(*fleet(7)))
    barrier = threading.Barrier(65)

    def run() -> None:
        barrier.wait()
        for _ in range(1000):
            chosen.pick().unused()

    async def run_async() -> None:
        for number in range(1000):
            chosen.pick().unused()
            if not number % 100:
                await asyncio.sleep(0)

    threads = [threading.Thread(target=run) for _ in range(64)]
    for thread in threads:
        thread.start()
    barrier.wait()
    asyncio.run(run_async())
    for thread in threads:
        thread.join()
    picks = [one.picks for one in chosen.snapshot().instances]
    assert sum(picks) == 65_000
    assert max(picks) - min(picks) <= 1


def test_statement_2_fresh_processes_begin_anywhere() -> None:
    """Statement 2: of 1,000 fresh balancers over 10 hosts at most 14 % begin with the same one (seeded)."""
    chance, discovery = random.Random(7), Listed(*fleet(10))
    first = Counter(
        Balancer("producer", discovery, lambda: RoundRobin(rng=chance.random)).pick().instance.id for _ in range(1000)
    )
    assert len(first) == 10
    assert max(first.values()) <= 140


def test_statement_2_looking_at_a_balancer_does_not_decide_where_it_begins() -> None:
    """Statement 2: a snapshot before the first pick leaves the start to chance."""
    chosen = Balancer("producer", Listed(*fleet(10)), lambda: RoundRobin(rng=lambda: 0.75))
    assert len(chosen.snapshot().instances) == 10
    assert chosen.pick().instance.id == "07"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_statement_2_forked_workers_do_not_go_in_step() -> None:
    """Statement 2: a balancer used before the fork, 16 workers: at most 8 first picks on one host."""
    chosen = Balancer("producer", Listed(*fleet(50)))
    chosen.pick().success()
    first = Counter[int]()
    for _ in range(16):
        child = os.fork()
        if child == 0:
            os._exit(int(chosen.pick().instance.id))
        first[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
    assert first.total() == 16
    assert max(first.values()) <= 8


def test_statement_3_refreshes_change_nothing(clock: VirtualClock) -> None:
    """Statement 3: a refresh every 4 picks, in another order each time: equal numbers, state kept by id."""
    known, chance = list(fleet(10)), random.Random(1)
    discovery = Listed(*known, clock=clock)
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    held = chosen.pick()
    found = Counter[str]()
    for _ in range(250):
        chance.shuffle(known)
        discovery.set(*known)
        found += calls(chosen, clock, 4, well)
    assert max(found.values()) <= 1.05 * 100
    assert entry(chosen, held.instance.id).in_flight == 1
    assert entry(chosen, "05").latency == pytest.approx(0.02)
    assert {one.weight for one in chosen.snapshot().instances} == {1.0}


def test_statement_3_an_ejection_survives_an_update(clock: VirtualClock) -> None:
    """Statement 3: a list with one more instance does not bring back what is ejected."""
    discovery = Listed(*fleet(5), clock=clock)
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    fail(chosen, clock, "02", 5)
    discovery.set(*fleet(6))
    assert "02" not in calls(chosen, clock, 50, well)
    assert entry(chosen, "02").ejected_for > 0


# --- 4 to 7: latency ------------------------------------------------------------------------------------------------


def test_statement_4_a_healthy_fleet_is_plain_rotation(clock: VirtualClock) -> None:
    """Statement 4: latencies that differ by less than twice, and a loop that stalls 150 ms each second."""
    chance = random.Random(5)
    guarded = balancer(fleet(10), clock)
    plain = RoundRobin(guarded=False, rng=lambda: 0.0)
    known = fleet(10)
    for number in range(6000):
        clock.advance(0.01)
        lease = guarded.pick()
        assert lease.instance == plain.pick(known, None)
        stalled = 0.15 if number % 101 == 100 and number > 300 else 0.0
        lease.success(0.02 * (1.0 + int(lease.instance.id) / 15) * chance.uniform(0.8, 1.2) + stalled)


def test_statement_5_a_slow_host_gets_the_medians_share(clock: VirtualClock) -> None:
    """Statement 5: 5 x slower, 10 samples a second: within 10 s it gets 15 to 30 % of its fair share; healed, all."""
    chosen = balancer(fleet(10), clock)
    slow = but("03", good=True, seconds=0.1)
    calls(chosen, clock, 1000, slow)
    found = calls(chosen, clock, 1000, slow)
    assert 15 <= found["03"] <= 30
    assert entry(chosen, "03").weight == pytest.approx(0.2, abs=0.02)
    calls(chosen, clock, 5000, well)
    assert calls(chosen, clock, 1000, well)["03"] >= 90


def test_statement_5_the_floor_is_a_twentieth(clock: VirtualClock) -> None:
    """Statement 5: however slow, a host keeps 5 %, by which it is found to be well again."""
    chosen = balancer(fleet(10), clock)
    calls(chosen, clock, 4000, but("03", good=True, seconds=60.0))
    assert entry(chosen, "03").weight == 0.05


def test_statement_5_an_excess_fades_while_nobody_asks(clock: VirtualClock) -> None:
    """Statement 5: the excess over the median falls to 1/e in 10 s."""
    chosen = balancer(fleet(3), clock)
    calls(chosen, clock, 300, but("01", good=True, seconds=0.2))
    before = entry(chosen, "01").weight
    assert before == pytest.approx(0.1, abs=0.01)
    clock.advance(10.0)
    assert entry(chosen, "01").weight == pytest.approx(1 / (1 + 9 / 2.718), rel=0.1)


def test_statement_6_nobody_gets_more_for_looking_fast(clock: VirtualClock) -> None:
    """Statement 6: a host that answers in 1 ms among 20 ms gets its turn and no more."""
    found = calls(balancer(fleet(10), clock), clock, 3000, but("03", good=True, seconds=0.001))
    assert found["03"] == 300


@pytest.mark.parametrize("per_second", [700, 175, 28])
@pytest.mark.parametrize("name", STRATEGIES)
def test_statement_7_failing_fast_attracts_nobody(clock: VirtualClock, name: str, per_second: int) -> None:
    """Statement 7: 500 in 1 ms, no ejection: at most 30 % of the fair share over 30 s, under every strategy."""
    known = (*fleet(10, zone="a"), *fleet(10, first=10, zone="b"))
    chosen = Balancer(
        "producer", Listed(*known, clock=clock), STRATEGIES[name], outliers=None, slow_start=None, clock=clock
    )
    chance = random.Random(3)
    users = ConsistentHash if name == "ConsistentHash" else None
    found = calls(
        chosen,
        clock,
        30 * per_second,
        but("03", good=False, seconds=0.001),
        every=1 / per_second,
        key=lambda _: f"user-{chance.randrange(2000)}" if users or name == "Sticky" else None,
    )
    near = 10 if name == "Zoned" else 20
    assert found["03"] <= 0.3 * 30 * per_second / near


# --- 14, 18 to 21, 24, 25 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_statement_14_what_was_tried_is_not_tried_again(clock: VirtualClock, name: str) -> None:
    """Statement 14: under every strategy each attempt goes to somebody else, until all were tried; then it may."""
    known = (*fleet(3, zone="a"), *fleet(3, first=3, zone="b"))
    chosen = Balancer("producer", Listed(*known, clock=clock), STRATEGIES[name], clock=clock)
    for _ in range(20):
        tried: list[Instance] = []
        for _ in range(6):
            tried.append(chosen.pick(key="k", exclude=tried).instance)
        assert len(set(tried)) == 6
        assert chosen.pick(key="k", exclude=tried).instance in known


@pytest.mark.parametrize("name", ["RoundRobin", "LeastRequest", "WeightedRoundRobin", "Random"])
def test_statement_14_the_successor_does_not_get_the_load_of_two(clock: VirtualClock, name: str) -> None:
    """Statement 14: calls that go on after a failure are spread over all the others."""
    chosen = Balancer(
        "producer", Listed(*fleet(10), clock=clock), STRATEGIES[name], outliers=None, slow_start=None, clock=clock
    )
    found = Counter[str]()
    for _ in range(4000):
        lease = chosen.pick()
        if lease.instance.id == "04":
            lease.ignored(0.0)
            lease = chosen.pick(exclude=[lease.instance])
        found[lease.instance.id] += 1
        lease.success(0.02)
    fair = 4000 / 9
    assert found["04"] == 0
    assert max(found.values()) <= (1.05 if name != "Random" else 1.2) * fair


def test_statement_18_who_joins_later_starts_slowly(clock: VirtualClock) -> None:
    """Statement 18: 10 % of its share at first, all of it after 60 s; the first list starts in full."""
    discovery = Listed(*fleet(9), clock=clock)
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    assert set(calls(chosen, clock, 90, well).values()) == {10}
    discovery.set(*fleet(10))
    assert entry(chosen, "09").weight == pytest.approx(0.1)
    shares = [calls(chosen, clock, 1000, well)["09"] for _ in range(7)]
    assert shares[0] == pytest.approx(0.175 * 100, abs=4)
    assert shares[3] == pytest.approx(0.625 * 100, abs=5)
    assert shares[6] == 100
    assert shares == sorted(shares)


def test_statement_18_who_was_down_starts_slowly_too(clock: VirtualClock) -> None:
    """Statement 18: an instance that left the list and came back is new, although a call to it never ended."""
    discovery = Listed(*fleet(3), clock=clock)
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    held = chosen.pick()
    discovery.set(*fleet(2, first=1))
    calls(chosen, clock, 4, well)
    discovery.set(*fleet(3))
    assert entry(chosen, held.instance.id).weight == pytest.approx(0.1)


def test_statement_19_an_idle_fleet_gets_round_robin(clock: VirtualClock) -> None:
    """Statement 19: with nothing in flight LeastRequest picks what rotation picks, element by element."""
    known = fleet(7)
    chosen = Balancer(
        "producer", Listed(*known, clock=clock), lambda: LeastRequest(rng=lambda: 0.0), clock=clock, slow_start=None
    )
    plain = rotation()
    for _ in range(100):
        clock.advance(0.01)
        with chosen.pick() as lease:
            assert lease.instance == plain.pick(known, None)


def test_statement_19_the_least_is_chosen_and_nobody_starves(clock: VirtualClock) -> None:
    """Statement 19: a host that holds its calls is avoided, and still sampled at a tenth of its share."""
    chosen = Balancer("producer", Listed(*fleet(5), clock=clock), LeastRequest, outliers=None, clock=clock)
    held = []
    found = Counter[str]()
    for _ in range(2000):
        lease = chosen.pick()
        found[lease.instance.id] += 1
        if lease.instance.id == "02":
            held.append(lease)
        else:
            lease.success(0.02)
    assert found["02"] == pytest.approx(0.1 * 400, rel=0.15)
    assert max(found.values()) - min(found[name] for name in ("00", "01", "03", "04")) <= 4


def test_statement_20_nothing_is_left_in_flight() -> None:
    """Statement 20: 10,000 calls from 8 threads that end in every way, some twice, some never: 0, and never below."""
    chosen = Balancer("producer", Listed(*fleet(5)), outliers=None)
    lowest: list[int] = []

    def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(1250):
            lease = chosen.pick()
            end = chance.choice(["success", "failure", "ignored", "unused", "unreachable", "drop", "twice"])
            if end == "twice":
                lease.success()
                lease.failure()
            elif end != "drop":
                getattr(lease, end)()
            lowest.append(min(one.in_flight for one in chosen.snapshot().instances) if chance.random() < 0.01 else 0)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chosen.snapshot().in_flight == 0
    assert min(lowest) >= 0
    assert sum(one.picks for one in chosen.snapshot().instances) == 10_000


def test_statement_20_open_streams_are_counted() -> None:
    """Statement 20: 900 answers whose bodies are being read are 900 in flight, although their verdict fell."""
    from resilient.outcome import SUCCESS

    chosen = Balancer("producer", Listed(*fleet(5)))
    leases = [chosen.pick() for _ in range(900)]
    for lease in leases:
        lease.answered(SUCCESS)
    assert chosen.snapshot().in_flight == 900
    for lease in leases:
        lease.success()
    assert chosen.snapshot().in_flight == 0


@pytest.mark.parametrize("name", ["RoundRobin", "LeastRequest", "WeightedRoundRobin"])
def test_statement_21_callers_who_give_up_leave_a_black_hole(clock: VirtualClock, name: str) -> None:
    """Statement 21: 500 calls that are cancelled after 0.2 s at 1 of 10 hosts: at most half of its fair share."""
    chosen = Balancer("producer", Listed(*fleet(10), clock=clock), STRATEGIES[name], slow_start=None, clock=clock)
    found = Counter[str]()
    for _ in range(500):
        clock.advance(0.02)
        lease = chosen.pick()
        found[lease.instance.id] += 1
        if lease.instance.id == "03":
            clock.advance(0.2)
            lease.ignored()
        else:
            lease.success(0.02)
    assert found["03"] <= 25
    assert entry(chosen, "03").failures == 0


def test_statement_21_a_quick_cancel_says_nothing(clock: VirtualClock) -> None:
    """Statement 21: only an elapsed time above the mean counts; impatience ejects nobody."""
    chosen = balancer(fleet(3), clock)
    calls(chosen, clock, 300, well)
    for _ in range(100):
        lease = chosen.pick()
        clock.advance(0.001)
        lease.ignored()
    assert [one.latency for one in chosen.snapshot().instances] == pytest.approx([0.02] * 3)
    assert {(one.failures, one.weight, one.ejected_for) for one in chosen.snapshot().instances} == {(0, 1.0, 0.0)}


def test_statement_24_a_removed_instance_gets_nothing(clock: VirtualClock) -> None:
    """Statement 24: no new pick from the moment it is gone; what is in flight ends where it began."""
    discovery = Listed(*fleet(3), clock=clock)
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    leases = [chosen.pick() for _ in range(3)]
    discovery.set(*fleet(2))
    assert set(calls(chosen, clock, 10, well)) == {"00", "01"}
    assert entry(chosen, "02").in_flight == 1
    for lease in leases:
        lease.failure()
    assert chosen.snapshot().in_flight == 0


def test_statement_24_nobody_known_is_said_at_once(clock: VirtualClock) -> None:
    """Statement 24: a service never seen is an error without a wait or a connection."""
    with pytest.raises(NoInstanceError, match="no instance of 'unknown' can be called"):
        Balancer("unknown", Listed(*fleet(2), clock=clock), clock=clock).pick()


@pytest.mark.parametrize("hosts", [10, 2000])
def test_statement_25_a_pick_looks_at_one_host(hosts: int) -> None:
    """Statement 25: what a pick costs does not grow with the fleet: the list is not walked."""

    class Looked(tuple[Instance, ...]):
        __slots__ = ()
        walks = 0

        def __iter__(self) -> Iterator[Instance]:
            Looked.walks += 1
            return super().__iter__()

    clock = VirtualClock()
    discovery = Listed(*fleet(hosts), clock=clock)
    discovery._roster.known = {"producer": Looked(discovery.instances("producer"))}
    chosen = Balancer("producer", discovery, rotation, clock=clock)
    chosen.pick().success()
    before = Looked.walks
    for _ in range(1000):
        chosen.pick().success()
    assert Looked.walks == before


def test_statement_25_events_carry_who_why_and_how_much(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 25: each ejection and return is one event with host, reason and counts."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    fail(chosen, clock, "01", 5)
    clock.advance(10.0)
    calls(chosen, clock, 6, well)
    kinds: Sequence[type[Event]] = [type(event) for event in heard]
    assert kinds == [InstanceEjected, InstanceReturned]
    assert {event.name for event in heard} == {"producer"}
    back = heard[1]
    assert isinstance(back, InstanceReturned)
    assert 10.0 <= back.seconds <= 10.1
