"""The weather consumer: a web page that asks any producer, and always has something to show.

    python -m examples.weather.consumer --registry eureka://localhost:8761

What the library does here:

1. `AsyncResilientTransport` turns `http://producer/…` into the address of a producer that lives: it asks the registry
   who is there, takes them in turn, and tries another one when a connection fails.
2. Three commands around the same call show three ways to deal with a failure. *Fail fast*: the error, within 100 ms.
   *Fail silent*: an empty answer. *Custom fallback*, for people: the last weather that this page has seen, marked as
   old, or else a friendly word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.support.serving import listen_or_exit, log_to_stderr, serve
from examples.weather.pages.rendering import Behind, Form, page, stylesheet
from examples.weather.place import BadPlaceError, Place
from examples.weather.report import WeatherReport, empty, out_of_date
from resilient import CircuitBreaker, Command, ConfigError, Fallback, RejectedError, StaleCache, command
from resilient.discovery import Discovery
from resilient.transport import AsyncResilientTransport

PATIENCE = 3.0  # seconds for a person; a producer answers within one, whatever OpenWeatherMap does
NO_PATIENCE = 0.06  # seconds for a program: with the way there and back an error comes within 100 ms
MAX_AGE = 3600.0  # seconds that old weather is worth showing

Ask: TypeAlias = Callable[[str, str], Awaitable[WeatherReport]]


def remembered(report: WeatherReport, age: float) -> WeatherReport:
    """`report` marked as old, and as told by no producer but by ourselves."""
    return replace(out_of_date(report, age), producer="", circuit="")


def make_app(http: httpx.AsyncClient, discovery: Discovery) -> Starlette:
    """The consumer as a web application.

    Args:
        http: a client whose transport knows where `http://producer` is.
        discovery: who is there, for the page at /state.
    """

    async def ask(zip_code: str, country: str) -> WeatherReport:
        response = await http.get("http://producer/weather", params={"zip": zip_code, "country": country})
        response.raise_for_status()  # 404 is no failure: the library knows that it is the caller's mistake
        return WeatherReport.from_json(response.json())

    # A producer that knows nothing answers with an empty report; what we have seen ourselves is better than that.
    last_seen = Fallback(StaleCache(max_age=MAX_AGE, mark=remembered), empty, on_result=lambda report: not report.known)
    circuit = CircuitBreaker("weather", open_duration=2.0, max_open_duration=10.0)

    fallback: Ask = command("weather", timeout=PATIENCE, breaker=circuit, fallback=last_seen)(ask)
    fail_fast: Ask = command("weather-strict", timeout=NO_PATIENCE)(ask)
    fail_silent: Ask = command("weather-silent", timeout=NO_PATIENCE, fallback=empty)(ask)

    def show(weather: Ask) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await _answer(request, weather)

        return answer

    async def search(request: Request) -> Response:
        return page(request, "search.html", Form())

    async def state(_: Request) -> Response:
        producers = [f"{instance.host}:{instance.port}" for instance in discovery.instances("producer")]
        circuits = {Command.of(weather).name: _circuit(weather) for weather in (fallback, fail_fast, fail_silent)}
        return JSONResponse({"circuits": circuits, "producers": sorted(producers)})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "UP"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with discovery, http:
            yield

    return Starlette(
        routes=[
            Route("/", search),
            Route("/weather", show(fallback)),
            Route("/weather/strict", show(fail_fast)),
            Route("/weather/silent", show(fail_silent)),
            Route("/style.css", stylesheet),
            Route("/state", state),
            Route("/health", health),
        ],
        exception_handlers={404: _no_such_page, 500: _broken},
        lifespan=lifespan,
    )


async def _answer(request: Request, weather: Ask) -> Response:
    form = Form(request.query_params.get("zip", ""), request.query_params.get("country", ""))
    try:
        place = Place.parse(form.zip_code, form.country)
    except BadPlaceError as error:
        return page(request, "search.html", form, status=400, error=str(error), problems=error.problems)
    started = time.perf_counter()
    try:
        report = await weather(place.zip_code, place.country)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            return _unavailable(request, form, error)
        sentence = f"We know no place with the code {place.zip_code} in {place.country.upper()}."
        return page(request, "unknown.html", form, status=404, error=sentence)
    except Exception as error:  # fail fast: whatever it is, the caller learns it at once
        return _unavailable(request, form, error)
    behind = Behind(report.producer, report.circuit, _circuit(weather), 1000 * (time.perf_counter() - started))
    return page(request, "report.html" if report.known else "empty.html", form, report=report, behind=behind)


def _circuit(weather: Ask) -> str:
    breaker = Command.of(weather).breaker
    return "none" if breaker is None else breaker.state.value


def _unavailable(request: Request, form: Form, error: Exception) -> Response:
    sentence = f"No weather now ({type(error).__name__})."
    answer = page(request, "unavailable.html", form, status=503, error=sentence, cause=str(error))
    if isinstance(error, RejectedError) and error.retry_after is not None:
        answer.headers["Retry-After"] = f"{error.retry_after + 1:.0f}"
    return answer


async def _no_such_page(request: Request, _: Exception) -> Response:
    return page(request, "search.html", Form(), status=404, error="There is no such page. Look for a place instead?")


async def _broken(request: Request, _: Exception) -> Response:
    return page(request, "search.html", Form(), status=500, error="Something broke here. Please try again.")


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--registry", help="such as eureka://localhost:8761 (default: $RESILIENT_DISCOVERY)")
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    arguments = parser.parse_args()
    log_to_stderr()

    try:
        discovery = Discovery.from_url(arguments.registry)
    except ConfigError as error:
        parser.error(str(error))
    http = httpx.AsyncClient(transport=AsyncResilientTransport(discovery))
    serve(make_app(http, discovery), listen_or_exit(parser, arguments.port), name="consumer")


if __name__ == "__main__":
    main()
