"""Outliers, health checks and what a lease says: arguments, and the ways that the contract does not walk."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import ConfigError
from resilient.balancing import Balancer, HealthChecks, Outliers
from resilient.balancing import latency as latencies
from resilient.balancing.hosts import Host
from resilient.discovery import Instance
from resilient.outcome import FAILURE, IGNORED, SUCCESS
from resilient.testing import VirtualClock
from tests.fleets import balancer, calls, entry, fleet, well
from tests.listed import Listed, instance
from tests.waiting import wait_until

# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"consecutive_failures": 0}, "consecutive_failures"),
        ({"consecutive_failures": 2.5}, "consecutive_failures"),
        ({"failure_rate": 25}, "failure_rate"),
        ({"failure_rate": 0.0}, "failure_rate"),
        ({"consecutive_failures": None, "failure_rate": None}, "failure_rate"),
        ({"minimum_calls": 21}, "minimum_calls"),
        ({"base": 0}, "base"),
        ({"base": 10.0, "longest": 5.0}, "longest"),
        ({"max_share": 34}, "max_share"),
        ({"panic": 1.5}, "panic"),
        ({"panic": -0.1}, "panic"),
    ],
)
def test_outliers_out_of_range_are_refused(options: dict[str, float], path: str) -> None:
    """ConfigError names the option."""
    with pytest.raises(ConfigError) as refused:
        Outliers(**options)  # type: ignore[arg-type]
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("options", "path"),
    [({"outliers": True}, "outliers"), ({"slow_start": 0}, "slow_start"), ({"rng": 0.5}, "rng")],
)
def test_a_balancer_checks_its_options(options: dict[str, object], path: str) -> None:
    """ConfigError names the option."""
    with pytest.raises(ConfigError) as refused:
        Balancer("producer", Listed(), **options)  # type: ignore[arg-type]
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("options", "path"),
    [({"probe": 3}, "probe"), ({"interval": 0}, "interval"), ({"unhealthy_after": 0}, "unhealthy_after")],
)
def test_health_checks_check_their_options(options: dict[str, object], path: str) -> None:
    """ConfigError names the option."""
    with pytest.raises(ConfigError) as refused:
        HealthChecks(Balancer("producer", Listed()), **{"probe": lambda _: True, **options})  # type: ignore[arg-type]
    assert refused.value.path == path


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_verdict_at_the_headers_counts_once(clock: VirtualClock) -> None:
    """answered() judges; the end of the body only gives the place back, a body that breaks is one failure more."""
    chosen = balancer(fleet(1), clock)
    lease = chosen.pick()
    clock.advance(0.02)
    lease.answered(FAILURE)
    assert (entry(chosen, "00").failures, entry(chosen, "00").in_flight) == (1, 1)
    lease.answered(SUCCESS)
    clock.advance(3600.0)
    lease.success()
    assert (entry(chosen, "00").failures, entry(chosen, "00").consecutive_failures) == (1, 1)
    lease = chosen.pick()
    lease.answered(SUCCESS, 0.02)
    lease.failure()
    assert (entry(chosen, "00").failures, entry(chosen, "00").in_flight) == (2, 0)


def test_the_latency_of_a_stream_ends_at_its_headers(clock: VirtualClock) -> None:
    """A body of an hour is no slow host, however the lease ends."""
    chosen = balancer(fleet(1), clock)
    for end in ("success", "ignored"):
        lease = chosen.pick()
        clock.advance(0.02)
        lease.reached()
        clock.advance(3600.0)
        getattr(lease, end)()
        assert entry(chosen, "00").latency == pytest.approx(0.02)


def test_the_caller_may_say_how_long_it_took(clock: VirtualClock) -> None:
    """The time in a queue of our own is not the host's; nonsense is not believed."""
    chosen = balancer(fleet(1), clock)
    for elapsed in (0.03, math.nan, -1.0):
        lease = chosen.pick()
        clock.advance(0.03)
        lease.success(elapsed)
        assert entry(chosen, "00").latency == pytest.approx(0.03)


def test_a_pause_during_a_trial_extends_the_ejection(clock: VirtualClock) -> None:
    """A host that says 503 with Retry-After while it is tried is left alone for that long."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    _until_out(chosen, "01", "failure")
    clock.advance(10.0)
    lease = next(lease for lease in (chosen.pick() for _ in range(3)) if lease.instance.id == "01")
    lease.answered(IGNORED)
    lease.put_aside(60.0)
    lease.ignored()
    assert entry(chosen, "01").ejected_for == pytest.approx(60.0)


def test_a_trial_that_a_hurried_caller_gave_up_is_not_repeated_at_once(clock: VirtualClock) -> None:
    """Cancelled after far longer than the others take: the next trial is after the base time."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    calls(chosen, clock, 300, well)
    _until_out(chosen, "01", "failure")
    clock.advance(10.0)
    leases = [chosen.pick() for _ in range(3)]
    clock.advance(0.2)
    for lease in leases:
        lease.ignored()
    assert "01" not in calls(chosen, clock, 30, well)
    clock.advance(10.0)
    assert "01" in calls(chosen, clock, 3, well)


