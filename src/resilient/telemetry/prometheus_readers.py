"""What each kind of policy says at one moment: its snapshot as values of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from resilient.balancing import Balancer, BalancerSnapshot
from resilient.command_object import Command
from resilient.discovery import Registration
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.chaos import Chaos
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.circuit_states import State
from resilient.policies.collapser import Collapser
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.policies.timeout import Timeout
from resilient.telemetry import prometheus_families as f

Value: TypeAlias = tuple[f.Family, tuple[str, ...], float]
"""(which metric, the values of its labels after `name`, its value)."""

_QUANTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 100.0)  # of the nine in a snapshot: what dashboards show


def _breaker(breaker: CircuitBreaker) -> Iterator[Value]:
    seen = breaker.snapshot()
    for state in State:
        yield f.BREAKER_STATE, (state.value,), float(seen.state is state)
    yield f.BREAKER_CALLS, ("successful",), seen.successes
    yield f.BREAKER_CALLS, ("failed",), seen.failed
    yield f.BREAKER_CALLS, ("ignored",), seen.ignored
    yield f.BREAKER_CALLS, ("late",), seen.late
    yield f.BREAKER_REJECTED, ("not_permitted",), seen.rejected
    yield f.BREAKER_BUFFERED, ("successful",), seen.calls - seen.failures
    yield f.BREAKER_BUFFERED, ("failed",), seen.failures
    yield f.BREAKER_SLOW, (), seen.slow
    if seen.failure_rate is not None:
        yield f.BREAKER_FAILURES, (), seen.failure_rate
    if seen.slow_call_rate is not None:
        yield f.BREAKER_SLOWNESS, (), seen.slow_call_rate


def _retry(retry: Retry) -> Iterator[Value]:
    seen = retry.snapshot()
    yield f.RETRY_CALLS, ("successful_with_retry",), seen.recovered
    yield f.RETRY_CALLS, ("failed_with_retry",), seen.gave_up
    yield f.RETRY_ATTEMPTS, (), seen.retries
    yield f.RETRY_REFUSED, (), seen.refused
    yield f.RETRY_WAITING, (), seen.waiting


def _bulkhead(bulkhead: Bulkhead) -> Iterator[Value]:
    seen = bulkhead.snapshot()
    yield f.BULKHEAD_FREE, (), seen.available
    yield f.BULKHEAD_LIMIT, (), seen.limit
    yield f.BULKHEAD_WAITING, (), seen.waiting
    yield f.BULKHEAD_CALLS, ("permitted",), seen.accepted
    yield f.BULKHEAD_CALLS, ("rejected",), seen.rejected


def _pool(pool: ThreadPoolBulkhead) -> Iterator[Value]:
    seen = pool.snapshot()
    yield f.POOL_QUEUE, (), seen.queued
    yield f.POOL_ROOM, (), seen.max_queue
    yield f.POOL_ACTIVE, (), seen.active
    yield f.POOL_FREE, (), max(0, seen.threads - seen.active)
    yield f.POOL_MOST, (), seen.threads
    yield f.POOL_CALLS, ("completed",), seen.completed
    yield f.POOL_CALLS, ("rejected",), seen.rejected


def _rate(limiter: RateLimiter) -> Iterator[Value]:
    seen = limiter.snapshot()
    yield f.RATE_LEFT, (), seen.available
    yield f.RATE_WAITING, (), seen.waiting
    yield f.RATE_CALLS, ("permitted",), seen.accepted
    yield f.RATE_CALLS, ("rejected",), seen.rejected


def _limiter(limiter: ConcurrencyLimiter) -> Iterator[Value]:
    seen = limiter.snapshot()
    yield f.LIMITER_LIMIT, (), seen.limit
    yield f.LIMITER_ACTIVE, (), seen.in_flight
    yield f.LIMITER_CALLS, ("successful",), seen.succeeded
    yield f.LIMITER_CALLS, ("dropped",), seen.dropped
    yield f.LIMITER_CALLS, ("ignored",), seen.ignored
    yield f.LIMITER_CALLS, ("rejected",), seen.rejected
    if seen.rtt is not None:
        yield f.LIMITER_RTT, (), seen.rtt


def _cache(cache: Cache) -> Iterator[Value]:
    seen = cache.snapshot()
    if cache.settings.scope == "process":  # else they are those of whoever asks
        yield f.CACHE_ENTRIES, (), seen.entries
    yield f.CACHE_CALLS, ("hit",), seen.hits
    yield f.CACHE_CALLS, ("shared",), seen.shared
    yield f.CACHE_CALLS, ("miss",), seen.calls
    yield f.CACHE_CALLS, ("not_cacheable",), seen.passed


def _collapser(collapser: Collapser[Any, Any]) -> Iterator[Value]:
    seen = collapser.snapshot()
    yield f.COLLAPSER_WAITING, (), seen.waiting
    yield f.COLLAPSER_CALLS, (), seen.calls
    yield f.COLLAPSER_BATCHES, (), seen.batches
    yield f.COLLAPSER_KEYS, (), seen.keys


def _hedge(hedge: Hedge) -> Iterator[Value]:
    seen = hedge.snapshot()
    yield f.HEDGE_CALLS, (), seen.calls
    yield f.HEDGE_STARTED, (), seen.hedges
    yield f.HEDGE_WON, (), seen.won
    yield f.HEDGE_REFUSED, (), seen.refused
    if seen.delay is not None:
        yield f.HEDGE_DELAY, (), seen.delay


def _timeout(timeout: Timeout) -> Iterator[Value]:
    yield f.TIMEOUT_ABANDONED, (), timeout.abandoned


def _chaos(chaos: Chaos) -> Iterator[Value]:
    seen = chaos.snapshot()
    yield f.CHAOS_ON, (), float(seen.on)
    yield f.CHAOS_CALLS, (), seen.injected


def _command(command: Command) -> Iterator[Value]:
    seen = command.metrics.snapshot(command.name, command.group, None)
    group = seen.group
    yield f.COMMAND_CALLS, (group, "successful"), seen.successes
    yield f.COMMAND_CALLS, (group, "failed"), seen.failures - seen.timeouts
    yield f.COMMAND_CALLS, (group, "timeout"), seen.timeouts
    yield f.COMMAND_CALLS, (group, "rejected"), seen.rejections
    yield f.COMMAND_CALLS, (group, "ignored"), seen.ignored
    yield f.COMMAND_FALLBACKS, (group,), seen.fallbacks
    yield f.COMMAND_TIMED, (group,), seen.successes + seen.failures
    for percentile in _QUANTILES:
        if percentile in seen.latency:
            yield f.COMMAND_LATENCY, (group, str(percentile / 100)), seen.latency[percentile]


def _balancer(balancer: Balancer) -> Iterator[Value]:
    seen: BalancerSnapshot = balancer.snapshot()
    for host in seen.instances:
        address = (f"{host.instance.host}:{host.instance.port}",)
        yield f.BALANCER_PICKS, address, host.picks
        yield f.BALANCER_FAILURES, address, host.failures
        yield f.BALANCER_ACTIVE, address, host.in_flight
        yield f.BALANCER_EJECTED, address, float(host.ejected_for > 0)
        yield f.BALANCER_ASIDE, address, float(host.aside > 0)
        yield f.BALANCER_WEIGHT, address, host.weight
    if seen.instances:  # else nobody uses it: a transport has one for https and one for http
        yield f.BALANCER_PANIC, (), float(seen.panic)
        age = balancer._discovery.age(balancer.service)
        if math.isfinite(age):
            yield f.DISCOVERY_AGE, (), age


def _registration(registration: Registration) -> Iterator[Value]:
    if getattr(registration, "_opened", True):
        yield f.REGISTERED, (), float(registration.registered)


READERS: tuple[tuple[type, Callable[[Any], Iterator[Value]]], ...] = (
    (CircuitBreaker, _breaker),
    (Retry, _retry),
    (Bulkhead, _bulkhead),
    (ThreadPoolBulkhead, _pool),
    (RateLimiter, _rate),
    (ConcurrencyLimiter, _limiter),
    (Cache, _cache),
    (Collapser, _collapser),
    (Hedge, _hedge),
    (Timeout, _timeout),
    (Chaos, _chaos),
    (Command, _command),
    (Balancer, _balancer),
    (Registration, _registration),
)


def reader_of(thing: object) -> Callable[[Any], Iterator[Value]] | None:
    """What reads `thing`; None for what counts nothing that is shown."""
    return next((reader for kind, reader in READERS if isinstance(thing, kind)), None)
