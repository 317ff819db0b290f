"""The local OpenWeatherMap answers in the real one's formats, and misbehaves when told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from examples.weather.local_openweathermap import CITIES, DEMO_KEY
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
from tests.examples.weather_servers import LocalApi, local_openweathermap


@pytest.fixture(scope="module")
def server() -> Iterator[LocalApi]:
    with local_openweathermap() as running:
        yield running


@pytest.fixture
def api(server: LocalApi) -> Iterator[OpenWeatherMap]:
    server.mood("ok")
    client = OpenWeatherMap(DEMO_KEY, base_url=server.url, timeout=0.3)
    yield client
    server.mood("ok")
    client.close()


@pytest.mark.parametrize("place", CITIES)
def test_it_knows_a_dozen_places(api: OpenWeatherMap, place: str) -> None:
    """Each place of its map has weather that the client can read."""
    zip_code, country = place.split(",")
    found = api.current(zip_code, country)
    assert found.place == CITIES[place].name
    assert found.temperature == pytest.approx(CITIES[place].temperature, abs=4.1)


def test_a_fresh_answer_can_be_recognised(api: OpenWeatherMap) -> None:
    """No two answers in a row have the same temperature."""
    temperatures = [api.current("94107", "us").temperature for _ in range(5)]
    assert all(one != next_one for one, next_one in pairwise(temperatures))


@pytest.mark.parametrize(("units", "temperature"), [("standard", 287), ("metric", 14), ("imperial", 57)])
def test_it_converts_units(api: OpenWeatherMap, server: LocalApi, units: str, temperature: float) -> None:
    """Kelvin by default, Celsius and Fahrenheit when asked."""
    query = {"zip": "94107,us", "appid": DEMO_KEY, "units": units}
    main = server.control.get("/data/2.5/weather", params=query).json()["main"]
    assert main["temp"] == pytest.approx(temperature, abs=8)


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ({"zip": "99999,us", "appid": DEMO_KEY}, 404, {"cod": "404", "message": "city not found"}),
        ({"appid": DEMO_KEY}, 400, {"cod": "400", "message": "Nothing to geocode"}),
        (
            {"zip": "94107,us"},
            401,
            {
                "cod": 401,
                "message": "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info.",
            },
        ),
    ],
)
def test_its_errors_are_the_documented_ones(
    api: OpenWeatherMap, server: LocalApi, query: dict[str, str], status: int, body: dict[str, object]
) -> None:
    """Status and body are those of the real service, down to the type of `cod`."""
    answer = server.control.get("/data/2.5/weather", params=query)
    assert (answer.status_code, answer.json()) == (status, body)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("500", ServerFailedError),
        ("429", TooManyRequestsError),
        ("garbage", BadAnswerError),
        ("missing", BadAnswerError),
        ("refuse", NoAnswerError),
        ("hang", NoAnswerError),
    ],
)
def test_its_moods_are_what_the_client_calls_them(
    api: OpenWeatherMap, server: LocalApi, mode: str, error: type[OpenWeatherMapError]
) -> None:
    """Each mood of the control endpoint reaches the client as the error of that kind."""
    server.mood(mode)
    with pytest.raises(error):
        api.current("94107", "us")


def test_too_many_requests_come_with_retry_after(api: OpenWeatherMap, server: LocalApi) -> None:
    """The seconds of the mood are what Retry-After says."""
    server.mood("429", seconds=7)
    with pytest.raises(TooManyRequestsError) as caught:
        api.current("94107", "us")
    assert caught.value.retry_after == 7.0


def test_slow_is_late_and_good(server: LocalApi) -> None:
    """A slow service answers after its seconds; patience is rewarded."""
    server.mood("slow", seconds=0.1)
    answer = server.control.get("/data/2.5/weather", params={"zip": "94107,us", "appid": DEMO_KEY})
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() >= 0.1


def test_wrong_key_and_unknown_place_are_told_apart(server: LocalApi) -> None:
    """A wrong key is refused before the place is looked at."""
    server.mood("ok")
    for key, error in (("wrong", InvalidKeyError), (DEMO_KEY, UnknownPlaceError)):
        with closing(OpenWeatherMap(key, base_url=server.url)) as api, pytest.raises(error):
            api.current("99999", "us")


@pytest.mark.parametrize("body", ["[]", "{", '{"mode": "furious"}', '{"mode": "slow", "seconds": "x"}'])
def test_control_refuses_what_it_does_not_know(api: OpenWeatherMap, server: LocalApi, body: str) -> None:
    """A bad command is answered with 400 and the modes that there are, and changes nothing."""
    answer = server.control.post("/control", content=body)
    assert answer.status_code == 400
    assert "refuse, garbage" in answer.json()["error"]
    assert server.control.get("/control").json()["mode"] == "ok"
