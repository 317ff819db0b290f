"""A stale cache that processes share, against a real Redis: there, hung, gone, back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from resilient import ConfigError, StaleCache
from resilient.policies.shared_cache import RedisCache
from tests.redis_server import RedisProcess
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    """A Redis of this test's own."""
    with RedisProcess() as running:
        yield running


def weather(place: str) -> dict[str, Any]:
    """One function, known by the same name to every process."""
    if down:
        raise ConnectionError("the API is away")
    return {"place": place, "temperature": 18.5}


down: list[bool] = []


@pytest.fixture(autouse=True)
def up() -> Iterator[None]:
    """The dependency answers unless a test says otherwise."""
    down.clear()
    yield
    down.clear()


def stored(server: RedisProcess) -> int:
    """How many answers Redis holds."""
    with redis.Redis.from_url(server.url) as client:
        return len(list(client.scan_iter("resilient:stale:*")))


def test_a_process_that_never_asked_hands_out_anothers_answer(server: RedisProcess) -> None:
    """Written by one, read by the other when its own call fails; marked with the age that Redis measured."""
    one = StaleCache(shared=RedisCache(server.url))
    other = StaleCache(shared=RedisCache(server.url, timeout=5.0), mark=lambda answer, age: {**answer, "age": age})
    one.call(weather, "Rome")
    wait_until(lambda: stored(server) == 1, what="the answer written")
    down.append(True)
    found = other.call(weather, "Rome")
    assert (found["place"], found["temperature"]) == ("Rome", 18.5)
    assert 0.0 <= found["age"] < 60.0
    with pytest.raises(ConnectionError):
        other.call(weather, "Oslo")


def test_async_calls_read_it_without_stopping_the_loop(server: RedisProcess) -> None:
    """The same for async functions, through a thread."""
    StaleCache(shared=RedisCache(server.url)).call(weather, "Rome")
    wait_until(lambda: stored(server) == 1, what="the answer written")
    other = StaleCache(shared=RedisCache(server.url, timeout=5.0))

    async def aweather(place: str) -> dict[str, Any]:
        raise ConnectionError

    aweather.__module__, aweather.__qualname__ = weather.__module__, weather.__qualname__
    assert asyncio.run(other.acall(aweather, "Rome"))["place"] == "Rome"


def test_answers_leave_redis_when_they_are_too_old(server: RedisProcess) -> None:
    """max_age is the key's time to live, by the server's clock."""
    StaleCache(max_age=120.0, shared=RedisCache(server.url)).call(weather, "Rome")
    wait_until(lambda: stored(server) == 1, what="the answer written")
    with redis.Redis.from_url(server.url) as client:
        (key,) = client.scan_iter("resilient:stale:*")
        left = client.pttl(key)
    assert isinstance(left, int)
    assert 60_000 < left <= 120_000


def test_a_redis_that_is_gone_is_an_empty_cache_told_once(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go on, own answers serve, one WARNING; when it is back so is the sharing."""
    caplog.set_level(logging.INFO, "resilient.test")
    caplog.set_level(logging.INFO, "resilient")
    shared = RedisCache(server.url)
    cache = StaleCache(shared=shared)
    server.kill()
    assert cache.call(weather, "Rome")["place"] == "Rome"
    wait_until(lambda: [r for r in caplog.records if "does not answer" in r.message], what="the warning")
    down.append(True)
    assert cache.call(weather, "Rome")["place"] == "Rome"
    with pytest.raises(ConnectionError):
        cache.call(weather, "Oslo")
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
    server.start()
    down.clear()
    cache.call(weather, "Bern")
    wait_until(lambda: stored(server) == 1, what="the answer written to the new Redis")
    assert any("answers again" in record.message for record in caplog.records)


def test_a_redis_that_hangs_costs_a_failing_call_no_more_than_its_timeout(server: RedisProcess) -> None:
    """SIGSTOP: the read gives up, a success never notices."""
    process = server._process
    assert process is not None
    cache = StaleCache(shared=RedisCache(server.url, timeout=0.05))
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert cache.call(weather, "Rome")["place"] == "Rome"
        down.append(True)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            cache.call(weather, "Oslo")
        assert time.monotonic() - started < 5.0  # hung for ever without the limit
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_what_can_not_be_written_or_read_is_nobodys_failure(server: RedisProcess) -> None:
    """A value JSON does not know is not shared; garbage under a key is no answer."""
    cache = StaleCache(shared=RedisCache(server.url, timeout=5.0))
    assert isinstance(cache.call(lambda place: object(), "Rome"), object)
    cache.call(weather, "Rome")
    wait_until(lambda: stored(server) == 1, what="the writer going on")
    with redis.Redis.from_url(server.url) as client:
        (key,) = client.scan_iter("resilient:stale:*")
        client.set(key, b"\xffgarbage", px=60_000)
    down.append(True)
    with pytest.raises(ConnectionError):
        StaleCache(shared=RedisCache(server.url, timeout=5.0)).call(weather, "Rome")


def test_a_bad_url_is_a_sentence() -> None:
    """Found at construction."""
    with pytest.raises(ConfigError, match="is no Redis URL"):
        RedisCache("http://localhost")
    with pytest.raises(ConfigError, match="timeout"):
        RedisCache("redis://localhost", timeout=0)
