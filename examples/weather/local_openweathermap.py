"""A stand-in for OpenWeatherMap: a dozen places, the real formats of answers and errors, and moods on demand.

    python -m examples.weather.local_openweathermap --port 8080
    curl 'http://127.0.0.1:8080/data/2.5/weather?zip=94107,us&appid=demo&units=metric'
    curl -d '{"mode": "slow", "seconds": 3}' http://127.0.0.1:8080/control

The temperature drifts a little with every answer, so that a fresh answer can be told from a remembered one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from examples.support.serving import listen_or_exit, serve

DEMO_KEY = "demo"
MODES = ("ok", "slow", "hang", "500", "429", "refuse", "garbage", "missing")
_SECONDS = {"slow": 0.5, "hang": 30.0, "429": 1.0}  # to wait, or to ask the caller to stay away


@dataclass(frozen=True, slots=True)
class City:
    """A place on the map; temperature in °C."""

    name: str
    country: str
    lat: float
    lon: float
    temperature: float
    condition: tuple[int, str, str]
    humidity: int
    wind: float
    timezone: int


_INVALID_KEY = "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info."
_TOO_MANY = (
    "Your account is temporary blocked due to exceeding of requests limitation of your subscription type."
    " Please choose the proper subscription https://openweathermap.org/price"
)
_CLEAR, _CLOUDS, _RAIN = (800, "Clear", "clear sky"), (803, "Clouds", "broken clouds"), (500, "Rain", "light rain")
_MIST, _FEW = (701, "Mist", "mist"), (801, "Clouds", "few clouds")
CITIES = {
    "94107,us": City("San Francisco", "US", 37.7697, -122.3933, 14.2, _MIST, 81, 4.6, -28800),
    "10001,us": City("New York", "US", 40.7484, -73.9967, 9.8, _CLEAR, 52, 5.1, -18000),
    "60601,us": City("Chicago", "US", 41.8858, -87.6229, 4.4, _CLOUDS, 63, 8.2, -21600),
    "33101,us": City("Miami", "US", 25.7743, -80.1937, 27.1, _FEW, 70, 3.6, -18000),
    "20095,de": City("Hamburg", "DE", 53.5503, 10.0007, 7.9, _RAIN, 88, 6.7, 3600),
    "10115,de": City("Berlin", "DE", 52.5323, 13.3846, 6.3, _CLOUDS, 79, 4.1, 3600),
    "E14,gb": City("London", "GB", 51.4969, -0.0087, 9.1, _RAIN, 85, 5.5, 0),
    "75001,fr": City("Paris", "FR", 48.8592, 2.3417, 10.4, _CLOUDS, 74, 3.9, 3600),
    "00184,it": City("Rome", "IT", 41.8955, 12.4939, 16.8, _CLEAR, 58, 2.4, 3600),
    "1011,nl": City("Amsterdam", "NL", 52.3731, 4.9041, 8.6, _RAIN, 90, 7.3, 3600),
    "100-0001,jp": City("Tokyo", "JP", 35.6837, 139.7525, 15.5, _FEW, 55, 3.1, 32400),
    "2000,au": City("Sydney", "AU", -33.8677, 151.2072, 22.7, _CLEAR, 61, 4.9, 39600),
}


@dataclass(slots=True)
class Mood:
    """How the service behaves now, and how often it was asked for weather."""

    mode: str = "ok"
    seconds: float = 0.0
    requests: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, mode: str, seconds: float) -> None:
        """Behave like that from now on; calls that hang are answered."""
        self.mode, self.seconds = mode, seconds
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait(self) -> None:
        """Keep the caller waiting, but not longer than this mood lasts."""
        try:
            await asyncio.wait_for(self.changed.wait(), self.seconds)
        except TimeoutError:
            return


def make_app(*, key: str = DEMO_KEY, mood: Mood | None = None) -> Starlette:
    """The service, which takes this API key and no other."""
    mood = mood or Mood()
    drift = itertools.count(1)

    async def weather(request: Request) -> Response:
        mood.requests += 1
        asked = request.query_params
        if mood.mode in {"slow", "hang"}:
            await mood.wait()
        if mood.mode in _FAILURES:
            return _FAILURES[mood.mode](mood)
        if asked.get("appid") != key:
            return JSONResponse({"cod": 401, "message": _INVALID_KEY}, 401)
        zip_code, _, country = asked.get("zip", "").partition(",")
        if not zip_code:
            return JSONResponse({"cod": "400", "message": "Nothing to geocode"}, 400)
        city = CITIES.get(f"{zip_code.upper()},{country.lower() or 'us'}")
        if city is None:
            return JSONResponse({"cod": "404", "message": "city not found"}, 404)
        document = _document(city, asked.get("units", "standard"), next(drift))
        if mood.mode == "missing":
            del document["main"]
        return JSONResponse(document)

    async def control(request: Request) -> Response:
        if request.method == "POST":
            try:
                wanted = await request.json()
                mode = str(wanted["mode"])
                seconds = float(wanted.get("seconds", _SECONDS.get(mode, 0.0)))
            except (LookupError, TypeError, ValueError, AttributeError):
                mode, seconds = "", 0.0
            if mode not in MODES:
                return JSONResponse({"error": f'send {{"mode": …}}, one of {", ".join(MODES)}'}, 400)
            mood.change(mode, seconds)
        return JSONResponse({"mode": mood.mode, "seconds": mood.seconds, "requests": mood.requests})

    return Starlette(
        routes=[Route("/data/2.5/weather", weather), Route("/control", control, methods=["GET", "POST"])],
    )


def protocol_of(mood: Mood) -> type[H11Protocol]:
    """The HTTP of uvicorn, which can hang up without a word too: ASGI applications cannot."""

    class Moody(H11Protocol):
        def data_received(self, data: bytes) -> None:
            if mood.mode == "refuse" and b" /data/2.5/weather" in data:
                mood.requests += 1
                self.transport.abort()
            else:
                super().data_received(data)

    return Moody


_FAILURES: dict[str, Callable[[Mood], Response]] = {
    "500": lambda _: JSONResponse({"cod": "500", "message": "Internal error"}, 500),
    "429": lambda mood: JSONResponse({"cod": 429, "message": _TOO_MANY}, 429, {"Retry-After": f"{mood.seconds:.0f}"}),
    "garbage": lambda _: Response('{"coord":{"lon":-122.39,"la', media_type="application/json"),
}


def _document(city: City, units: str, answer: int) -> dict[str, Any]:
    """The answer as https://openweathermap.org/current documents it."""
    celsius = city.temperature + 0.1 * (answer % 40)
    temperature = round({"metric": celsius, "imperial": celsius * 9 / 5 + 32}.get(units, celsius + 273.15), 2)
    wind = round(city.wind * 2.23694, 2) if units == "imperial" else city.wind
    now = int(time.time())
    number, main, description = city.condition
    return {
        "coord": {"lon": city.lon, "lat": city.lat},
        "weather": [{"id": number, "main": main, "description": description, "icon": f"{number // 100:02}d"}],
        "base": "stations",
        "main": {
            "temp": temperature,
            "feels_like": temperature,
            "temp_min": temperature,
            "temp_max": temperature,
            "pressure": 1015,
            "humidity": city.humidity,
        },
        "visibility": 10000,
        "wind": {"speed": wind, "deg": 270},
        "clouds": {"all": 0 if main == "Clear" else 75},
        "dt": now,
        "sys": {"type": 1, "id": 5122, "country": city.country, "sunrise": now - 14400, "sunset": now + 14400},
        "timezone": city.timezone,
        "id": int(abs(city.lat) * 1e4),
        "name": city.name,
        "cod": 200,
    }


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    parser.add_argument("--key", default=DEMO_KEY, help="the API key it takes (default: %(default)s)")
    arguments = parser.parse_args()
    mood = Mood()
    app = make_app(key=arguments.key, mood=mood)
    serve(app, listen_or_exit(parser, arguments.port), name="OpenWeatherMap (local)", http=protocol_of(mood))


if __name__ == "__main__":
    main()
