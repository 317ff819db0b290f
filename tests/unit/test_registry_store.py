"""The registry's memory: leases, statuses, deltas, limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilient.errors import ConfigError
from resilient.registry_server import RegistryStore, encoding
from resilient.registry_server.app import RegistryApp
from resilient.registry_server.encoding_json import size
from resilient.registry_server.record import Record, hashcode, resulting_status
from resilient.registry_server.store import MAX_METADATA_KEYS, RegistryFullError
from resilient.testing import VirtualClock


def record(name: str = "i-1", **said: object) -> Record:
    return Record(**{"app": "DEMO", "id": name, "host": "h", "ip": "10.0.0.1", "dirty_ms": 1_000, **said})  # type: ignore[arg-type]


def status_of(store: RegistryStore, name: str = "i-1") -> tuple[str, str]:
    lease = store.get("DEMO", name)
    assert lease is not None
    return lease.record.status, lease.record.overridden


def test_a_lease_ends_exactly_one_duration_after_the_registration() -> None:
    """At the duration an instance is still there, right after it is gone."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=90))
    clock.advance(90.0)
    assert store.evict() == []
    clock.advance(0.001)
    assert [gone.id for gone in store.evict()] == ["i-1"]
    assert len(store) == 0
    assert store.all() == []


def test_a_renewal_prolongs_a_lease_by_one_duration_and_not_two() -> None:
    """Netflix's server grants two durations after the first renewal; ours grants one."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=90))
    clock.advance(60.0)
    assert store.renew("DEMO", "i-1")
    clock.advance(90.0)
    assert store.evict() == []
    clock.advance(0.001)
    assert len(store.evict()) == 1


def test_a_late_renewal_counts_until_the_eviction() -> None:
    """An instance that renews after its lease ended, but before anybody looked, is alive."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=10))
    clock.advance(11.0)
    assert store.renew("DEMO", "i-1")
    assert store.evict() == []


def test_time_for_which_the_process_stood_still_does_not_count() -> None:
    """A pause of the registry empties nothing; after it a lease has what it had before."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=10))
    clock.advance(4.0)
    clock.advance(3_600.0)
    assert store.evict(paused=3_600.0) == []
    clock.advance(6.0)
    assert store.evict() == []
    clock.advance(0.001)
    assert len(store.evict()) == 1


@pytest.mark.parametrize(("dirty_ms", "renewed"), [(None, True), (999, True), (1_000, True), (1_001, False)], ids=str)
def test_a_client_newer_than_what_is_known_must_register_again(dirty_ms: int | None, renewed: bool) -> None:
    """A renewal with a newer lastDirtyTimestamp is refused; an older, an equal or none is fine."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record())
    assert store.renew("DEMO", "i-1", dirty_ms=dirty_ms) is renewed


def test_an_unknown_instance_must_register() -> None:
    """Nothing that is not there can be renewed, cancelled, overridden or described."""
    store = RegistryStore(clock=VirtualClock())
    assert not store.renew("DEMO", "i-1")
    assert not store.cancel("DEMO", "i-1")
    assert not store.override("DEMO", "i-1", "DOWN")
    assert not store.remove_override("DEMO", "i-1")
    assert not store.merge_metadata("DEMO", "i-1", {"a": "1"})
    assert store.find("i-1") is None
    assert store.delta().leases == []


