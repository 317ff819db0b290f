"""The metrics: their names, in the library's own form and in resilience4j's, and how several policies make one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["gauge", "counter", "summary"]
Together = Callable[[Iterable[float]], float]

CLASSIC: Final = "resilience4j"
"""The prefix that asks for resilience4j's names and units."""


@dataclass(frozen=True, slots=True, eq=False)  # each is itself: a key of many look-ups per scrape
class Family:
    """One metric.

    Attributes:
        name: after the prefix, without the `_total` of a counter.
        help: one sentence.
        labels: their names, `name` included.
        kind: what Prometheus calls its type.
        together: how the values of several policies with the same labels become one; None: they do not, and a series
            of several policies has no such value. A counter's are always added.
        classic: its name after resilience4j's prefix, where that differs; with its `_count` for a summary.
        factor: from our unit to resilience4j's.
        part: what a sample's name ends with, for those of a summary.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ("name",)
    kind: Kind = "gauge"
    together: Together | None = sum
    classic: str | None = None
    factor: float = 1.0
    part: str = ""

    @property
    def counts(self) -> bool:
        """Whether it may only go up."""
        return self.kind == "counter" or self.part == "_count"


def counter(name: str, text: str, *labels: str, classic: str | None = None) -> Family:
    """A Family that only goes up."""
    return Family(name, text, ("name", *labels), "counter", classic=classic)


_COMMAND = ("name", "group")
_HOST = ("name", "host")

BREAKER_STATE = Family(
    "circuitbreaker_state", "How many circuit breakers of this name are in this state: 1 or 0.", ("name", "state")
)
BREAKER_CALLS = counter(
    "circuitbreaker_calls",
    "Calls that ended, by how; late: after the state that had admitted them.",
    "kind",
    classic="circuitbreaker_calls_seconds_count",
)
BREAKER_REJECTED = counter("circuitbreaker_not_permitted_calls", "Calls that an open circuit refused.", "kind")
BREAKER_BUFFERED = Family("circuitbreaker_buffered_calls", "Calls in the window, by how they ended.", ("name", "kind"))
BREAKER_SLOW = Family("circuitbreaker_slow_calls", "Slow calls in the window.")
BREAKER_FAILURES = Family(
    "circuitbreaker_failure_ratio",
    "Failed calls of those in the window; absent below the minimum number of calls.",
    together=None,
    classic="circuitbreaker_failure_rate",
    factor=100.0,
)
BREAKER_SLOWNESS = Family(
    "circuitbreaker_slow_call_ratio",
    "Slow calls of those in the window; absent below the minimum number of calls.",
    together=None,
    classic="circuitbreaker_slow_call_rate",
    factor=100.0,
)
RETRY_CALLS = counter("retry_calls", "Calls that needed a retry, by how they ended.", "kind")
RETRY_ATTEMPTS = counter("retry_attempts", "Attempts that were made again.")
RETRY_REFUSED = counter("retry_budget_refusals", "Retries that the budget refused.")
RETRY_WAITING = Family("retry_waiting_calls", "Callers that wait for their next attempt.")
BULKHEAD_FREE = Family("bulkhead_available_concurrent_calls", "Places that are free.")
BULKHEAD_LIMIT = Family("bulkhead_max_allowed_concurrent_calls", "Places in all.")
BULKHEAD_WAITING = Family("bulkhead_waiting_calls", "Callers in the queue.")
BULKHEAD_CALLS = counter("bulkhead_calls", "Calls that asked for a place, by the answer.", "kind")
POOL_QUEUE = Family("bulkhead_queue_depth", "Calls that wait for a thread.")
POOL_ROOM = Family("bulkhead_queue_capacity", "How many calls may wait for a thread.")
POOL_ACTIVE = Family("bulkhead_active_threads", "Threads that run a call.", classic="bulkhead_active_thread_count")
POOL_FREE = Family(
    "bulkhead_available_threads", "Threads that may begin a call.", classic="bulkhead_available_thread_count"
)
POOL_MOST = Family("bulkhead_max_thread_pool_size", "How many calls run at once at most.")
POOL_CALLS = counter("bulkhead_thread_pool_calls", "Calls that have ended, or were refused.", "kind")
RATE_LEFT = Family(
    "ratelimiter_available_permissions", "Calls that would be admitted at once; below 0: as many wait for their time."
)
RATE_WAITING = Family(
    "ratelimiter_waiting_calls", "Callers that wait for their time.", classic="ratelimiter_waiting_threads"
)
RATE_CALLS = counter("ratelimiter_calls", "Calls that asked, by the answer.", "kind")
LIMITER_LIMIT = Family("concurrencylimiter_limit", "Calls admitted at once, as learned.")
LIMITER_ACTIVE = Family("concurrencylimiter_in_flight_calls", "Calls under way.")
LIMITER_CALLS = counter("concurrencylimiter_calls", "Calls that ended or were refused, by how.", "kind")
LIMITER_RTT = Family(
    "concurrencylimiter_rtt_seconds", "Seconds that the calls of the last sample took on average.", together=None
)
CACHE_ENTRIES = Family("cache_entries", "Answers that are remembered.")
CACHE_CALLS = counter("cache_requests", "Requests: hit, shared with a call under way, miss, or not_cacheable.", "kind")
COLLAPSER_WAITING = Family("collapser_waiting_keys", "Keys that wait for their batch to start or to end.")
COLLAPSER_CALLS = counter("collapser_calls", "Single calls.")
COLLAPSER_BATCHES = counter("collapser_batches", "Batch calls made for them.")
COLLAPSER_KEYS = counter("collapser_keys", "Keys that those batches asked for.")
HEDGE_CALLS = counter("hedge_calls", "Callers' calls.")
HEDGE_STARTED = counter("hedge_hedges", "Further calls that were started.")
HEDGE_WON = counter("hedge_won", "Callers' calls that a hedge answered.")
HEDGE_REFUSED = counter("hedge_budget_refusals", "Hedges that the budget refused.")
HEDGE_DELAY = Family("hedge_delay_seconds", "Seconds after which a hedge is started.", together=None)
TIMEOUT_ABANDONED = Family("timelimiter_abandoned_calls", "Sync calls that were left behind and still run.")
CHAOS_ON = Family("chaos_enabled", "Whether calls are broken on purpose now.", together=max)
CHAOS_CALLS = counter("chaos_injected_calls", "Calls broken on purpose.")
COMMAND_CALLS = counter("command_calls", "Callers' calls that ended, by how.", "group", "kind")
COMMAND_FALLBACKS = counter("command_fallbacks", "Calls that the fallback answered.", "group")
COMMAND_LATENCY = Family(
    "command_latency_seconds",
    "Seconds of the calls that were neither refused nor ignored; quantiles are of the last 10 s.",
    (*_COMMAND, "quantile"),
    "summary",
    together=None,
)
COMMAND_TIMED = Family("command_latency_seconds", COMMAND_LATENCY.help, _COMMAND, "summary", part="_count")
BALANCER_PICKS = counter("balancer_picks", "How often an instance was chosen.", "host")
BALANCER_FAILURES = counter("balancer_failures", "Calls to an instance that failed.", "host")
BALANCER_ACTIVE = Family("balancer_in_flight_calls", "Calls to an instance that are under way.", _HOST)
BALANCER_EJECTED = Family(
    "balancer_ejected", "Whether an instance gets no calls because of failures or a health check.", _HOST, together=max
)
BALANCER_ASIDE = Family(
    "balancer_put_aside", "Whether others are preferred: not reachable, or it asked for a pause.", _HOST, together=max
)
BALANCER_WEIGHT = Family("balancer_weight", "Its share of a full turn, 1 at most.", _HOST, together=min)
BALANCER_PANIC = Family(
    "balancer_panic", "Whether so many instances are out that all that can be reached are used.", together=max
)
DISCOVERY_AGE = Family(
    "discovery_age_seconds", "Seconds since the registry confirmed the instances; absent before.", together=max
)
REGISTERED = Family("registration_registered", "Whether the registry lists this process.", together=min)

FAMILIES: Final = tuple(found for found in dict(globals()).values() if isinstance(found, Family))
"""All of them, in the order in which they are written."""
