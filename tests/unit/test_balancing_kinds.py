"""The strategies besides round robin: weights, chance, keys, zones, levels, subsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import ConfigError
from resilient.balancing import (
    Balancer,
    ConsistentHash,
    Lease,
    LeastRequest,
    Priorities,
    Random,
    Sticky,
    Strategy,
    Subset,
    WeightedRoundRobin,
    Zoned,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from tests.fleets import balancer, but, calls, entry, fleet, rotation, well
from tests.listed import Listed


def of(strategy: Callable[[], Strategy], known: Sequence[Instance], clock: VirtualClock) -> Balancer:
    """A balancer in which nobody is new."""
    return Balancer("producer", Listed(*known, clock=clock), strategy, slow_start=None, clock=clock)


def keyed(number: int) -> str:
    """A key per call."""
    return f"user-{number}"


# --- weights --------------------------------------------------------------------------------------------------------


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=8), rounds=st.integers(1, 4))
def test_weighted_shares_are_exact(weights: list[int], rounds: int) -> None:
    """In as many picks as all weights add up to, everybody gets exactly its weight."""
    known = tuple(Instance("db", f"h{n}", 80, id=str(n), weight=float(weight)) for n, weight in enumerate(weights))
    for strategy in (WeightedRoundRobin(rng=lambda: 0.5), rotation()):
        found = Counter(strategy.pick(known, None).id for _ in range(rounds * sum(weights)))
        for n, weight in enumerate(weights):
            assert abs(found[str(n)] - rounds * weight) <= (0 if isinstance(strategy, WeightedRoundRobin) else 2)


def test_weighted_turns_are_spread_over_the_round() -> None:
    """The heavy one does not get its turns in one burst."""
    known = tuple(Instance("db", f"h{n}", 80, id=name, weight=w) for n, (name, w) in enumerate(zip("abc", (5, 1, 1))))  # noqa: B905
    strategy = WeightedRoundRobin(rng=lambda: 0.0)
    found = "".join(strategy.pick(known, None).id for _ in range(70))
    assert max(map(len, found.replace("b", " ").replace("c", " ").split())) <= 6
    assert Counter(found) == {"a": 50, "b": 10, "c": 10}


@pytest.mark.parametrize("strategy", [rotation, LeastRequest, WeightedRoundRobin, lambda: Random(seed=1)])
def test_the_registrys_weights_are_followed(clock: VirtualClock, strategy: Callable[[], Strategy]) -> None:
    """An instance of a third of the weight gets a third of the calls; one of weight 0 gets none."""
    known = (*fleet(4, weight=3.0), *fleet(1, first=4, weight=1.0), *fleet(1, first=5, weight=0.0))
    found = calls(of(strategy, known, clock), clock, 2600, well)
    assert found["04"] == pytest.approx(200, rel=0.2)
    assert min(found[f"0{n}"] for n in range(4)) == pytest.approx(600, rel=0.15)
    assert found["05"] == 0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_say_nothing_count_as_equal(clock: VirtualClock, weight: float) -> None:
    """A registry in which nobody weighs anything, or that talks nonsense, does not stop the calls."""
    found = calls(balancer(fleet(4, weight=weight), clock), clock, 40, well)
    assert len(found) >= 1
    assert found.total() == 40


def test_weights_of_ones_own(clock: VirtualClock) -> None:
    """weight= is asked once per instance and list."""
    asked: list[str] = []

    def weight(instance: Instance) -> float:
        asked.append(instance.id)
        return 2.0 if instance.id == "01" else 1.0

    chosen = of(lambda: WeightedRoundRobin(weight=weight), fleet(3), clock)
    assert calls(chosen, clock, 40, well) == {"00": 10, "01": 20, "02": 10}
    assert sorted(asked) == ["00", "01", "02"]


@pytest.mark.parametrize("bad", [-1.0, "heavy", None, float("nan")])
def test_a_weight_that_is_none_is_named(clock: VirtualClock, bad: object) -> None:
    """The pick says what is wrong with the function."""
    chosen = of(lambda: WeightedRoundRobin(weight=lambda _: bad), fleet(2), clock)  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match="weight must be"):
        chosen.pick()


def test_a_new_list_does_not_start_the_weights_anew(clock: VirtualClock) -> None:
    """A refresh after every pick: the shares are the same (a scheduler that begins anew favours the first host)."""
    known = [*fleet(5), *fleet(5, first=5, weight=2.0)]
    discovery = Listed(*known, clock=clock)
    chosen = Balancer("producer", discovery, WeightedRoundRobin, slow_start=None, clock=clock)
    found = Counter[str]()
    for _ in range(300):
        discovery.set(*known, *fleet(1, first=90 + _ % 2, weight=0.001))
        found += calls(chosen, clock, 1, well)
    assert max(found[f"0{n}"] for n in range(5)) - min(found[f"0{n}"] for n in range(5)) <= 2
    assert found["05"] == pytest.approx(40, abs=2)


def test_one_rotation_walks_past_light_hosts_evenly(clock: VirtualClock) -> None:
    """Hosts of a small share do not get their turns all in the same round."""
    known = (*fleet(2), *fleet(8, first=2, weight=0.125))
    found = "".join("L" if int(lease.instance.id) > 1 else "h" for lease in _picks(balancer(known, clock), 240))
    assert found.count("L") == pytest.approx(80, abs=4)
    assert "LLLL" not in found


def _picks(chosen: Balancer, count: int) -> list[Lease]:
    leases = []
    for _ in range(count):
        lease = chosen.pick()
        lease.unused()
        leases.append(lease)
    return leases


def test_the_least_counts_a_slow_host_as_busier(clock: VirtualClock) -> None:
    """With the same calls in flight everywhere, one that is four times as slow gets about a quarter."""
    chosen = of(LeastRequest, fleet(4), clock)
    calls(chosen, clock, 1000, but("02", good=True, seconds=0.08))
    held = [chosen.pick() for _ in range(130)]
    found = Counter(lease.instance.id for lease in held)
    assert found["02"] == pytest.approx(10, abs=2)
    assert {found["00"], found["01"], found["03"]} <= {39, 40, 41}
    assert chosen.pick(exclude=fleet(4)[:2]).instance.id == "03"


# --- chance, hashing, sticking --------------------------------------------------------------------------------------


def test_chance_is_even_and_seeded(clock: VirtualClock) -> None:
    """The same seed draws the same; over many calls everybody gets about its share."""
    one, two = (calls(of(lambda: Random(seed=3), fleet(5), clock), clock, 2000, well) for _ in range(2))
    assert one == two
    assert min(one.values()) > 320


def test_a_key_keeps_its_host_in_every_process(clock: VirtualClock) -> None:
    """Two balancers agree, whatever order the registry answers in."""
    known = fleet(10)
    one, two = of(ConsistentHash, known, clock), of(ConsistentHash, known[::-1], clock)
    for number in range(200):
        with one.pick(key=keyed(number)) as first, two.pick(key=keyed(number)) as second:
            assert first.instance == second.instance


def test_few_keys_move_when_an_instance_goes(clock: VirtualClock) -> None:
    """Of 1,000 keys only those of the one that went move; and it had about a tenth."""
    discovery = Listed(*fleet(10), clock=clock)
    chosen = Balancer("producer", discovery, lambda: ConsistentHash(bound=float("inf")), slow_start=None, clock=clock)

    def homes() -> dict[int, str]:
        found = {}
        for number in range(1000):
            with chosen.pick(key=keyed(number)) as lease:
                found[number] = lease.instance.id
        return found

    before = homes()
    discovery.set(*(one for one in fleet(10) if one.id != "04"))
    after = homes()
    assert {number for number in before if before[number] != after[number]} == {
        number for number, home in before.items() if home == "04"
    }
    assert 40 <= list(before.values()).count("04") <= 180


def test_a_hot_key_spills_over(clock: VirtualClock) -> None:
    """100 calls of one key at once: nobody has more than 1.25 times the mean, rounded up."""
    chosen = of(ConsistentHash, fleet(10), clock)
    leases = [chosen.pick(key="hot") for _ in range(100)]
    held = Counter(lease.instance.id for lease in leases)
    assert max(held.values()) <= 13
    assert len(held) >= 8


def test_a_host_that_is_out_gives_its_keys_away_and_gets_them_back(clock: VirtualClock) -> None:
    """While it is ejected its keys have other homes; after its trial they come home."""
    chosen = of(ConsistentHash, fleet(5), clock)
    with chosen.pick(key="k") as lease:
        home = lease.instance.id
    for _ in range(5):
        chosen.pick(key="k").failure()
    with chosen.pick(key="k") as lease:
        assert lease.instance.id != home
    clock.advance(11.0)
    with chosen.pick(key="k") as lease:
        assert lease.instance.id == home


def test_calls_without_a_key_rotate(clock: VirtualClock) -> None:
    """ConsistentHash without keys is round robin."""
    assert set(calls(of(ConsistentHash, fleet(5), clock), clock, 50, well).values()) == {10}


@pytest.mark.parametrize("bound", [1.0, 0.5, "x", float("nan")])
def test_a_bound_that_nobody_could_keep_is_refused(bound: object) -> None:
    """The mean itself is no bound."""
    with pytest.raises(ConfigError, match="bound"):
        ConsistentHash(bound=bound)  # type: ignore[arg-type]


def test_a_session_keeps_its_host_and_does_not_use_up_turns(clock: VirtualClock) -> None:
    """Each new key takes the next of the rotation, however often the old ones were asked."""
    chosen = of(lambda: Sticky(rotation), fleet(4), clock)
    homes: dict[int, str] = {}
    for number in range(8):
        for _ in range(3):
            with chosen.pick(key=keyed(number)) as lease:
                homes.setdefault(number, lease.instance.id)
                assert lease.instance.id == homes[number]
            if number:
                with chosen.pick(key=keyed(0)) as lease:
                    assert lease.instance.id == homes[0]
    assert set(Counter(homes.values()).values()) == {2}


def test_a_session_moves_when_its_host_fails_and_stays_there(clock: VirtualClock) -> None:
    """A retry goes elsewhere and takes the session with it."""
    chosen = of(lambda: Sticky(rotation), fleet(3), clock)
    first = chosen.pick(key="s")
    first.failure()
    second = chosen.pick(key="s", exclude=[first.instance])
    second.success()
    assert second.instance != first.instance
    assert chosen.pick(key="s").instance == second.instance


def test_only_so_many_sessions_are_remembered(clock: VirtualClock) -> None:
    """The one longest unused is forgotten first."""
    chosen = of(lambda: Sticky(rotation, max_keys=2), fleet(9), clock)
    homes = [chosen.pick(key=key).instance.id for key in ("a", "b", "a", "c", "a", "b")]
    assert homes == ["00", "01", "00", "02", "00", "03"]


# --- zones, priorities, subsets -------------------------------------------------------------------------------------


def zoned(clock: VirtualClock, near: int, far: int, *, zone: str = "a") -> Balancer:
    """A balancer in zone a."""
    known = (*fleet(near, zone="a"), *fleet(far, first=50, zone="b"))
    return of(lambda: Zoned(rotation, zone=zone), known, clock)


def test_the_own_zone_is_preferred(clock: VirtualClock) -> None:
    """All calls stay, evenly."""
    assert set(calls(zoned(clock, 5, 5), clock, 50, well).items()) == {(f"0{n}", 10) for n in range(5)}


def test_what_the_own_zone_can_not_bear_spills_over_by_turns(clock: VirtualClock) -> None:
    """Rule 36: 1.4 x selectable / known: with 5 of 10 well 70 % stay; the cap counts over the whole fleet."""
    chosen = zoned(clock, 10, 10)
    for name in ("00", "01", "02", "03", "04"):
        while not entry(chosen, name).ejected_for:
            lease = chosen.pick()
            if lease.instance.id == name:
                lease.failure(elapsed=0.02)
            else:
                lease.success(0.02)
    found = calls(chosen, clock, 500, well)
    assert sum(count for name, count in found.items() if name < "50") == pytest.approx(350, abs=2)
    assert max(found[f"5{n}"] for n in range(10)) - min(found[f"5{n}"] for n in range(10)) <= 1


@pytest.mark.parametrize(("near", "far"), [(2, 5), (0, 5), (5, 0)])
def test_zones_do_not_matter_when_there_are_few(clock: VirtualClock, near: int, far: int) -> None:
    """Rule 36: off with fewer than 3 local instances or without another zone."""
    found = calls(zoned(clock, near, far), clock, 10 * (near + far), well)
    assert set(found.values()) == {10}
    assert len(found) == near + far


def test_a_zone_whose_instances_were_all_tried_gives_way(clock: VirtualClock) -> None:
    """A retry leaves the zone when nobody is left in it."""
    chosen = zoned(clock, 3, 2)
    assert chosen.pick(exclude=fleet(3, zone="a")).instance.zone == "b"


def test_levels_are_used_in_order(clock: VirtualClock) -> None:
    """The first level gets all while it is well, the second what spills over, the last nothing."""
    known = (*fleet(4), *fleet(4, first=50), *fleet(4, first=70))
    chosen = of(lambda: Priorities(lambda instance: instance.id[0], rotation), known, clock)
    assert set(calls(chosen, clock, 40, well)) == {"00", "01", "02", "03"}
    for name in ("00", "01"):
        while not entry(chosen, name).aside:
            lease = chosen.pick()
            if lease.instance.id == name:
                lease.unreachable()
            else:
                lease.success(0.02)
    levels = Counter(name[0] for name in calls(chosen, clock, 100, well, every=0.001).elements())
    assert levels["0"] == pytest.approx(70, abs=3)
    assert levels["5"] == pytest.approx(30, abs=3)
    assert levels["7"] == 0


def test_a_subset_is_stable_and_of_its_size(clock: VirtualClock) -> None:
    """20 of 100; when one of them goes one other comes; another client has another subset."""
    discovery = Listed(*fleet(100), clock=clock)
    chosen = Balancer("producer", discovery, lambda: Subset(20, rotation, client="one"), slow_start=None, clock=clock)
    before = set(calls(chosen, clock, 200, well))
    gone = min(before)
    discovery.set(*(one for one in fleet(100) if one.id != gone))
    after = set(calls(chosen, clock, 200, well))
    other = set(calls(of(lambda: Subset(20, client="two"), fleet(100), clock), clock, 200, well))
    assert (len(before), len(after), len(before - after)) == (20, 20, 1)
    assert other != before


def test_subsets_cover_the_fleet() -> None:
    """100 processes with 20 of 100 each: everybody is in a subset, nobody in more than twice the mean."""
    clock, known = VirtualClock(), fleet(100)
    found = Counter[str]()
    for client in range(100):
        strategy = Subset(20, client=f"client {client}")
        found.update(set(calls(of(lambda strategy=strategy: strategy, known, clock), clock, 20, well)))  # type: ignore[misc]
    assert len(found) == 100
    assert max(found.values()) <= 40


def test_who_is_out_of_a_subset_is_replaced(clock: VirtualClock) -> None:
    """The next by rank takes its place, so a subset keeps its size."""
    chosen = of(lambda: Subset(5, rotation, client="one"), fleet(50), clock)
    mine = set(calls(chosen, clock, 20, well))
    name = min(mine)
    while not entry(chosen, name).ejected_for:
        lease = chosen.pick()
        if lease.instance.id == name:
            lease.failure(elapsed=0.02)
        else:
            lease.success(0.02)
    now = set(calls(chosen, clock, 20, well))
    assert len(now) == 5
    assert mine - now == {name}


def test_strategies_can_be_nested(clock: VirtualClock) -> None:
    """Zones of a subset, with least requests in each."""
    known = (*fleet(20, zone="a"), *fleet(20, first=50, zone="b"))
    chosen = of(lambda: Subset(20, lambda: Zoned(LeastRequest, zone="a"), client="x"), known, clock)
    assert {int(name) // 50 for name in calls(chosen, clock, 100, well)} == {0}