def test_an_older_registration_changes_nothing_but_renews() -> None:
    """A registration that was overtaken by a newer one does not bring the old description back."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(dirty_ms=2_000, vip="new", duration=10))
    clock.advance(8.0)
    store.register(record(dirty_ms=1_000, vip="old", duration=10))
    lease = store.get("DEMO", "i-1")
    assert lease is not None
    assert lease.record.vip == "new"
    clock.advance(8.0)
    assert store.evict() == []


def test_a_registration_without_timestamp_is_as_new_as_now() -> None:
    """A client that sends no lastDirtyTimestamp always replaces its record."""
    store = RegistryStore(clock=VirtualClock(), wall=lambda: 5_000)
    store.register(record(dirty_ms=None, vip="a"))
    store.register(record(dirty_ms=None, vip="b"))
    lease = store.get("DEMO", "i-1")
    assert lease is not None
    assert (lease.record.vip, lease.record.dirty_ms) == ("b", 5_000)


@pytest.mark.parametrize(
    ("said", "overridden", "before", "result"),
    [
        ("DOWN", "OUT_OF_SERVICE", "UP", "DOWN"),
        ("STARTING", "UNKNOWN", "UP", "STARTING"),
        ("UP", "OUT_OF_SERVICE", "UP", "OUT_OF_SERVICE"),
        ("UP", "UNKNOWN", "OUT_OF_SERVICE", "OUT_OF_SERVICE"),
        ("OUT_OF_SERVICE", "UNKNOWN", "UP", "UP"),
        ("UP", "UNKNOWN", "DOWN", "UP"),
        ("UP", "UNKNOWN", None, "UP"),
    ],
)
def test_the_status_is_the_first_of_eurekas_rules(said: str, overridden: str, before: str | None, result: str) -> None:
    """Not ready wins, then the override, then what was known, then what is said."""
    assert resulting_status(said, overridden, before) == result


def test_an_override_outlives_registrations_until_it_is_removed() -> None:
    """An operator's word holds against the instance's own; removing it without a status asks for a registration."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record())
    assert store.override("DEMO", "i-1", "OUT_OF_SERVICE")
    assert status_of(store) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
    store.register(record())
    assert status_of(store) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
    assert store.remove_override("DEMO", "i-1")
    assert status_of(store) == ("UNKNOWN", "UNKNOWN")
    assert not store.renew("DEMO", "i-1")
    store.register(record())
    assert status_of(store) == ("UP", "UNKNOWN")


def test_an_override_ends_with_the_lease() -> None:
    """An instance that left and comes back is what it says."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record())
    store.override("DEMO", "i-1", "DOWN")
    store.cancel("DEMO", "i-1")
    store.register(record())
    assert status_of(store) == ("UP", "UNKNOWN")


def test_an_override_may_raise_the_timestamp_and_never_lowers_it() -> None:
    """So that a renewal with the older one still counts, and one with a newer one does not."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record(dirty_ms=1_000))
    store.override("DEMO", "i-1", "DOWN", dirty_ms=1_500)
    assert store.renew("DEMO", "i-1", dirty_ms=1_500)
    store.override("DEMO", "i-1", "DOWN", dirty_ms=500)
    assert store.renew("DEMO", "i-1", dirty_ms=1_500)
    assert not store.renew("DEMO", "i-1", dirty_ms=1_501)


def test_metadata_is_merged_until_the_next_registration() -> None:
    """Keys are added and replaced; a full registration says everything anew."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record(metadata={"zone": "a", "k": "v"}))
    assert store.merge_metadata("DEMO", "i-1", {"zone": "b", "new": "1"})
    lease = store.find("i-1")
    assert lease is not None
    assert lease.record.metadata == {"zone": "b", "k": "v", "new": "1"}
    store.register(record(metadata={"zone": "a"}))
    lease = store.find("i-1")
    assert lease is not None
    assert lease.record.metadata == {"zone": "a"}


def test_metadata_does_not_grow_without_end() -> None:
    """Merging is refused beyond the limit, and changes nothing then."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record())
    store.merge_metadata("DEMO", "i-1", {str(n): "" for n in range(MAX_METADATA_KEYS)})
    with pytest.raises(RegistryFullError, match="1,000 metadata keys, not 1,001"):
        store.merge_metadata("DEMO", "i-1", {"one more": ""})
    assert store.merge_metadata("DEMO", "i-1", {"1": "replaced"})


