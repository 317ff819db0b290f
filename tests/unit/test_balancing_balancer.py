"""Balancer: leases, what was tried already, and instances that could not be connected to."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import CircuitOpenError, ConfigError, NoInstanceError, listen
from resilient.balancing import Balancer, InstancePutAside, Lease, RoundRobin
from resilient.discovery import Discovery, Instance
from resilient.testing import VirtualClock
from tests.listed import Listed, instance, instances


def balancer(discovery: Discovery, clock: VirtualClock | None = None, *, secure: bool | None = None) -> Balancer:
    """A balancer of `producer` whose rotation starts at the first instance."""
    return Balancer("producer", discovery, lambda: RoundRobin(rng=lambda: 0.0), clock=clock, secure=secure)


def ids(leases: Sequence[Lease]) -> str:
    """Who was chosen."""
    return "".join(lease.instance.id for lease in leases)


def served(chosen: Balancer, count: int) -> str:
    """Who answers `count` calls that all go well."""
    found = ""
    for _ in range(count):
        with chosen.pick() as lease:
            found += lease.instance.id
    return found


def counts(chosen: Balancer, name: str) -> tuple[int, int, int, int]:
    """(picks, in flight, failures, consecutive failures) of one instance."""
    entry = next(entry for entry in chosen.snapshot().instances if entry.instance.id == name)
    return entry.picks, entry.in_flight, entry.failures, entry.consecutive_failures


def refuse(chosen: Balancer, name: str) -> None:
    """The next lease on `name` finds nobody there; others before it go well."""
    while True:
        lease = chosen.pick()
        if lease.instance.id == name:
            lease.unreachable()
            return
        lease.success()


# --- rotation -------------------------------------------------------------------------------------------------------


def test_picks_rotate_over_what_discovery_knows() -> None:
    """Three instances take turns."""
    assert served(balancer(Listed(*instances("abc"))), 7) == "abcabca"


def test_a_new_list_is_used_at_the_next_pick() -> None:
    """An instance that left is not chosen any more, one that came is."""
    discovery = Listed(*instances("abc"))
    chosen = balancer(discovery)
    assert served(chosen, 2) == "ab"
    discovery.set(*instances("cd"))
    assert set(served(chosen, 40)) == {"c", "d"}  # the new one begins with a tenth of its share


@given(seed=st.integers(0, 1000))
def test_refreshes_do_not_disturb_the_rotation(seed: int) -> None:
    """The registry answers every 4 picks, each time in another order: every host still gets exactly its share."""
    chance = random.Random(seed)
    known = list(instances("abcdefghij"))
    discovery = Listed(*known)
    chosen = balancer(discovery)
    found = ""
    for _ in range(25):
        chance.shuffle(known)
        discovery.set(*known)
        found += served(chosen, 4)
    assert set(Counter(found).values()) == {10}


def test_counts_survive_an_update_and_a_move_begins_anew() -> None:
    """What is known about an instance belongs to its id and address."""
    discovery = Listed(instance("a"), instance("b"))
    chosen = balancer(discovery)
    chosen.pick().failure()
    discovery.set(instance("a"), instance("c"))
    assert counts(chosen, "a") == (1, 0, 1, 1)
    discovery.set(instance("a", 81), instance("c"))
    assert counts(chosen, "a") == (0, 0, 0, 0)


def test_an_instance_that_left_is_forgotten_when_its_calls_have_ended() -> None:
    """A call in flight keeps its instance in the snapshot; then it is gone."""
    discovery = Listed(*instances("ab"))
    chosen = balancer(discovery)
    lease = chosen.pick()
    discovery.set(*instances("b"))
    assert {entry.instance.id for entry in chosen.snapshot().instances} == {"a", "b"}
    lease.success()
    discovery.set(*instances("bc"))
    assert {entry.instance.id for entry in chosen.snapshot().instances} == {"b", "c"}


# --- leases ---------------------------------------------------------------------------------------------------------


def test_the_first_settlement_of_a_lease_counts() -> None:
    """A lease settled twice gives its place back once and keeps its first verdict."""
    chosen = balancer(Listed(*instances("a")))
    lease = chosen.pick()
    other = chosen.pick()
    assert counts(chosen, "a") == (2, 2, 0, 0)
    lease.failure()
    lease.success()
    lease.ignored()
    assert counts(chosen, "a") == (2, 1, 1, 1)
    other.success()
    assert counts(chosen, "a") == (2, 0, 1, 0)


def test_threads_that_settle_one_lease_settle_it_once() -> None:
    """16 threads settle the same lease at once: one counts, 200 times in a row."""
    chosen = balancer(Listed(*instances("a")))
    lease = chosen.pick()
    barrier = threading.Barrier(16)

    def run() -> None:
        for _ in range(200):
            barrier.wait()
            lease.failure()
            if barrier.wait() == 0:
                renew()
            barrier.wait()

    def renew() -> None:
        nonlocal lease
        lease = chosen.pick()

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(chosen, "a")[:3] == (201, 1, 200)


@pytest.mark.parametrize("how", ["ignored", "unused"])
def test_what_says_nothing_changes_nothing_but_gives_the_place_back(how: str) -> None:
    """A cancelled call is neither a success nor a failure of the instance."""
    chosen = balancer(Listed(*instances("a")))
    chosen.pick().failure()
    getattr(chosen.pick(), how)()
    assert counts(chosen, "a") == (2, 0, 1, 1)


def test_a_lease_dropped_unsettled_gives_its_place_back() -> None:
    """Nothing leaks when nobody settles; the finaliser takes no lock."""
    chosen = balancer(Listed(*instances("a")))
    lease = chosen.pick()
    assert counts(chosen, "a")[1] == 1
    with chosen._book.lock:  # a finaliser may run anywhere, also while this thread holds the lock
        del lease
        gc.collect()
    assert counts(chosen, "a") == (1, 0, 0, 0)


def test_a_lease_around_a_block_is_settled_by_its_end() -> None:
    """An exception is a failure, a rejection further in is none, a BaseException neither."""
    chosen = balancer(Listed(*instances("a")))
    with pytest.raises(ValueError, match="no"), chosen.pick():
        raise ValueError("no")
    assert counts(chosen, "a") == (1, 0, 1, 1)
    with pytest.raises(CircuitOpenError), chosen.pick():
        raise CircuitOpenError("open", policy="db")
    with pytest.raises(KeyboardInterrupt), chosen.pick():
        raise KeyboardInterrupt
    assert counts(chosen, "a") == (3, 0, 1, 1)
    with chosen.pick():
        pass
    assert counts(chosen, "a") == (4, 0, 1, 0)


# --- what was tried already -----------------------------------------------------------------------------------------


@given(tried=st.sets(st.sampled_from("abcde")), picks=st.integers(0, 7))
def test_what_was_tried_is_not_chosen_while_another_one_exists(tried: set[str], picks: int) -> None:
    """exclude is honoured at any position; when everything was tried, repeats are allowed."""
    known = instances("abcde")
    chosen = balancer(Listed(*known))
    served(chosen, picks)
    exclude = [one for one in known if one.id in tried]
    assert chosen.untried(exclude) == (len(tried) < 5)
    lease = chosen.pick(exclude=exclude)
    lease.success()
    assert (lease.instance.id in tried) == (len(tried) == 5)


def test_the_successor_of_a_failing_host_does_not_get_its_load() -> None:
    """Calls that go on to the next host after b failed leave a and c with the same load."""
    chosen = balancer(Listed(*instances("abc")))
    found = Counter[str]()
    for _ in range(300):
        lease = chosen.pick()
        if lease.instance.id == "b":
            lease.failure()
            lease = chosen.pick(exclude=[lease.instance])
        found[lease.instance.id] += 1
        lease.success()
    assert found.total() == 300
    assert abs(found["a"] - found["c"]) <= 0.05 * 150


def test_a_strategy_that_keeps_to_one_host_is_made_to_leave_it() -> None:
    """A strategy that would choose what was tried again and again is asked among the others only."""

    class First:
        def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
            return instances[0]

    known = instances("abc")
    chosen = Balancer("producer", Listed(*known), First)
    assert chosen.pick(exclude=known[:2]).instance.id == "c"


def test_the_key_reaches_the_strategy() -> None:
    """What calls have in common is handed on."""
    keys: list[str | None] = []

    class Keys:
        def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
            keys.append(key)
            return instances[0]

    chosen = Balancer("producer", Listed(*instances("a")), Keys)
    chosen.pick(key="user-7").success()
    chosen.pick().success()
    assert keys == ["user-7", None]


# --- nobody ---------------------------------------------------------------------------------------------------------


def test_nobody_known_is_an_error_at_once_that_says_who_was_asked() -> None:
    """NoInstanceError names the service and the registry, and asks it to look again."""
    discovery = Listed()
    with pytest.raises(NoInstanceError, match=r"'producer'.*listed.*has not answered yet") as none:
        balancer(discovery).pick()
    assert none.value.policy == "producer"
    assert discovery.refreshes == 1


def test_nobody_left_says_since_when() -> None:
    """When the registry has answered, the error says how long ago, and that other services are known."""
    clock = VirtualClock()
    discovery = Listed(instance("x", service="other"), clock=clock)
    clock.advance(3.0)
    with pytest.raises(NoInstanceError, match=r"1 instances of 1 services.*3\.0 s ago"):
        balancer(discovery).pick()


def test_only_instances_that_speak_tls_are_chosen_for_it() -> None:
    """secure= keeps to instances that speak TLS, or to those that do not; the error says which there are."""
    discovery = Listed(instance("a"), instance("s", secure=True), instance("b"))
    assert served(balancer(discovery, secure=True), 2) == "ss"
    assert served(balancer(discovery, secure=False), 2) == "ab"
    assert set(served(balancer(discovery), 3)) == {"a", "b", "s"}
    discovery.set(instance("a"))
    with pytest.raises(NoInstanceError, match="1 are known, none of them speaks TLS"):
        balancer(discovery, secure=True).pick()


@pytest.mark.parametrize("strategy", [RoundRobin(), lambda: "first", 3])
def test_a_wrong_strategy_is_refused_where_it_is_given(strategy: object) -> None:
    """An object in the place of its class, or something that can not choose, is named."""
    with pytest.raises(ConfigError, match="makes a strategy") as refused:
        Balancer("producer", Listed(), strategy)  # type: ignore[arg-type]
    assert refused.value.path == "strategy"


# --- put aside ------------------------------------------------------------------------------------------------------


def test_an_instance_that_refused_is_put_aside_for_a_second(clock: VirtualClock) -> None:
    """Others are preferred for 1 s; then one call tries it, and its success brings it back."""
    discovery = Listed(*instances("abc"))
    chosen = balancer(discovery, clock)
    refuse(chosen, "b")
    assert discovery.refreshes == 1
    assert set(served(chosen, 12)) == {"a", "c"}
    clock.advance(0.999)
    assert set(served(chosen, 12)) == {"a", "c"}
    clock.advance(0.001)
    assert Counter(served(chosen, 12)) == {"a": 4, "b": 4, "c": 4}


def test_one_call_at_a_time_tries_an_instance_that_was_aside(clock: VirtualClock) -> None:
    """While the trial is under way the others go elsewhere: a host that hangs costs one caller."""
    chosen = balancer(Listed(*instances("ab")), clock)
    refuse(chosen, "b")
    clock.advance(1.0)
    leases = [chosen.pick() for _ in range(10)]
    assert ids(leases).count("b") == 1
    next(lease for lease in leases if lease.instance.id == "b").success()
    assert ids([chosen.pick() for _ in range(10)]).count("b") == 5


def test_the_time_aside_doubles_to_30_seconds_while_it_keeps_refusing(clock: VirtualClock) -> None:
    """1, 2, 4, 8, 16, 30, 30 s; the first success forgets it."""
    chosen = balancer(Listed(*instances("ab")), clock)
    heard: list[float] = []
    stop = listen(lambda event: heard.append(event.seconds), InstancePutAside)
    try:
        for _ in range(7):
            refuse(chosen, "b")
            clock.advance(heard[-1])
        assert heard == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert served(chosen, 2).count("b") == 1
        refuse(chosen, "b")
        assert heard[-1] == 1.0
    finally:
        stop()


def test_many_refusals_at_once_tell_one_thing(clock: VirtualClock) -> None:
    """50 calls that were under way when the instance died put it aside for 1 s, not for 30."""
    chosen = balancer(Listed(*instances("ab")), clock)
    for lease in [chosen.pick() for _ in range(100)]:
        if lease.instance.id == "b":
            lease.unreachable()
        else:
            lease.success()
    aside = {entry.instance.id: entry.aside for entry in chosen.snapshot().instances}
    assert aside == {"a": 0.0, "b": 1.0}


def test_the_last_one_is_never_put_aside(clock: VirtualClock) -> None:
    """With one instance, or when all others are aside, an instance that refuses is chosen all the same."""
    alone = balancer(Listed(*instances("a")), clock)
    refuse(alone, "a")
    assert served(alone, 2) == "aa"
    chosen = balancer(Listed(*instances("ab")), clock)
    refuse(chosen, "a")
    refuse(chosen, "b")
    assert {entry.instance.id: entry.aside for entry in chosen.snapshot().instances} == {"a": 1.0, "b": 0.0}
    assert served(chosen, 3) == "bbb"


def test_an_instance_aside_is_chosen_when_the_others_were_tried(clock: VirtualClock) -> None:
    """To be aside is a preference: nobody gets an error because of it."""
    known = instances("ab")
    chosen = balancer(Listed(*known), clock)
    refuse(chosen, "b")
    assert chosen.pick(exclude=known[:1]).instance.id == "b"


def test_instances_that_are_all_aside_are_chosen_as_if_none_were(clock: VirtualClock) -> None:
    """When the others leave the list, what is aside is all there is."""
    discovery = Listed(*instances("abc"))
    chosen = balancer(discovery, clock)
    refuse(chosen, "a")
    refuse(chosen, "b")
    discovery.set(*instances("ab"))
    assert sorted(ids([chosen.pick(), chosen.pick()])) == ["a", "b"]


def test_a_failure_that_is_no_refusal_puts_nothing_aside(clock: VirtualClock) -> None:
    """A few HTTP failures are counted and nothing more."""
    chosen = balancer(Listed(*instances("ab")), clock)
    for lease in [chosen.pick() for _ in range(8)]:
        lease.failure()
    assert counts(chosen, "b") == (4, 0, 4, 4)
    assert served(chosen, 4) in {"abab", "baba"}


def test_a_forked_child_begins_with_nothing_in_flight() -> None:
    """Calls in flight at the fork are the parent's; their leases end without harm in the child."""
    chosen = balancer(Listed(*instances("a")))
    lease = chosen.pick()
    chosen.after_fork_in_child()
    assert counts(chosen, "a")[1] == 0
    lease.success()
    assert counts(chosen, "a")[1] == 0


