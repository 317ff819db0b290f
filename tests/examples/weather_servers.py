"""The services of the weather application, served for tests from threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from examples.support.serving import address_of, listen
from examples.weather.local_openweathermap import Mood, make_app, protocol_of
from tests.waiting import wait_until


@contextmanager
def served(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve `app` on a free port while the block runs; gives `http://host:port`."""
    listener = listen()
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, what="the server's start")
        yield f"http://{address_of(listener)}"
    finally:
        server.should_exit = True
        thread.join(10.0)
        listener.close()


@dataclass(frozen=True)
class LocalApi:
    """A running local OpenWeatherMap."""

    url: str
    control: httpx.Client

    def mood(self, mode: str, seconds: float | None = None) -> None:
        wanted: dict[str, object] = {"mode": mode}
        if seconds is not None:
            wanted["seconds"] = seconds
        self.control.post("/control", json=wanted).raise_for_status()

    @property
    def requests(self) -> int:
        return int(self.control.get("/control").json()["requests"])


@contextmanager
def local_openweathermap() -> Iterator[LocalApi]:
    """The application's own stand-in for OpenWeatherMap."""
    mood = Mood()
    with (
        served(make_app(mood=mood), http=protocol_of(mood)) as url,
        httpx.Client(base_url=url, trust_env=False) as control,
    ):
        yield LocalApi(url, control)
