"""The weather producer in this process, against the local OpenWeatherMap."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
import redis

from examples.weather.local_openweathermap import DEMO_KEY
from examples.weather.openweathermap import OpenWeatherMap
from examples.weather.producer import guarded, make_app, redis_cache
from examples.weather.report import CAUTION
from resilient import Command, State, names
from resilient.discovery import Discovery
from tests.examples.weather_servers import LocalApi, local_openweathermap
from tests.redis_server import RedisProcess
from tests.servers import RegistryProcess
from tests.waiting import wait_until

ME = "127.0.0.1:4711"
PLACE = {"zip": "94107"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalApi]:
    with local_openweathermap() as running:
        yield running


@pytest.fixture
def api(server: LocalApi) -> Iterator[OpenWeatherMap]:
    server.mood("ok")
    with closing(OpenWeatherMap(DEMO_KEY, base_url=server.url)) as client:
        yield client
    server.mood("ok")


@pytest.fixture
async def producer(api: OpenWeatherMap) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(guarded(api, timeout=0.5), me=ME))
    async with httpx.AsyncClient(transport=transport, base_url="http://producer") as client:
        yield client


async def weather(producer: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    answer = await producer.get("/weather", params=query or PLACE)
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


async def test_it_answers_with_a_small_json_object(producer: httpx.AsyncClient) -> None:
    """The answer has what a page needs, and says who gave it and that it is fresh."""
    found = await weather(producer, zip=" e14 ", country="GB")
    assert (found["zip_code"], found["country"], found["place"]) == ("E14", "gb", "London")
    assert (found["message"], found["age"], found["producer"], found["circuit"]) == ("", 0.0, ME, "closed")
    assert set(found) == {
        *("zip_code", "country", "place", "temperature", "description", "humidity", "wind", "observed_at"),
        *("message", "age", "producer", "circuit"),
    }


@pytest.mark.parametrize("mode", ["500", "garbage", "missing", "refuse", "hang", "429"])
async def test_every_failure_gets_the_last_known_weather(
    producer: httpx.AsyncClient, server: LocalApi, mode: str
) -> None:
    """Whatever goes wrong at OpenWeatherMap, the last answer for that place comes back, marked as old."""
    fresh = await weather(producer)
    server.mood(mode)
    old = await weather(producer)
    assert old["message"] == CAUTION == "CAUTION - Response out of date!"
    assert (old["temperature"], old["observed_at"]) == (fresh["temperature"], fresh["observed_at"])


async def test_an_answer_is_kept_for_its_own_place_only(producer: httpx.AsyncClient, server: LocalApi) -> None:
    """Where nobody asked before, a failure gets an empty answer: never another place's weather."""
    await weather(producer)
    server.mood("500")
    unknown = await weather(producer, zip="94107", country="de")
    assert (unknown["place"], unknown["temperature"], unknown["observed_at"]) == ("", None, None)
    assert unknown["message"] == ""


async def test_an_unknown_place_is_the_users_mistake(producer: httpx.AsyncClient) -> None:
    """404 with a sentence, however often: it trips no circuit and gets no fallback."""
    await weather(producer)
    for _ in range(8):
        answer = await producer.get("/weather", params={"zip": "99999"})
        assert answer.status_code == 404
        assert "99999" in answer.json()["error"]
    state = (await producer.get("/state")).json()
    assert (state["circuit"], state["failed"], state["succeeded"]) == ("closed", 0, 9)


@pytest.mark.parametrize(
    ("query", "field"), [({}, "zip"), ({"zip": "1"}, "zip"), ({"zip": "94107", "country": "usa"}, "country")]
)
async def test_a_bad_place_is_refused(
    producer: httpx.AsyncClient, server: LocalApi, query: dict[str, str], field: str
) -> None:
    """What can be no place is answered with 400 and never reaches OpenWeatherMap."""
    before = server.requests
    answer = await producer.get("/weather", params=query)
    assert answer.status_code == 400
    assert field in answer.json()["problems"]
    assert server.requests == before


async def test_a_wrong_key_counts_and_falls_back(server: LocalApi, caplog: pytest.LogCaptureFixture) -> None:
    """401 is a failure of ours: users get the fallback, the circuit opens, the log says once what to do."""
    with closing(OpenWeatherMap("wrong", base_url=server.url)) as api:
        transport = httpx.ASGITransport(make_app(guarded(api), me=ME))
        async with httpx.AsyncClient(transport=transport, base_url="http://producer") as producer:
            for _ in range(6):
                assert (await weather(producer))["observed_at"] is None
            assert (await producer.get("/state")).json()["circuit"] == "open"
    assert caplog.text.count("set OPENWEATHERMAP_API_KEY") == 1


