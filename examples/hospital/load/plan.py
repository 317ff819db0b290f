"""What is asked of a run, checked before the first request leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from resilient import ConfigError
from resilient.checks import number, positive_seconds, whole

ARRIVALS: Final = ("constant", "poisson")
LONGEST: Final = 3600.0  # seconds: it is a generator for an example, not for a week
MOST: Final = 1_000_000  # requests of one run
_OWNER = "Plan"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run against one or more URLs.

    Attributes:
        urls: http or https; asked in turn.
        rate: requests that are due per second, in all, more than 0.
        duration: seconds in which requests become due, at most 3600; default 30.
        users: how many requests may be under way at once, default 50. One that is due while all users wait starts when
            the first of them is free, and is measured from when it was due.
        requests: at most so many, at most 1,000,000; default as many as become due.
        arrivals: `constant`, or `poisson` (default): independent users, who come in clumps.
        method: default GET.
        headers: of every request.
        body: of every request.
        timeout: seconds that a request may take from when it was sent, default 10; and seconds that a run waits after
            its end for what is still under way.
        seed: of the arrivals; default another one each time.

    Raises:
        ConfigError: when a value is out of range.
    """

    urls: tuple[str, ...]
    rate: float = 20.0
    duration: float = 30.0
    users: int = 50
    requests: int | None = None
    arrivals: str = "poisson"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    timeout: float = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError(f"{_OWNER}: urls must hold at least one URL", path="urls")
        for url in self.urls:
            _check_url(url)
        number(_OWNER, "rate", self.rate)
        if not 0 < self.rate <= MOST:
            raise ConfigError(f"{_OWNER}: rate must be more than 0 per second, not {self.rate!r}", path="rate")
        positive_seconds(_OWNER, "duration", self.duration)
        if self.duration > LONGEST:
            raise ConfigError(
                f"{_OWNER}: duration must be at most {LONGEST:g} seconds, not {self.duration!r}", path="duration"
            )
        whole(_OWNER, "users", self.users, most=10_000)
        if self.requests is not None:
            whole(_OWNER, "requests", self.requests, most=MOST)
        elif self.rate * self.duration > MOST:
            raise ConfigError(
                f"{_OWNER}: {self.rate:g} per second for {self.duration:g} s are more than {MOST:,} requests; give a"
                " lower rate, a shorter duration, or a limit of requests",
                path="rate",
            )
        if self.arrivals not in ARRIVALS:
            raise ConfigError(
                f"{_OWNER}: arrivals must be {' or '.join(ARRIVALS)}, not {self.arrivals!r}", path="arrivals"
            )
        if not (self.method.isascii() and self.method.isalpha()):
            raise ConfigError(f"{_OWNER}: method must be a word like GET, not {self.method!r}", path="method")
        positive_seconds(_OWNER, "timeout", self.timeout)

    @property
    def shown(self) -> tuple[str, ...]:
        """The URLs without what is secret in them."""
        return tuple(str(httpx.URL(url).copy_with(userinfo=b"")) for url in self.urls)


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{_OWNER}: {url!r} is no URL: {error}", path="urls") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host or (parsed.port or 1) > 65_535:
        raise ConfigError(f"{_OWNER}: {url!r} is no URL like http://127.0.0.1:8080/patients/1", path="urls")
