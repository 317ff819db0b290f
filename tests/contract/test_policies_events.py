"""The order in which a stack of policies tells what happens, and that nothing is told twice or lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadRejected,
    CircuitBreaker,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
    ConcurrencyLimiter,
    ConcurrencyLimitReached,
    Event,
    Fallback,
    Pipeline,
    RateLimited,
    RateLimiter,
    RejectedError,
    Retry,
    RetryGaveUp,
    RetryScheduled,
    State,
    ThreadPoolBulkhead,
    ThreadPoolRejected,
    Vegas,
    listen,
)
from tests.drive import Drive
from tests.jumping import JumpingClock


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """What everybody who listens hears."""
    heard: list[Event] = []
    stop = listen(heard.append, Event)
    yield heard
    stop()


def down() -> None:
    raise ConnectionError


def test_a_stack_tells_what_happens_in_the_order_it_happens(drive: Drive, told: list[Event]) -> None:
    """Case 9: failure, threshold, transition, the wait that follows, rejections; the times never go back."""
    clock = JumpingClock()
    breaker = CircuitBreaker("db", consecutive_failures=2, clock=clock)
    retry = Retry("again", attempts=4, wait=0.5, clock=clock)
    guard = Pipeline(Fallback(value="instead"), retry, breaker, RateLimiter(9, clock=clock), Bulkhead(1, clock=clock))
    assert [drive(guard, down), drive(guard, down)] == ["instead", "instead"]
    assert [type(event) for event in told] == [
        RetryScheduled,
        CircuitThresholdReached,
        CircuitStateChanged,
        RetryScheduled,
        CircuitRejected,
        CircuitRejected,
    ]
    assert [event.at for event in told] == [1000.0, 1000.5, 1000.5, 1000.5, 1001.0, 1001.0]
    assert [event.name for event in told] == ["again", "db", "db", "again", "db", "db"]


def test_the_whole_life_of_a_circuit_under_a_retry(drive: Drive, told: list[Event]) -> None:
    """Closed, open, half-open, open again, half-open, closed: each step once, after what caused it."""
    clock = JumpingClock()
    breaker = CircuitBreaker("db", consecutive_failures=1, rng=lambda: 0.0, clock=clock)
    guard = Pipeline(Fallback(value="instead"), Retry("again", attempts=1, clock=clock), breaker)
    drive(guard, down)
    clock.advance(5.0)
    drive(guard, down)
    clock.advance(10.0)
    for _ in range(3):
        drive(guard, lambda: "up")
        clock.advance(0.4)
    states = [(event.old, event.new) for event in told if isinstance(event, CircuitStateChanged)]
    assert states == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]
    kinds = [type(event) for event in told if not isinstance(event, RetryGaveUp)]
    assert kinds == [CircuitThresholdReached, *[CircuitStateChanged] * 5]


def an_open_circuit() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.force_open()
    return breaker


CROWDED: list[tuple[Callable[[], Any], type[Event]]] = [
    (an_open_circuit, CircuitRejected),
    (lambda: Bulkhead(1), BulkheadRejected),
    (lambda: Bulkhead(1, max_wait=0.0001, max_queue=1), BulkheadRejected),
    (lambda: RateLimiter(100, per=60.0), RateLimited),
    (lambda: ConcurrencyLimiter(Vegas(initial=1, maximum=1)), ConcurrencyLimitReached),
    (lambda: ThreadPoolBulkhead(1, max_queue=1), ThreadPoolRejected),
]


@pytest.mark.parametrize(("make", "kind"), CROWDED, ids=["circuit", "places", "line", "rate", "adaptive", "pool"])
def test_every_rejection_is_told_once_by_sixteen_threads(make: Callable[[], Any], kind: type[Event]) -> None:
    """Case 9: as many events as errors as counted rejections; admitted and rejected are all calls."""
    policy, refused, made = make(), Counter[str](), Counter[str]()
    heard: list[Event] = []
    stop = listen(heard.append, kind)

    def crowd(number: int) -> None:
        for _ in range(100):
            try:
                policy.call(time.sleep, 0.0005)
                made[str(number)] += 1
            except RejectedError:
                refused[str(number)] += 1

    threads = [threading.Thread(target=crowd, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    stop()
    assert made.total() + refused.total() == 1600
    assert 0 < refused.total() == len(heard) == policy.snapshot().rejected
    assert {event.name for event in heard} == {policy.name}


def test_every_retry_is_told_once_by_sixteen_threads() -> None:
    """Case 9: each call tells its wait and then its end, and nobody else's come between in what one thread hears."""
    retry = Retry(attempts=2, wait=0.0)
    own: dict[int, list[type[Event]]] = {}

    def hear(event: Event) -> None:
        own.setdefault(threading.get_ident(), []).append(type(event))

    stop = listen(hear, Event)

    def crowd() -> None:
        for _ in range(50):
            with pytest.raises(ConnectionError):
                retry.call(down)
        ended.wait(30)  # an identity of a thread is given again when it has ended

    ended = threading.Event()
    threads = [threading.Thread(target=crowd) for _ in range(16)]
    for thread in threads:
        thread.start()
    ended.set()
    for thread in threads:
        thread.join(30)
    stop()
    told = Counter(kind for kinds in own.values() for kind in kinds)
    snapshot = retry.snapshot()
    assert told[RetryScheduled] == snapshot.retries
    assert told.total() - told[RetryScheduled] == snapshot.gave_up == 800