def test_a_full_registry_refuses_the_new_and_serves_the_known() -> None:
    """Beyond the limit nobody new comes in; who is there renews, registers again and leaves."""
    store = RegistryStore(clock=VirtualClock(), max_instances=2)
    store.register(record("a"))
    store.register(record("b"))
    with pytest.raises(RegistryFullError, match="full: it holds 2 instances"):
        store.register(record("c"))
    store.register(record("a"))
    assert store.renew("DEMO", "b")
    store.cancel("DEMO", "b")
    store.register(record("c"))
    assert sorted(lease.record.id for lease in store.all()) == ["a", "c"]


def test_names_that_come_and_go_do_not_fill_the_memory() -> None:
    """The list of changes is as bounded as the list of instances."""
    store = RegistryStore(clock=VirtualClock(), max_instances=10)
    for number in range(100):
        store.register(record(str(number)))
        store.cancel("DEMO", str(number))
    assert len(store.delta().leases) <= 10


def test_the_list_does_not_grow_beyond_its_bytes() -> None:
    """New and larger ones are refused, with what there may be; smaller ones, renewals and overrides are not."""
    store = RegistryStore(clock=VirtualClock(), max_bytes=2_000)
    store.register(record("a", vip="v" * 800))
    with pytest.raises(RegistryFullError, match="its list may have 2,000 bytes"):
        store.register(record("b", vip="v" * 800))
    with pytest.raises(RegistryFullError, match="its list may have 2,000 bytes"):
        store.merge_metadata("DEMO", "a", {"k": "v" * 1_000})
    assert store.get("DEMO", "b") is None
    assert store.override("DEMO", "a", "OUT_OF_SERVICE")
    store.register(record("a", vip="v" * 10))
    store.register(record("b"))
    assert len(store) == 2
    listed = encoding.applications(store.all(), 1, as_json=True)
    assert len(listed) <= 2_000 + len(encoding.applications([], 1, as_json=True)) + len(
        '{"name":"DEMO","instance":[]},'
    )


def test_an_operators_word_is_taken_by_a_full_registry() -> None:
    """Taking an instance out must not fail because OUT_OF_SERVICE is longer than UP."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record("a"))
    full = RegistryStore(clock=VirtualClock(), max_bytes=size(store.all()[0]))
    full.register(record("a"))
    assert full.override("DEMO", "a", "OUT_OF_SERVICE")
    assert full.renew("DEMO", "a")
    full.register(record("a"))  # what it grew by belongs to it


def test_what_left_is_as_bounded_as_what_is_there() -> None:
    """Large instances that come and go under ever new names push each other out of the delta."""
    store = RegistryStore(clock=VirtualClock(), max_bytes=10_000)
    for number in range(100):
        store.register(record(str(number), vip="v" * 1_000))
        store.cancel("DEMO", str(number))
    told = store.delta().leases
    assert 1 <= len(told) <= 9
    assert told[-1].record.id == "99"


def test_self_preservation_keeps_everybody_when_many_fall_silent_at_once() -> None:
    """More than 15 % late: nobody goes, the page can say how many; once most are back, the others go."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock, self_preservation=True)
    names = [str(number) for number in range(20)]
    for name in names:
        store.register(record(name, duration=10))
    clock.advance(8.0)
    for name in names[4:]:
        store.renew("DEMO", name)
    clock.advance(3.0)
    assert store.evict() == []
    assert store.protected == 4
    store.renew("DEMO", "0")
    assert sorted(gone.id for gone in store.evict()) == ["1", "2", "3"]
    assert store.protected == 0


def test_without_self_preservation_whoever_fell_silent_goes() -> None:
    """The default: also when it is everybody."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    for name in "abc":
        store.register(record(name, duration=10))
    clock.advance(11.0)
    assert len(store.evict()) == 3
    assert store.protected == 0


def test_a_delta_tells_each_change_once_in_its_present_state() -> None:
    """An instance that changed three times is told once; one that left is told as DELETED with its last status."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record("stays"))
    store.override("DEMO", "stays", "DOWN")
    store.register(record("left"))
    store.cancel("DEMO", "left")
    delta = store.delta()
    told = {lease.record.id: (lease.record.action, lease.record.status) for lease in delta.leases}
    assert told == {"stays": ("MODIFIED", "DOWN"), "left": ("DELETED", "UP")}
    assert len(delta.leases) == 2
    assert delta.hashcode == "DOWN_1_"


