"""Storages of pybreaker's behind our breakers, and pybreaker's own breakers on the other side."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest
import redis

from resilient import CircuitBreaker, CircuitOpenError, ConfigError, State, listen, names
from resilient.policies.pybreaker_storage import PybreakerStorage
from resilient.shared_state import Phase, Said, SharedStateLost, SharedStateRegained, Word
from tests.redis_server import RedisProcess
from tests.waiting import wait_until

READ = Said("db", Word.READ, "me")
OPENED = Said("db", Word.OPENED, "me", 5.0)


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    """A Redis of this test's own."""
    with RedisProcess() as running:
        yield running


@pytest.fixture(autouse=True)
def no_breakers_of_other_tests() -> Iterator[None]:
    """A breaker is part of a cycle: dropped, it is shared until it is collected, and its Redis is gone by then."""
    yield
    gc.collect()


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> Any:
    """Each of the two that pybreaker has."""
    if request.param == "memory":
        return pybreaker.CircuitMemoryStorage("closed")
    return of_redis(request.getfixturevalue("server"))


def of_redis(server: RedisProcess) -> Any:
    """pybreaker's own on a Redis."""
    client = redis.Redis.from_url(server.url, socket_timeout=0.5, retry=None)
    return pybreaker.CircuitRedisStorage("closed", client, namespace="db")


def breaker(shared: Any, open_for: float = 30.0) -> CircuitBreaker:
    """A breaker of ours that reads the storage often."""
    names.forget()
    quick = PybreakerStorage(shared, poll=0.05)
    return CircuitBreaker(
        "db", shared=quick, open_duration=lambda _attempt: open_for, half_open_successes=1, rng=lambda: 0.0
    )


def becomes(one: CircuitBreaker, state: State) -> None:
    """Wait until the breaker has heard."""
    wait_until(lambda: one.state is state, what=f"{one!r} {state.value}")


def fail() -> None:
    """The dependency."""
    raise ConnectionError("gone")


def test_ours_and_pybreakers_are_one_circuit(storage: Any) -> None:
    """Each hears of the other's opening and closing."""
    theirs = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=30, state_storage=storage)
    ours = breaker(storage)
    with pytest.raises(pybreaker.CircuitBreakerError):
        theirs.call(fail)
    becomes(ours, State.OPEN)
    assert 20.0 < (ours.snapshot().retry_after or 0.0) <= 30.0
    theirs.close()
    becomes(ours, State.CLOSED)
    for _ in range(5):
        ours.acquire().failure()
    wait_until(lambda: storage.state == "open", what="our opening told")
    with pytest.raises(pybreaker.CircuitBreakerError, match="still open"):
        theirs.call(int)
    ours.close()
    wait_until(lambda: storage.state == "closed", what="our closing told")
    assert theirs.call(int) == 0
    assert storage.counter == 0


def test_each_process_probes_on_its_own(storage: Any) -> None:
    """There is no lease: when the time is over the first caller is the probe, and its success closes it for all."""
    one, other = breaker(storage, 0.3), breaker(storage, 30.0)
    one.open(0.3)
    becomes(other, State.OPEN)
    wait_until(lambda: one.snapshot().retry_after == 0.0, what="the open time over")
    one.acquire().success()
    assert one.state is State.CLOSED
    becomes(other, State.CLOSED)


def test_a_raw_storage_is_taken_as_it_is(storage: Any) -> None:
    """`CircuitBreaker(shared=storage)`, with what is left of the breaker's own open time."""
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=20)
    storage.state = "open"
    one = CircuitBreaker("db", shared=storage, open_duration=30.0)
    becomes(one, State.OPEN)
    left = one.snapshot().retry_after
    assert left is not None
    assert 5.0 < left <= 10.1
    with pytest.raises(CircuitOpenError, match="another process opened it"):
        one.acquire()


def test_nothing_is_asked_of_it_at_construction_nor_by_calls() -> None:
    """Its properties are questions over the network: they are for the thread."""
    by: set[str] = set()

    class Watched(pybreaker.CircuitMemoryStorage):
        @property
        def state(self) -> str:
            by.add(threading.current_thread().name)
            return "closed"

        @state.setter
        def state(self, state: str) -> None:
            by.add(threading.current_thread().name)

    one = CircuitBreaker("db", shared=Watched("closed"))
    for _ in range(100):
        one.call(int)
    one.open(5.0)
    wait_until(lambda: by, what="the thread asking")
    assert by == {"resilient-shared"}


