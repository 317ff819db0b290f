"""The weather producer: asks OpenWeatherMap, and has a good enough answer when OpenWeatherMap has none.

    python -m examples.weather.producer --registry eureka://localhost:8761

What the library does here, in the order in which a request meets it:

1. `Registry.register` lists this process under the name `producer` with the port that it really got, renews the entry,
   and takes it out again however the process ends. Consumers ask for `http://producer/…` and need no address.
2. `@command` stands between us and OpenWeatherMap. Outermost the fallbacks, then a time limit, then a circuit breaker:
   a service that hangs costs each user one second at most, and after a few of those nobody waits any more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.support.serving import HOST, address_of, listen_or_exit, log_to_stderr, serve
from examples.weather.openweathermap import OpenWeatherMap, TooManyRequestsError, UnknownPlaceError
from examples.weather.place import BadPlaceError, Place
from examples.weather.report import WeatherReport, empty, out_of_date
from resilient import CircuitBreaker, Command, ConfigError, Fallback, StaleCache, command
from resilient.discovery import Registry
from resilient.policies.shared_cache import RedisCache

SERVICE = "producer"
TIMEOUT = 1.0  # seconds that a user waits for OpenWeatherMap; it takes 0.1 s when it is well
MAX_AGE = 3600.0  # seconds: yesterday's weather is no weather
LONGEST_PAUSE = 60.0  # seconds that we stay away at most, whatever a Retry-After says

CurrentWeather: TypeAlias = Callable[[str, str], WeatherReport]


def is_failure(error: Exception) -> bool:
    """Whether OpenWeatherMap failed. Not when the place is wrong: then it answered, and no fallback knows better."""
    return not isinstance(error, UnknownPlaceError)


def guarded(api: OpenWeatherMap, *, timeout: float = TIMEOUT, shared: RedisCache | None = None) -> CurrentWeather:
    """The weather from `api`, or else the last known one marked as old, or else an empty report.

    Args:
        api: the client of OpenWeatherMap.
        timeout: seconds that a call may take, default 1.0.
        shared: a cache that all producers share, by choice: then one can hand out what another has learnt.
    """
    circuit = CircuitBreaker("openweathermap", consecutive_failures=5, open_duration=2.0, max_open_duration=10.0)
    last_known = StaleCache(max_age=MAX_AGE, mark=out_of_date, shared=shared, name="last-known")  # its name in Redis

    @command("openweathermap", timeout=timeout, breaker=circuit, on=is_failure, fallback=Fallback(last_known, empty))
    def weather(zip_code: str, country: str) -> WeatherReport:
        try:
            now = api.current(zip_code, country)
        except TooManyRequestsError as error:
            if error.retry_after:  # we were told when to come back: until then we do not even try
                circuit.open(min(error.retry_after, LONGEST_PAUSE))
            raise
        return WeatherReport(
            zip_code=zip_code,
            country=country,
            place=now.place,
            temperature=now.temperature,
            description=now.description,
            humidity=now.humidity,
            wind=now.wind,
            observed_at=now.observed_at,
        )

    return weather


def make_app(weather: CurrentWeather, *, me: str) -> Starlette:
    """The producer as a web application.

    Args:
        weather: a guarded function, as `guarded` makes it.
        me: this producer's address, which goes into each answer.
    """
    circuit = Command.of(weather).breaker
    assert circuit is not None

    def answer(request: Request) -> Response:  # no `async`: starlette runs it in a thread, as the client blocks
        try:
            place = Place.parse(request.query_params.get("zip", ""), request.query_params.get("country", ""))
        except BadPlaceError as error:
            return JSONResponse({"error": str(error), "problems": error.problems}, 400)
        try:
            report = weather(place.zip_code, place.country)
        except UnknownPlaceError as error:
            return JSONResponse({"error": str(error)}, 404)
        return JSONResponse(replace(report, producer=me, circuit=circuit.state.value).to_json())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "UP", "producer": me})

    async def state(_: Request) -> Response:
        now = circuit.snapshot()
        counts = {"succeeded": now.successes, "failed": now.failed, "rejected": now.rejected}
        return JSONResponse({"producer": me, "circuit": now.state.value, "retry_after": now.retry_after, **counts})

    return Starlette(routes=[Route("/weather", answer), Route("/health", health), Route("/state", state)])


def redis_cache(url: str) -> RedisCache:
    """The last known weather in Redis, as JSON."""
    return RedisCache(
        url,
        prefix="weather:",
        dumps=lambda report: json.dumps(report.to_json()).encode(),
        loads=lambda text: WeatherReport.from_json(json.loads(text)),
    )


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--registry", help="such as eureka://localhost:8761 (default: $RESILIENT_DISCOVERY)")
    parser.add_argument("--openweathermap", metavar="URL", help="default: $OPENWEATHERMAP_URL, else the real service")
    parser.add_argument("--redis", metavar="URL", help="share the last known weather with the other producers")
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    arguments = parser.parse_args()
    log_to_stderr()

    try:
        registry = Registry.from_url(arguments.registry)
        shared = redis_cache(arguments.redis) if arguments.redis else None
    except ConfigError as error:
        parser.error(str(error))
    weather = guarded(OpenWeatherMap.from_environment(base_url=arguments.openweathermap), shared=shared)
    listener = listen_or_exit(parser, arguments.port)
    app = make_app(weather, me=address_of(listener))
    with registry.register(SERVICE, host=HOST, port=listener.getsockname()[1], sigterm=True):
        serve(app, listener, name=SERVICE)


if __name__ == "__main__":
    main()
