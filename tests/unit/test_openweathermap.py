"""The client of OpenWeatherMap: every answer becomes the weather or a precise error."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from examples.weather.openweathermap import (
    BadAnswerError,
    InvalidKeyError,
    NoAnswerError,
    OpenWeatherMap,
    OpenWeatherMapError,
    ServerFailedError,
    TooManyRequestsError,
    UnknownPlaceError,
)

# The example of https://openweathermap.org/current, shortened by what nobody reads.
DOCUMENTED: dict[str, Any] = {
    "coord": {"lon": 7.367, "lat": 45.133},
    "weather": [{"id": 501, "main": "Rain", "description": "moderate rain", "icon": "10d"}],
    "base": "stations",
    "main": {"temp": 284.2, "feels_like": 282.93, "pressure": 1021, "humidity": 60},
    "visibility": 10000,
    "wind": {"speed": 4.09, "deg": 121, "gust": 3.47},
    "dt": 1726660758,
    "sys": {"country": "IT"},
    "timezone": 7200,
    "id": 3165523,
    "name": "Province of Turin",
    "cod": 200,
}

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> OpenWeatherMap:
    return OpenWeatherMap("k3y", transport=httpx.MockTransport(answer))


def answering(status: int, body: object, headers: dict[str, str] | None = None) -> OpenWeatherMap:
    text = body if isinstance(body, str) else json.dumps(body)
    return client(lambda _: httpx.Response(status, text=text, headers=headers))


def error_of(api: OpenWeatherMap) -> Exception:
    with pytest.raises((OpenWeatherMapError, UnknownPlaceError)) as caught:
        api.current("94107", "us")
    return caught.value


def test_it_asks_as_the_documentation_says() -> None:
    """Place, key and units go into the query of /data/2.5/weather of the real service."""
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json=DOCUMENTED)

    client(answer).current("94107", "us")
    assert (asked[0].scheme, asked[0].host, asked[0].path) == ("https", "api.openweathermap.org", "/data/2.5/weather")
    assert dict(asked[0].params) == {"zip": "94107,us", "appid": "k3y", "units": "metric"}


def test_it_reads_the_documented_answer() -> None:
    """The documented example becomes the conditions that it describes."""
    found = answering(200, DOCUMENTED).current("10010", "it")
    assert (found.place, found.temperature, found.description) == ("Province of Turin", 284.2, "moderate rain")
    assert (found.humidity, found.wind) == (60.0, 4.09)
    assert found.observed_at == datetime(2024, 9, 18, 11, 59, 18, tzinfo=UTC)


@pytest.mark.parametrize(("status", "message"), [(404, "city not found"), (400, "invalid zip code")])
def test_an_unknown_place_is_no_failure_of_the_service(status: int, message: str) -> None:
    """404 and 400 are the user's mistake: not one of the errors that a breaker counts."""
    error = error_of(answering(status, {"cod": str(status), "message": message}))
    assert isinstance(error, UnknownPlaceError)
    assert not isinstance(error, OpenWeatherMapError)
    assert "94107, US" in str(error)


def test_a_refused_key_is_told_to_the_operator_once(caplog: pytest.LogCaptureFixture) -> None:
    """401 raises each time and is logged once, until the key was accepted again."""
    statuses = iter([401, 401, 200, 401])

    def answer(_: httpx.Request) -> httpx.Response:
        status = next(statuses)
        return httpx.Response(status, json=DOCUMENTED if status == 200 else {"cod": 401, "message": "Invalid API key."})

    api = client(answer)
    with caplog.at_level(logging.ERROR):
        assert isinstance(error_of(api), InvalidKeyError)
        assert isinstance(error_of(api), InvalidKeyError)
        assert caplog.text.count("OPENWEATHERMAP_API_KEY") == 1
        api.current("94107", "us")
        error_of(api)
    assert caplog.text.count("OPENWEATHERMAP_API_KEY") == 2
    assert "k3y" not in caplog.text


@pytest.mark.parametrize(("header", "seconds"), [({"Retry-After": "7"}, 7.0), ({}, None), ({"Retry-After": "x"}, None)])
def test_too_many_requests_say_when_to_come_back(header: dict[str, str], seconds: float | None) -> None:
    """429 carries the seconds of Retry-After, or None when there is none that can be read."""
    error = error_of(answering(429, {"cod": 429, "message": "blocked"}, header))
    assert isinstance(error, TooManyRequestsError)
    assert error.retry_after == seconds


def test_a_retry_after_may_be_a_date() -> None:
    """RFC 9110 allows a date, which becomes the seconds until then."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    error = error_of(answering(429, {}, {"Retry-After": date}))
    assert isinstance(error, TooManyRequestsError)
    assert error.retry_after == pytest.approx(100, abs=3)


@pytest.mark.parametrize("status", [500, 502, 503, 302, 403])
def test_other_statuses_are_the_services_failure(status: int) -> None:
    """5xx, and whatever else is no answer, carry the status and what the service said."""
    error = error_of(answering(status, {"cod": str(status), "message": "Internal error"}))
    assert isinstance(error, ServerFailedError)
    assert error.code == status
    assert "Internal error" in str(error)


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.ConnectError, httpx.RemoteProtocolError])
def test_no_answer_keeps_its_cause(kind: type[httpx.TransportError]) -> None:
    """Refused, reset and timed out are one kind, with httpx's own error as the cause."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise kind("broken", request=request)

    error = error_of(client(answer))
    assert isinstance(error, NoAnswerError)
    assert isinstance(error.__cause__, kind)


def without(*path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENTED))
    parent = document
    for name in path[:-1]:
        parent = parent[name]
    del parent[path[-1]]
    return document


@pytest.mark.parametrize(
    "body",
    [
        '{"coord":{"lon":-122.39,"la',
        "<html>maintenance</html>",
        "",
        "[]",
        "null",
        without("main"),
        without("main", "temp"),
        without("weather"),
        without("dt"),
        {**DOCUMENTED, "weather": []},
        {**DOCUMENTED, "main": {"temp": "warm", "humidity": 3}},
        {**DOCUMENTED, "main": {"temp": True, "humidity": 3}},
        {**DOCUMENTED, "dt": 1e30},
        json.dumps(DOCUMENTED).replace("284.2", "NaN"),
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_a_bad_answer(body: object) -> None:
    """Broken JSON, missing fields and impossible values never get further than the client."""
    assert isinstance(error_of(answering(200, body)), BadAnswerError)


def test_the_environment_names_service_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and address come from the environment; an argument wins over the address."""
    monkeypatch.setenv("OPENWEATHERMAP_API_KEY", "from-env")
    monkeypatch.setenv("OPENWEATHERMAP_URL", "http://127.0.0.1:1")
    assert isinstance(error_of(OpenWeatherMap.from_environment()), NoAnswerError)
    assert isinstance(error_of(OpenWeatherMap.from_environment(base_url="http://127.0.0.1:2")), NoAnswerError)
