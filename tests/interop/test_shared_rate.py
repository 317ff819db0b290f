"""A rate limit that processes share, against a real Redis."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import ConfigError, RateLimitedError
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.shared_rate import SharedRateLimiter
from resilient.testing import VirtualClock
from tests.redis_server import RedisProcess


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with RedisProcess() as running:
        yield running


def url(server: RedisProcess) -> str:
    return server.url.replace("unix://", "redis+unix://")


async def aone() -> int:
    return 1


def test_all_who_share_a_name_share_the_limit(server: RedisProcess) -> None:
    """Two objects, as two processes have, in both colours: together they admit `limit` calls in `per` seconds."""
    one = SharedRateLimiter(5, per=60, storage=url(server), name="maps")
    with pytest.warns(UserWarning, match="shares nothing"):
        two = SharedRateLimiter(5, per=60, storage=url(server), name="maps")

    async def both() -> int:
        found = 0
        for _ in range(2):
            for limiter in (one, two):
                found += await limiter.acall(aone)
        return found

    assert one.call(lambda: 1) == 1
    assert asyncio.run(both()) == 4
    for limiter in (one, two):
        with pytest.raises(RateLimitedError) as caught:
            limiter.call(lambda: 1)
        assert caught.value.retry_after is not None
        assert 50 < caught.value.retry_after <= 60.1
        with pytest.raises(RateLimitedError):
            asyncio.run(limiter.acall(aone))


def test_a_store_that_is_gone_refuses_nobody(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Calls go on by the local gate's rules, the store is asked once a second, one WARNING and one INFO are written."""
    with RedisProcess() as server:
        local = RateLimiter(2, per=60.0, clock=clock)
        limiter = SharedRateLimiter(1, per=60, storage=url(server), name="gone", local=local, clock=clock)
        assert limiter.call(lambda: 1) == 1
        server.kill()
        with caplog.at_level(logging.INFO, "resilient"):
            assert limiter.call(lambda: 1) == 1
            assert asyncio.run(limiter.acall(aone)) == 1
            with pytest.raises(RateLimitedError):
                limiter.call(lambda: 1)
            clock.advance(1.0)
            with pytest.raises(RateLimitedError):
                asyncio.run(limiter.acall(aone))
            server.start()
            limiter.reset()
            assert limiter.call(lambda: 1) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "'rate_limiter' decides until it does" in caplog.text


def test_without_a_local_gate_all_are_admitted(caplog: pytest.LogCaptureFixture) -> None:
    """A store that never was there delays the first call only."""
    limiter = SharedRateLimiter(1, storage="redis://127.0.0.1:1/0", name="never")
    assert [limiter.call(lambda: 1) for _ in range(3)] == [1, 1, 1]
    assert "all calls are admitted" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"limit": 0}, "limit"),
        ({"per": 0.5}, "per"),
        ({"name": ""}, "name"),
        ({"storage": "nowhere://secret@host"}, "storage"),
        ({"storage": None}, "storage"),
        ({"local": 5}, "local"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments: dict[str, Any], path: str) -> None:
    """The error names the argument, and no password."""
    given: dict[str, Any] = {"limit": 1, "storage": "memory://", "name": "x", **arguments}
    with pytest.raises(ConfigError) as caught:
        SharedRateLimiter(given.pop("limit"), **given)
    assert caught.value.path == path
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits the error says what to install."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "limits":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"resilient-patterns\[limits\]"):
        SharedRateLimiter(1, storage="memory://", name="x")


def test_it_explains_itself() -> None:
    """The sentence and the repr."""
    limiter = SharedRateLimiter(100, per=60, storage="memory://", name="maps")
    assert repr(limiter) == "SharedRateLimiter(100, per=60, name='maps')"
    assert limiter.describe() == "SharedRateLimiter 'maps': 100 calls per 60 s, all processes"