def test_a_change_is_told_for_three_minutes() -> None:
    """Clients poll each 30 s: each sees it several times, and none for ever."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=1_000))
    clock.advance(180.0)
    assert len(store.delta().leases) == 1
    clock.advance(0.001)
    assert store.delta().leases == []
    assert store.delta().hashcode == "UP_1_"


def test_a_renewal_is_no_change() -> None:
    """Heartbeats neither move the version nor appear in a delta."""
    clock = VirtualClock()
    store = RegistryStore(clock=clock)
    store.register(record(duration=1_000))
    clock.advance(181.0)
    version = store.delta().version
    store.renew("DEMO", "i-1")
    assert store.delta() == ([], "UP_1_", version)


def test_every_change_has_a_version_of_its_own() -> None:
    """A client may skip a delta whose version it knows: the same check sum can stand for other instances."""
    store = RegistryStore(clock=VirtualClock())
    store.register(record("a"))
    before = store.delta()
    store.cancel("DEMO", "a")
    store.register(record("b"))
    after = store.delta()
    assert after.hashcode == before.hashcode
    assert after.version > before.version


def test_the_check_sum_counts_statuses_in_alphabetical_order() -> None:
    """`DOWN_1_UP_2_`, and nothing for nobody."""
    store = RegistryStore(clock=VirtualClock())
    assert hashcode(store.all()) == ""
    for name, status in (("a", "UP"), ("b", "DOWN"), ("c", "UP")):
        store.register(record(name, status=status))
    assert hashcode(store.all()) == "DOWN_1_UP_2_"


@pytest.mark.parametrize(
    ("path", "value"),
    [("max_instances", 0), ("max_instances", True), ("max_bytes", 0), ("delta_seconds", 0), ("delta_seconds", "3")],
)
def test_a_bad_limit_is_refused_at_once(path: str, value: object) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError, match=path) as caught:
        RegistryStore(**{path: value})  # type: ignore[arg-type]
    assert caught.value.path == path


def test_threads_lose_nothing() -> None:
    """Instances that come and go in eight threads at once leave exactly those that stayed."""
    store = RegistryStore(clock=VirtualClock())

    def work(thread: int) -> None:
        for number in range(50):
            store.register(record(f"{thread}-{number}"))
            store.renew("DEMO", f"{thread}-{number}")
            store.delta()
            if number % 2:
                store.cancel("DEMO", f"{thread}-{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == len(store.all()) == 8 * 25


@contextlib.asynccontextmanager
async def evicting(app: RegistryApp) -> AsyncIterator[None]:
    task = asyncio.create_task(app.evict_forever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_eviction_looks_at_each_interval() -> None:
    """A lease of 3 s is gone at the first look after it, not earlier."""
    clock = VirtualClock()
    app = RegistryApp(RegistryStore(clock=clock), eviction_interval=2.0, clock=clock)
    app.store.register(record(duration=3))
    async with evicting(app):
        await clock.advance_async(2.0)
        assert len(app.store) == 1
        await clock.advance_async(1.5)
        assert len(app.store) == 1
        await clock.advance_async(0.5)
        assert len(app.store) == 0


@pytest.mark.parametrize(("lease", "interval"), [(1, 0.1), (3, 2.0), (90, 2.0), (90, 60.0), (1, 7.0)])
async def test_25_who_crashed_is_gone_after_lease_and_interval_at_the_latest(lease: int, interval: float) -> None:
    """Never before the lease ends; and never later than a fifth more than both, whenever it registered."""
    clock = VirtualClock()
    app = RegistryApp(RegistryStore(clock=clock), eviction_interval=interval, clock=clock)
    step = interval / 10
    async with evicting(app):
        for turn in range(5):
            await clock.advance_async(turn * interval / 5)
            app.store.register(record(duration=lease))
            began = clock.monotonic()
            while len(app.store):
                await clock.advance_async(step)
            assert lease < clock.monotonic() - began + step / 2
            assert clock.monotonic() - began <= 1.2 * (lease + interval)


async def test_the_eviction_forgives_a_pause_of_the_process() -> None:
    """When the task wakes a minute late, nobody could renew in that minute."""
    clock = VirtualClock()
    app = RegistryApp(RegistryStore(clock=clock), eviction_interval=2.0, clock=clock)
    app.store.register(record(duration=3))
    async with evicting(app):
        await clock.advance_async(60.0)
        assert len(app.store) == 1
        await clock.advance_async(2.0)
        assert len(app.store) == 0


async def test_the_eviction_survives_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """One failed look is logged; the next one does the work."""
    clock = VirtualClock()
    broken = False

    def wall() -> int:
        if broken:
            raise OSError("no wall clock")
        return 1

    app = RegistryApp(RegistryStore(clock=clock, wall=wall), eviction_interval=2.0, clock=clock)
    app.store.register(record(duration=1))
    async with evicting(app):
        broken = True
        with caplog.at_level(logging.ERROR, logger="resilient"):
            await clock.advance_async(2.0)
        assert "it tries again" in caplog.text
        assert len(app.store) == 1
        broken = False
        await clock.advance_async(2.0)
        assert len(app.store) == 0


class LeasesAgainstANaiveModel(RuleBasedStateMachine):
    """Random registrations, renewals, cancels and evictions, and a client that follows by deltas."""

    names = st.sampled_from(["a", "b", "c", "d"])

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.store = RegistryStore(clock=self.clock, wall=lambda: int(self.clock.monotonic() * 1000))
        self.ends: dict[str, tuple[float, int]] = {}  # last heard of, duration
        self.copy: dict[str, str] = {}
        self.polled = self.clock.monotonic()

    @rule(name=names, duration=st.integers(1, 400), status=st.sampled_from(["UP", "DOWN", "STARTING"]))
    def register(self, name: str, duration: int, status: str) -> None:
        self.store.register(record(name, duration=duration, status=status, dirty_ms=None))
        self.ends[name] = self.clock.monotonic(), duration

    @rule(name=names)
    def renew(self, name: str) -> None:
        assert self.store.renew("DEMO", name) is (name in self.ends)
        if name in self.ends:
            self.ends[name] = self.clock.monotonic(), self.ends[name][1]

    @rule(name=names)
    def cancel(self, name: str) -> None:
        assert self.store.cancel("DEMO", name) is (self.ends.pop(name, None) is not None)

    @rule(seconds=st.integers(0, 200))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def evict(self) -> None:
        now = self.clock.monotonic()
        ended = {name for name, (heard, duration) in self.ends.items() if now - heard > duration}
        assert {gone.id for gone in self.store.evict()} == ended
        self.ends = {name: lease for name, lease in self.ends.items() if name not in ended}

    @rule()
    def poll(self) -> None:
        now = self.clock.monotonic()
        delta = self.store.delta()
        for lease in delta.leases:
            if lease.record.action == "DELETED":
                self.copy.pop(lease.record.id, None)
            else:
                self.copy[lease.record.id] = lease.record.status
        if now - self.polled > 180:  # this client knows that it missed some
            self.copy = {lease.record.id: lease.record.status for lease in self.store.all()}
        self.polled = now
        assert self.copy == {lease.record.id: lease.record.status for lease in self.store.all()}
        assert delta.hashcode == hashcode(self.store.all())

    @invariant()
    def the_same_instances(self) -> None:
        assert {lease.record.id for lease in self.store.app("DEMO")} == set(self.ends)
        assert len(self.store) == len(self.ends)


TestLeasesAgainstANaiveModel = LeasesAgainstANaiveModel.TestCase
TestLeasesAgainstANaiveModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