def test_threads_lose_no_count() -> None:
    """16 threads x 200 calls, one in five failing, are counted exactly; nothing stays in flight."""
    chosen = Balancer("producer", Listed(*instances("abc")), outliers=None)  # one in five would eject

    def run() -> None:
        for number in range(200):
            lease = chosen.pick()
            if number % 5:
                lease.success()
            else:
                lease.failure()

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = chosen.snapshot()
    assert sum(entry.picks for entry in seen.instances) == 3200
    assert sum(entry.failures for entry in seen.instances) == 640
    assert seen.in_flight == 0
    assert max(entry.picks for entry in seen.instances) - min(entry.picks for entry in seen.instances) <= 1


def test_one_instance_aside_costs_no_scan_per_pick(clock: VirtualClock) -> None:
    """Who is preferred is worked out once per change, not once per pick; a time that ends is a change."""
    seen: list[Sequence[Instance]] = []

    class Seeing(RoundRobin):
        def pick(self, known: Sequence[Instance], key: str | None, /) -> Instance:
            seen.append(known)
            return super().pick(known, key)

    chosen = Balancer("producer", Listed(*instances("abc")), lambda: Seeing(rng=lambda: 0.0), clock=clock)
    chosen.pick().unreachable()
    for _ in range(3):
        chosen.pick().success()
    assert [instance.id for instance in seen[1]] == ["b", "c"]
    assert seen[1] is seen[2] is seen[3]
    clock.advance(1.0)
    assert {chosen.pick().instance.id for _ in range(3)} == {"a", "b", "c"}
