"""The collector shows what policies count: names, values, labels, two dialects."""

from __future__ import annotations

import gc
import subprocess
import threading
from typing import Any

import pytest

import resilient
from resilient import (
    Bulkhead,
    Cache,
    Chaos,
    CircuitBreaker,
    CircuitOpenError,
    Collapser,
    ConcurrencyLimiter,
    ConfigError,
    Fallback,
    Hedge,
    RateLimiter,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilient.balancing import Balancer
from resilient.testing import VirtualClock
from tests.listed import Listed, instance
from tests.peers import require_command
from tests.telemetry.scrapes import Scrapes, openmetrics_names


def one_of_everything() -> list[object]:
    """One policy of each kind, used once; keep what is returned."""
    breaker, retry = CircuitBreaker("all"), Retry("all", attempts=2, wait=0.0)
    policies: list[Any] = [
        breaker,
        retry,
        Bulkhead(3, name="all"),
        ThreadPoolBulkhead(2, name="all"),
        RateLimiter(10, name="all"),
        ConcurrencyLimiter(name="all"),
        Cache(60.0, name="all"),
        Timeout(1.0, name="all", thread=False),
        Chaos(name="all", rate=0.1, error=OSError),
    ]
    for policy in policies:
        policy.call(len, "abc")
    balancer = Balancer("all", Listed(instance("a", service="all")))
    balancer.pick().success()

    @resilient.command("all", group="tests")
    def answer() -> int:
        return 1

    answer()
    collapser: Collapser[str, int] = Collapser(lambda keys: dict.fromkeys(keys, 1), name="all", max_size=1)
    assert collapser("x") == 1
    return [*policies, Hedge(delay=1.0, name="all"), balancer, answer, collapser]


def test_a_breaker_is_shown_with_its_state_its_calls_and_its_window(clock: VirtualClock) -> None:
    """One gauge per state, counters by kind, the window's calls by kind, ratios from 0 to 1."""
    breaker = CircuitBreaker("db", minimum_calls=4, clock=clock)
    scrapes = Scrapes()
    for outcome in ("success", "failure", "failure", "success"):
        getattr(breaker.acquire(), outcome)()
    with pytest.raises(CircuitOpenError):
        breaker.call(len, "")

    states = {s: scrapes.value("resilient_circuitbreaker_state", name="db", state=s) for s in ("open", "closed")}
    assert states == {"open": 1.0, "closed": 0.0}
    assert scrapes.value("resilient_circuitbreaker_calls_total", name="db", kind="successful") == 2
    assert scrapes.value("resilient_circuitbreaker_calls_total", name="db", kind="failed") == 2
    assert scrapes.value("resilient_circuitbreaker_not_permitted_calls_total", name="db", kind="not_permitted") == 1
    assert scrapes.value("resilient_circuitbreaker_buffered_calls", name="db", kind="failed") == 2
    assert scrapes.value("resilient_circuitbreaker_failure_ratio", name="db") == 0.5


def test_a_ratio_below_the_minimum_number_of_calls_is_absent(clock: VirtualClock) -> None:
    """Neither -1 nor NaN: an average over breakers stays right."""
    breaker = CircuitBreaker("young", clock=clock)
    breaker.acquire().failure()
    scrapes = Scrapes()
    assert scrapes.value("resilient_circuitbreaker_failure_ratio", name="young") is None
    assert scrapes.value("resilient_circuitbreaker_slow_call_ratio", name="young") is None
    assert scrapes.value("resilient_circuitbreaker_buffered_calls", name="young", kind="failed") == 1


def test_resilience4js_prefix_brings_its_names_and_its_units(clock: VirtualClock) -> None:
    """Percent instead of ratios, the timer's count, threads that wait: its dashboards fit."""
    breaker = CircuitBreaker("db", minimum_calls=2, clock=clock)
    limiter, pool = RateLimiter(10, name="r", clock=clock), ThreadPoolBulkhead(2, name="p")
    breaker.acquire().failure()
    breaker.acquire().success()
    scrapes = Scrapes(prefix="resilience4j")
    assert scrapes.value("resilience4j_circuitbreaker_failure_rate", name="db") == 50.0
    assert scrapes.value("resilience4j_circuitbreaker_calls_seconds_count", name="db", kind="failed") == 1
    assert scrapes.value("resilience4j_circuitbreaker_state", name="db", state="open") == 1
    assert scrapes.value("resilience4j_ratelimiter_waiting_threads", name="r") == 0
    assert scrapes.value("resilience4j_ratelimiter_available_permissions", name="r") == limiter.snapshot().available
    assert scrapes.value("resilience4j_bulkhead_active_thread_count", name="p") == pool.snapshot().active
    assert not any(name.startswith("resilient_") for name, _ in scrapes.values())


def test_a_command_is_shown_with_outcomes_fallbacks_and_quantiles(clock: VirtualClock) -> None:
    """Every call counts in one kind; quantiles are those of the snapshot."""

    @resilient.command("orders", breaker=None, fallback=Fallback(value=0), group="shop", clock=clock)
    def orders(seconds: float) -> int:
        clock.advance(seconds)
        if seconds > 1:
            raise OSError
        return 1

    scrapes = Scrapes()
    for seconds in (0.1, 0.2, 2.0):
        orders(seconds)
    found = {
        kind: scrapes.value("resilient_command_calls_total", name="orders", group="shop", kind=kind)
        for kind in ("successful", "failed", "timeout", "rejected", "ignored")
    }
    assert found == {"successful": 2, "failed": 1, "timeout": 0, "rejected": 0, "ignored": 0}
    assert scrapes.value("resilient_command_fallbacks_total", name="orders", group="shop") == 1
    assert scrapes.value("resilient_command_latency_seconds_count", name="orders", group="shop") == 3
    latency = scrapes.value("resilient_command_latency_seconds", name="orders", group="shop", quantile="0.5")
    assert latency == pytest.approx(0.2)


def test_a_balancer_is_shown_per_host(clock: VirtualClock) -> None:
    """Picks, calls in flight and failures by address; balancers of one service are added up."""
    discovery = Listed(instance("a"), instance("b"), clock=clock)
    first, second = (Balancer("producer", discovery, clock=clock) for _ in range(2))
    held = first.pick()
    second.pick(exclude=[other for other in second.instances() if other != held.instance]).failure()
    scrapes = Scrapes()
    host = f"{held.instance.host}:80"
    assert scrapes.value("resilient_balancer_picks_total", name="producer", host=host) == 2
    assert scrapes.value("resilient_balancer_in_flight_calls", name="producer", host=host) == 1
    assert scrapes.value("resilient_balancer_failures_total", name="producer", host=host) == 1
    assert scrapes.value("resilient_balancer_ejected", name="producer", host=host) == 0
    assert scrapes.value("resilient_balancer_panic", name="producer") == 0
    held.success()


def test_an_instance_that_left_is_shown_no_longer(clock: VirtualClock) -> None:
    """Addresses of a fleet that comes and goes do not pile up."""
    discovery = Listed(instance("a"), instance("b"), clock=clock)
    balancer = Balancer("producer", discovery, clock=clock)
    balancer.pick().success()
    scrapes = Scrapes()
    assert scrapes.value("resilient_balancer_weight", name="producer", host="a.test:80") is not None
    discovery.set(instance("b"))
    assert scrapes.value("resilient_balancer_weight", name="producer", host="a.test:80") is None
    assert scrapes.value("resilient_balancer_picks_total", name="producer", host="a.test:80") is None


def test_a_policy_that_is_dropped_is_shown_no_longer() -> None:
    """The collector holds nothing alive."""
    breaker = CircuitBreaker("shortlived")
    scrapes = Scrapes()
    assert scrapes.value("resilient_circuitbreaker_state", name="shortlived", state="closed") == 1
    del breaker
    gc.collect()
    assert scrapes.value("resilient_circuitbreaker_state", name="shortlived", state="closed") is None
    assert scrapes.value("resilient_circuitbreaker_calls_total", name="shortlived", kind="failed") is None


@pytest.mark.parametrize("prefix", ["resilient", "resilience4j"])
def test_every_kind_is_shown_and_every_metric_was_announced(prefix: str) -> None:
    """One policy of each kind: all metrics that `collect` gives are among those of `describe`, and OpenMetrics too."""
    kept = one_of_everything()
    scrapes = Scrapes(prefix=prefix)
    announced = {metric.name: metric.type for metric in scrapes.collector.describe()}
    found = {metric.name: metric.type for metric in scrapes.collector.collect()}
    assert found.items() <= announced.items()
    rooms = {name.removeprefix(f"{prefix}_").partition("_")[0] for name in found}
    assert rooms == {
        *("balancer", "bulkhead", "cache", "chaos", "circuitbreaker", "collapser", "command"),
        *("concurrencylimiter", "discovery", "hedge", "ratelimiter", "retry", "timelimiter"),
    }
    assert set(found) <= openmetrics_names(scrapes.registry)
    assert kept


@pytest.mark.parametrize("prefix", ["resilient", "resilience4j"])
def test_promtool_accepts_the_exposition(prefix: str) -> None:
    """Prometheus' own linter has nothing to say but for two names that are resilience4j's."""
    promtool = require_command("promtool", package="prometheus")
    kept = one_of_everything()
    text = Scrapes(prefix=prefix).text()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    complaints = {line.split()[0] for line in (done.stdout + done.stderr).splitlines() if line.strip()}
    theirs = {"resilience4j_bulkhead_active_thread_count", "resilience4j_bulkhead_available_thread_count"}
    assert complaints == (theirs if prefix == "resilience4j" else set()), done.stdout + done.stderr
    assert kept


def test_collecting_runs_no_code_of_the_user() -> None:
    """Predicates, fallbacks, listeners and factories are for calls; a scrape calls none of them."""
    called: list[str] = []

    def note(*_args: object, **_kwargs: object) -> bool:
        called.append("user code")
        return True

    kept: list[object] = [
        CircuitBreaker("quiet", on=note, ignore=note, on_result=note, open_duration=5.0, listeners=[note]),
        Retry("quiet", on=note, ignore=note, on_result=note, listeners=[note]),
        Cache(60.0, name="quiet", key=note),
        Fallback(note, name="quiet"),
        resilient.Keyed(note),
    ]
    called.clear()  # whatever a constructor may have asked
    Scrapes().values()
    assert called == []
    assert kept


def test_a_policy_whose_lock_is_held_delays_no_other_call() -> None:
    """A scrape that waits for one policy holds no lock of another policy, and another scrape's ledger is free."""
    blocked, free = CircuitBreaker("blocked"), CircuitBreaker("free")
    scrapes = Scrapes()
    scrapes.values()
    with blocked.lock:
        scrape = threading.Thread(target=scrapes.values, daemon=True)
        scrape.start()
        assert free.call(len, "abc") == 3
        assert free.snapshot().successes == 1
        assert scrapes.collector._ledger.begin() > 0
    scrape.join(10.0)
    assert not scrape.is_alive()


def test_one_that_can_not_be_read_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A discovery of the user's own that raises costs its own metrics, and a line in the log."""

    class Broken(Listed):
        broken = False

        def instances(self, service: str, /) -> Any:
            if self.broken:
                raise RuntimeError("broken")
            return super().instances(service)

    discovery = Broken(instance("a", service="ill"))
    kept = [Balancer("ill", discovery), CircuitBreaker("well")]
    scrapes = Scrapes()
    discovery.broken = True
    assert scrapes.value("resilient_circuitbreaker_state", name="well", state="closed") == 1
    assert scrapes.value("resilient_balancer_panic", name="ill") is None
    assert "no metrics of 'ill'" in caplog.text
    discovery.broken = False
    assert scrapes.value("resilient_balancer_panic", name="ill") == 0
    assert kept


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"prefix": "res-ilient"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"keyed": {"db": object()}}, "keyed"),
        ({"keyed": [1]}, "keyed"),
        ({"labelled": "db"}, "labelled"),
        ({"labelled": 3}, "labelled"),
    ],
)
def test_a_wrong_argument_is_refused_when_it_is_given(options: dict[str, Any], path: str) -> None:
    """ConfigError names the argument."""
    with pytest.raises(ConfigError) as caught:
        Scrapes(**options)
    assert caught.value.path == path