async def test_an_account_that_is_blocked_counts_and_falls_back() -> None:
    """403 for every place is no mistake of a user, although it is a 4xx: it counts, and users get the fallback."""
    blocked = httpx.MockTransport(lambda _: httpx.Response(403, json={"cod": 403, "message": "blocked"}))
    with closing(OpenWeatherMap(DEMO_KEY, transport=blocked)) as api:
        transport = httpx.ASGITransport(make_app(guarded(api), me=ME))
        async with httpx.AsyncClient(transport=transport, base_url="http://producer") as producer:
            assert (await weather(producer))["observed_at"] is None
            assert (await producer.get("/state")).json()["failed"] == 1


async def test_a_service_that_hangs_is_left_alone(producer: httpx.AsyncClient, server: LocalApi) -> None:
    """After five users have waited for nothing, the circuit opens and nobody waits or asks any more."""
    await weather(producer)
    server.mood("hang")
    waited = await asyncio.gather(*(weather(producer) for _ in range(5)))
    asked = server.requests
    immediate = await weather(producer)
    assert [one["message"] for one in (*waited, immediate)] == [CAUTION] * 6
    assert immediate["circuit"] == "open"
    assert server.requests == asked


async def test_retry_after_opens_the_circuit_for_that_long(producer: httpx.AsyncClient, server: LocalApi) -> None:
    """One 429 with Retry-After is enough: until then OpenWeatherMap is not asked."""
    await weather(producer)
    server.mood("429", seconds=30)
    await weather(producer)
    state = (await producer.get("/state")).json()
    assert state["circuit"] == "open"
    assert 25 < state["retry_after"] <= 30
    asked = server.requests
    assert (await weather(producer))["message"] == CAUTION
    assert server.requests == asked


async def test_health_says_who_it_is(producer: httpx.AsyncClient) -> None:
    """A producer that runs says so, whatever OpenWeatherMap does."""
    assert (await producer.get("/health")).json() == {"status": "UP", "producer": ME}


def test_producers_can_share_what_they_know(server: LocalApi, api: OpenWeatherMap) -> None:
    """With Redis, a producer that never had an answer hands out what another one learnt."""
    with RedisProcess() as cache:
        learnt = guarded(api, shared=redis_cache(cache.url))("20095", "de")
        with redis.Redis.from_url(cache.url) as client:
            wait_until(lambda: client.keys("weather:*"), what="the answer in Redis")
        server.mood("500")
        names.forget()  # the other producer is another process
        other = guarded(api, shared=redis_cache(cache.url))
        found = other("20095", "de")
        assert (found.place, found.temperature, found.message) == ("Hamburg", learnt.temperature, CAUTION)
        assert found.observed_at == learnt.observed_at

        cache.kill()
        assert not other("94107", "us").known  # no Redis is no drama


def test_the_command_is_what_the_page_says(api: OpenWeatherMap) -> None:
    """The command names its layers: last known weather, then nothing, then the limit and the circuit."""
    command = Command.of(guarded(api))
    assert command.breaker is not None
    assert command.breaker.state is State.CLOSED
    text = "\n".join(command.explain().layers)
    places = [text.index(word) for word in ("StaleCache", "empty", "Timeout", "CircuitBreaker")]
    assert places == sorted(places)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.weather.producer", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_is_listed_until_it_is_stopped(number: signal.Signals) -> None:
    """It registers under `producer` with the port that it got, and leaves when it is told to stop."""
    with (
        RegistryProcess() as registry,
        Discovery.from_url(f"{registry.url}?fetch_interval=0.1&renew_interval=0.5&lease=2") as discovery,
        running("--registry", registry.url) as process,
    ):
        found = discovery.wait("producer", timeout=15.0)[0]
        assert process.stdout is not None
        assert process.stdout.readline() == f"producer listening on http://127.0.0.1:{found.port}\n"
        assert httpx.get(f"http://127.0.0.1:{found.port}/health", trust_env=False).json()["status"] == "UP"
        process.send_signal(number)
        process.wait(10.0)
        gone: Callable[[], bool] = lambda: not discovery.instances("producer")
        wait_until(gone, what="the producer leaving the registry")


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(["--registry", "eurrka://x"], "eurrka://"), ([], "RESILIENT_DISC")]
)
def test_a_bad_argument_is_one_sentence(arguments: list[str], sentence: str) -> None:
    """A registry that cannot be is refused at the start, without a traceback."""
    with running(*arguments) as process:
        _, errors = process.communicate(timeout=15.0)
    assert process.returncode == 2
    assert sentence in errors
    assert "Traceback" not in errors
