"""One circuit in a real Redis, for several processes: what is stored, who notices, what happens when Redis is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest
import redis

from resilient.compat.pybreaker import CircuitBreaker, CircuitBreakerError, CircuitRedisStorage
from tests.compat.both import bad, good, tripped
from tests.redis_server import RedisProcess


@pytest.fixture(scope="module")
def running() -> Iterator[RedisProcess]:
    """A Redis of this file's own."""
    with RedisProcess() as server:
        yield server


@pytest.fixture
def client(running: RedisProcess) -> Iterator[redis.Redis]:
    """Connected, and empty."""
    with redis.Redis.from_url(running.url) as connected:
        connected.flushall()
        yield connected


def stored(client: redis.Redis) -> dict[str, str]:
    """Every key with its value."""
    found: dict[str, str] = {}
    for key in client.scan_iter():
        value: Any = client.get(key)
        found[key.decode()] = value.decode()
    return found


def test_two_breakers_share_one_circuit(client: redis.Redis) -> None:
    """What one counts and trips, the other sees; a trial of the other closes it for both."""
    one, other = (
        CircuitBreaker(fail_max=2, state_storage=CircuitRedisStorage("closed", client, namespace="svc"))
        for _ in range(2)
    )
    with pytest.raises(ConnectionError):
        one.call(bad)
    assert other.fail_counter == 1
    with pytest.raises(CircuitBreakerError):
        other.call(bad)
    with pytest.raises(CircuitBreakerError, match="still open"):
        one.call(good)
    client.set("svc:pybreaker:opened_at", int((datetime.now(UTC) - timedelta(minutes=2)).timestamp()))
    assert one.call(good) == "fine"
    assert (other.current_state, other.fail_counter, other.call(good)) == ("closed", 0, "fine")


def test_what_is_stored_is_what_pybreaker_stores(client: redis.Redis) -> None:
    """Processes with pybreaker and with this can share it while a fleet changes over."""
    tripped(pybreaker, CircuitBreaker(fail_max=1, state_storage=CircuitRedisStorage("closed", client)))
    found = stored(client)
    opened_at = int(found.pop("pybreaker:opened_at"))
    assert found == {"pybreaker:state": "open", "pybreaker:fail_counter": "1", "pybreaker:success_counter": "0"}
    assert abs(datetime.now(UTC).timestamp() - opened_at) < 30
    theirs = pybreaker.CircuitBreaker(state_storage=pybreaker.CircuitRedisStorage("closed", client))
    with pytest.raises(pybreaker.CircuitBreakerError):
        theirs.call(good)


def test_the_successes_of_trials_are_counted_there(client: redis.Redis) -> None:
    """Two must succeed; then both counters are zero."""
    breaker = CircuitBreaker(success_threshold=2, state_storage=CircuitRedisStorage("half-open", client))
    breaker.call(good)
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    breaker.call(good)
    assert (breaker.current_state, breaker.success_counter) == ("closed", 0)


@pytest.mark.parametrize("cluster_mode", [False, True])
def test_the_time_of_opening_only_moves_on(client: redis.Redis, cluster_mode: bool) -> None:
    """An earlier one, from a slower process, is not stored."""
    storage = CircuitRedisStorage("open", client, cluster_mode=cluster_mode)
    late = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
    storage.opened_at = late
    storage.opened_at = late - timedelta(seconds=10)
    assert storage.opened_at == late


def test_a_missing_state_is_made_anew_from_the_fallback(client: redis.Redis) -> None:
    """Somebody flushed Redis."""
    breaker = CircuitBreaker(state_storage=CircuitRedisStorage("closed", client, fallback_circuit_state="half-open"))
    client.flushall()
    assert (breaker.state.name, breaker.fail_counter) == ("half-open", 0)
    assert stored(client)["pybreaker:state"] == "half-open"


@pytest.mark.parametrize("fallback", ["closed", "open"])
def test_when_redis_is_gone_the_fallback_holds(fallback: str, caplog: pytest.LogCaptureFixture) -> None:
    """Closed admits, open refuses (pybreaker ends in a RecursionError there); each failure to reach it is logged."""
    caplog.set_level(logging.CRITICAL, logger="pybreaker")
    with RedisProcess() as server, redis.Redis.from_url(server.url) as client:
        breaker = CircuitBreaker(state_storage=CircuitRedisStorage("closed", client, fallback_circuit_state=fallback))
        server.kill()
        caplog.set_level(logging.ERROR, logger="pybreaker")
        if fallback == "closed":
            assert breaker.call(good) == "fine"
        else:
            with pytest.raises(CircuitBreakerError, match="still open"):
                breaker.call(good)
    assert any(record.name == "pybreaker" for record in caplog.records)