def test_an_open_time_of_its_own_counts_for_what_others_open() -> None:
    """pybreaker's reset_timeout need not be ours."""
    memory = pybreaker.CircuitMemoryStorage("open")
    memory.opened_at = datetime.now(UTC)
    (known,) = PybreakerStorage(memory, open_time=90.0).exchange([READ])
    assert 89.0 < known.seconds_left <= 90.0
    memory.opened_at = datetime.now(UTC).replace(tzinfo=None)  # older storages have no zone
    (known,) = PybreakerStorage(memory).exchange([READ])
    assert known.opened_ago is not None
    assert known.opened_ago < 5.0


def test_what_a_storage_says_and_what_it_means() -> None:
    """A close counts once it opened; a probing peer is left alone; an opening without a time says nothing."""
    memory = pybreaker.CircuitMemoryStorage("closed")
    store = PybreakerStorage(memory)
    assert store.exchange([READ])[0].phase is Phase.UNKNOWN
    memory.state = "open"
    assert store.exchange([READ])[0].phase is Phase.PROBING
    opened = store.exchange([OPENED])[0]
    assert opened.phase is Phase.OPEN
    memory.state = "half-open"
    assert store.exchange([READ])[0].phase is Phase.PROBING
    memory.opened_at = datetime.now(UTC) + timedelta(seconds=1)
    memory.state = "open"
    stale = Said("db", Word.CLOSED, "me", epoch=opened.epoch)
    now = store.exchange([stale])[0]
    assert now.phase is Phase.OPEN
    assert store.exchange([Said("db", Word.CLOSED, "me", epoch=now.epoch)])[0].phase is Phase.CLOSED
    memory.state = "ajar"
    with pytest.raises(ValueError, match="ajar"):
        store.exchange([READ])


def test_a_storage_that_raises_is_a_silent_store() -> None:
    """Calls go on; it is told once that it is lost, and once that it is back."""
    heard: list[Any] = []
    stops = [listen(heard.append, SharedStateLost), listen(heard.append, SharedStateRegained)]
    broken = [True]

    class Broken(pybreaker.CircuitMemoryStorage):
        @property
        def state(self) -> str:
            if broken:
                raise OSError("the disk is full")
            return "closed"

        @state.setter
        def state(self, state: str) -> None:
            """Never written here, but at construction."""

    one = breaker(Broken("closed"))
    assert one.call(int) == 0
    wait_until(lambda: heard, what="the loss told")
    assert heard[0].name == "PybreakerStorage(Broken)"
    assert "the disk is full" in heard[0].reason
    del broken[:]
    wait_until(lambda: len(heard) == 2, what="the storage regained")
    assert heard[1].silent_for >= 3.0
    for stop in stops:
        stop()


def test_a_redis_storage_that_hides_its_errors_closes_nothing(server: RedisProcess) -> None:
    """With Redis gone it says "closed" and has never opened: that is silence, and the circuit stays open."""
    heard: list[Any] = []
    stops = [listen(heard.append, SharedStateLost), listen(heard.append, SharedStateRegained)]
    shared = of_redis(server)
    one = breaker(shared, 60.0)
    one.open(60.0)
    wait_until(lambda: shared.state == "open", what="told")
    server.kill()
    wait_until(lambda: heard, what="the loss told")
    assert one.state is State.OPEN
    server.start()
    wait_until(lambda: len(heard) == 2, what="Redis regained")
    assert one.state is State.OPEN
    wait_until(lambda: shared.state == "open", what="the new Redis told")
    for stop in stops:
        stop()


def test_what_is_no_storage_is_a_sentence() -> None:
    """By what it lacks."""
    with pytest.raises(ConfigError, match="has no state, opened_at"):
        PybreakerStorage(object())
    with pytest.raises(ConfigError, match="poll"):
        PybreakerStorage(pybreaker.CircuitMemoryStorage("closed"), poll=0)