def test_a_host_that_fails_and_then_refuses_is_put_aside(clock: VirtualClock) -> None:
    """The ejection's end stays when it is later; one success brings it back."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    held = [chosen.pick() for _ in range(6)]
    _until_out(chosen, "01", "failure")
    for lease in held:
        if lease.instance.id == "01":
            lease.unreachable()
        else:
            lease.success(0.02)
    assert entry(chosen, "01").aside == pytest.approx(10.0)
    clock.advance(10.0)
    assert calls(chosen, clock, 30, well)["01"] == 10


def test_without_outliers_nothing_is_ejected(clock: VirtualClock) -> None:
    """outliers=None: failures are counted; refused connections put aside all the same."""
    chosen = balancer(fleet(3), clock, outliers=None)
    calls(chosen, clock, 90, lambda _instance: (False, 0.02))
    assert {one.ejected_for for one in chosen.snapshot().instances} == {0.0}
    _until_out(chosen, "01", "unreachable")
    clock.advance(1.0)
    _until_out(chosen, "01", "failure", already=True)
    assert calls(chosen, clock, 9, well)["01"] == 3


def test_an_answer_ends_the_time_aside_while_its_body_is_read(clock: VirtualClock) -> None:
    """reached() and put_aside() both say that it can be connected to."""
    chosen = balancer(fleet(3), clock)
    held = {lease.instance.id: lease for lease in (chosen.pick() for _ in range(3))}
    _until_out(chosen, "01", "unreachable")
    held["01"].reached()
    assert entry(chosen, "01").aside == 0.0
    _until_out(chosen, "01", "unreachable")
    held["01"].put_aside(5.0)
    assert entry(chosen, "01").aside == 5.0
    held["01"].put_aside(0.0)
    held["01"].put_aside(-1.0)
    assert entry(chosen, "01").aside == 5.0
    held["01"].success()
    held["01"].put_aside(100.0)
    held["01"].reached()
    held["01"].answered(FAILURE)
    assert (entry(chosen, "01").aside, entry(chosen, "01").in_flight) == (5.0, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_inherit_what_only_the_parents_checks_could_end(clock: VirtualClock) -> None:
    """In a forked child nothing is in flight and nobody is unwell: its checks are still to be started."""
    chosen = balancer(fleet(3), clock)
    held = chosen.pick()
    chosen.mark(fleet(3)[1], healthy=False)
    child = os.fork()
    if child == 0:
        seen = chosen.snapshot()
        held.success()
        well_again = entry(chosen, "01").ejected_for == 0.0 and seen.in_flight == chosen.snapshot().in_flight == 0
        os._exit(0 if well_again else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert entry(chosen, "01").ejected_for == math.inf


def _until_out(chosen: Balancer, name: str, how: str, *, already: bool = False) -> None:
    for _ in range(100):
        lease = chosen.pick()
        if lease.instance.id == name:
            getattr(lease, how)()
            seen = entry(chosen, name)
            if already or seen.aside or seen.ejected_for:
                return
        else:
            lease.success(0.02)
    raise AssertionError("never")


# --- arithmetic -----------------------------------------------------------------------------------------------------


@given(
    samples=st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 50.0)), min_size=1, max_size=30),
    median=st.none() | st.floats(0.0, 10.0),
)
def test_a_latency_stays_between_its_samples(samples: list[tuple[float, float]], median: float | None) -> None:
    """Whatever the gaps, the mean is a mean; what fades stays above the median; the guard is a share."""
    host, now = Host(instance("a"), 0.0), 0.0
    for seconds, gap in samples:
        now += gap
        latencies.sample(host, seconds, now)
    assert host.latency is not None
    least, most = min(seconds for seconds, _ in samples), max(seconds for seconds, _ in samples)
    assert least - 1e-9 <= host.latency <= most + 1e-9
    assert min(host.latency, median or 0.0) - 1e-9 <= latencies.faded(host, now + 5.0, median) <= host.latency + 1e-9
    assert latencies.FLOOR <= latencies.guard_of(host, now, median) <= 1.0


@pytest.mark.parametrize(("later", "share"), [(0.02, 1.0), (0.2, 0.1)])
def test_one_cold_first_answer_costs_a_host_no_turns(clock: VirtualClock, later: float, share: float) -> None:
    """Of its first two the quicker counts, and not before there are two; a host that stays slow shows it then."""
    host, now = Host(instance("a"), 0.0), clock.monotonic
    latencies.sample(host, 1.0, now())
    assert latencies.guard_of(host, now(), 0.02) == 1.0
    latencies.sample(host, later, now())
    assert latencies.guard_of(host, now(), 0.02) == pytest.approx(share)


def test_a_total_outage_does_not_grow_without_bound(clock: VirtualClock) -> None:
    """Everybody fails for an hour: latencies stay finite, and shares are equal."""
    chosen = balancer(fleet(5), clock, outliers=None)
    calls(chosen, clock, 500, well)
    calls(chosen, clock, 3600, lambda _instance: (False, 0.001), every=1.0)
    seen = chosen.snapshot().instances
    assert max(one.latency or 0.0 for one in seen) < 1.0
    assert {one.weight for one in seen} == {1.0}


# --- health checks --------------------------------------------------------------------------------------------------


def test_two_bad_probes_take_an_instance_out_and_a_good_one_brings_it_back(clock: VirtualClock) -> None:
    """Calls go elsewhere meanwhile, for as long as it takes."""
    bad = {"01"}
    chosen = balancer(fleet(4), clock)
    checks = HealthChecks(chosen, lambda found: found.id not in bad)
    checks.round()
    assert "01" in calls(chosen, clock, 4, well)
    checks.round()
    assert entry(chosen, "01").ejected_for == math.inf
    assert "01" not in calls(chosen, clock, 40, well, every=60.0)
    bad.clear()
    checks.round()
    assert calls(chosen, clock, 40, well)["01"] == 10


def test_a_probe_that_raises_has_found_nobody_well(clock: VirtualClock) -> None:
    """An error is an answer; the other instances are asked all the same."""

    def probe(found: Instance) -> bool:
        if found.id == "00":
            raise OSError("refused")
        return True

    chosen = balancer(fleet(3), clock)
    HealthChecks(chosen, probe, unhealthy_after=1).round()
    assert set(calls(chosen, clock, 10, well)) == {"01", "02"}


def test_checks_that_find_most_unwell_are_not_believed(clock: VirtualClock) -> None:
    """Panic: a probe that is broken does not stop the calls."""
    chosen = balancer(fleet(4), clock)
    HealthChecks(chosen, lambda _instance: False, unhealthy_after=1).round()
    assert set(calls(chosen, clock, 8, well)) == {"00", "01", "02", "03"}
    assert chosen.snapshot().panic


def test_a_refusal_does_not_hide_what_a_check_found(clock: VirtualClock) -> None:
    """An unwell instance that also refuses comes back when a probe says so."""
    chosen = balancer(fleet(3), clock)
    held = [chosen.pick() for _ in range(3)]
    chosen.mark(held[1].instance, healthy=False)
    for lease in held:
        lease.unreachable() if lease.instance.id == "01" else lease.success(0.02)
    chosen.mark(held[1].instance, healthy=True)
    assert calls(chosen, clock, 9, well)["01"] == 3
    chosen.mark(instance("nobody"), healthy=False)
    assert len(chosen.snapshot().instances) == 3


def test_a_thread_asks_every_interval(clock: VirtualClock) -> None:
    """`with` runs rounds until it ends; the thread is gone then."""
    asked: list[str] = []
    chosen = balancer(fleet(2), clock)

    def probe(found: Instance) -> bool:
        asked.append(found.id)
        return True

    with HealthChecks(chosen, probe, interval=10.0, clock=clock) as checks:
        wait_until(lambda: clock.waiting == 1)
        assert asked == ["00", "01"]
        clock.advance(10.0)
        wait_until(lambda: len(asked) == 4)
    checks.close()
    assert not any(thread.name.startswith("resilient-health") for thread in threading.enumerate())


async def test_a_task_asks_every_interval(clock: VirtualClock) -> None:
    """`async with` runs rounds of an async probe, all instances at the same time."""
    asked: list[str] = []
    together = asyncio.Event()
    chosen = balancer(fleet(2), clock)

    async def probe(found: Instance) -> bool:
        asked.append(found.id)
        if len(asked) == 2:
            together.set()
        await together.wait()
        return found.id != "01"

    async with HealthChecks(chosen, probe, interval=10.0, unhealthy_after=1, clock=clock) as checks:
        await clock.advance_async(0.0)
        assert sorted(asked) == ["00", "01"]
        assert entry(chosen, "01").ejected_for == math.inf
        await clock.advance_async(10.0)
        assert len(asked) == 4
    await checks.aclose()


def test_rounds_go_on_when_discovery_raises(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """A broken round is logged, and the next one comes."""

    class Broken(Listed):
        broken = True

        def instances(self, service: str, /) -> tuple[Instance, ...]:
            if self.broken:
                raise RuntimeError("no")
            return super().instances(service)

    discovery, asked = Broken(*fleet(1), clock=clock), list[str]()
    chosen = Balancer("producer", discovery, clock=clock)
    probe: Callable[[Instance], bool] = lambda found: not asked.append(found.id)  # type: ignore[func-returns-value]
    with caplog.at_level(logging.ERROR), HealthChecks(chosen, probe, clock=clock):
        wait_until(lambda: clock.waiting == 1)
        discovery.broken = False
        clock.advance(10.0)
        wait_until(lambda: asked == ["00"])
    assert "a round of health checks of 'producer' failed" in caplog.text
