"""The client of OpenWeatherMap's current weather: https://openweathermap.org/current.

A client's first duty to whoever guards it is to say precisely what went wrong, because a breaker, a fallback and an
operator each do something different about it:

    UnknownPlaceError         the user's mistake: the service is well, and asking again will not help
    OpenWeatherMapError       the service's failure, or ours
    ├── InvalidKeyError           401: our configuration is wrong; logged, because only an operator can mend it
    ├── TooManyRequestsError      429: we ask too often; `retry_after` says when we may come back
    ├── ServerFailedError         5xx, and every other status that is no answer
    ├── NoAnswerError             refused, reset, timed out
    └── BadAnswerError            it answered, but not what its documentation says
"""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

logger = logging.getLogger(__name__)

REAL_URL = "https://api.openweathermap.org"


class UnknownPlaceError(LookupError):
    """OpenWeatherMap knows no such place."""


class OpenWeatherMapError(Exception):
    """OpenWeatherMap gave no weather."""


class InvalidKeyError(OpenWeatherMapError):
    """It refuses our API key."""


class TooManyRequestsError(OpenWeatherMapError):
    """We asked too often; `retry_after` are the seconds to stay away, when it told us."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerFailedError(OpenWeatherMapError):
    """It failed; `code` is the HTTP status.

    Not named `status`: an error with a 4xx there is the caller's own mistake to the library, and a 403 for all of us is
    no mistake of this user.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NoAnswerError(OpenWeatherMapError):
    """It could not be reached, hung up or took too long; the cause is httpx's own error."""


class BadAnswerError(OpenWeatherMapError):
    """Its answer cannot be read."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What OpenWeatherMap says about a place: °C, percent, metres per second, and when that was measured."""

    place: str
    temperature: float
    description: str
    humidity: float
    wind: float
    observed_at: datetime


class OpenWeatherMap:
    """The current weather by zip code.

    Args:
        key: the API key; https://home.openweathermap.org/api_keys has yours.
        base_url: where the service is, default the real one.
        timeout: seconds to connect, and between two pieces of an answer, default 2.0. Whoever guards the calls gives
            up earlier; this ends the worker thread that is left behind.
        transport: instead of the network, for tests.

    Safe for threads: httpx pools the connections.
    """

    def __init__(
        self, key: str, *, base_url: str = REAL_URL, timeout: float = 2.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._key = key
        self._http = httpx.Client(base_url=base_url, timeout=timeout, transport=transport)
        self._complained = False

    @classmethod
    def from_environment(cls, *, base_url: str | None = None) -> Self:
        """The one that $OPENWEATHERMAP_API_KEY and $OPENWEATHERMAP_URL describe; `base_url` wins over the latter."""
        url = base_url or os.environ.get("OPENWEATHERMAP_URL") or REAL_URL
        return cls(os.environ.get("OPENWEATHERMAP_API_KEY", ""), base_url=url)

    def current(self, zip_code: str, country: str) -> Conditions:
        """Ask for the weather now.

        Args:
            zip_code: a checked zip or post code.
            country: two letters.

        Raises:
            UnknownPlaceError: when there is no such place.
            OpenWeatherMapError: when there is no weather, one kind for each reason.
        """
        try:
            response = self._http.get(
                "/data/2.5/weather", params={"zip": f"{zip_code},{country}", "appid": self._key, "units": "metric"}
            )
        except httpx.TransportError as error:
            raise NoAnswerError(f"no answer from OpenWeatherMap ({type(error).__name__})") from error
        if response.status_code != 200:
            raise self._failure(response, f"{zip_code}, {country.upper()}")
        self._complained = False
        return _conditions(response)

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    def _failure(self, response: httpx.Response, place: str) -> Exception:
        status, says = response.status_code, _message(response)
        if status in {400, 404}:  # 400 is what it answers to codes that no country could have
            return UnknownPlaceError(f"OpenWeatherMap knows no place {place}.")
        if status == 401:
            if not self._complained:
                self._complained = True
                logger.error("OpenWeatherMap refuses our key: set OPENWEATHERMAP_API_KEY to a valid one (%s)", says)
            return InvalidKeyError(f"OpenWeatherMap refuses our key: {says}")
        if status == 429:
            return TooManyRequestsError(f"OpenWeatherMap is asked too often: {says}", _retry_after(response))
        return ServerFailedError(f"OpenWeatherMap failed with HTTP {status}: {says}", status)


def _conditions(response: httpx.Response) -> Conditions:
    try:
        document = response.json()
        return Conditions(
            place=str(document["name"]),
            temperature=_number(document["main"]["temp"]),
            description=str(document["weather"][0]["description"]),
            humidity=_number(document["main"]["humidity"]),
            wind=_number(document["wind"]["speed"]),
            observed_at=datetime.fromtimestamp(_number(document["dt"]), UTC),
        )
    except (LookupError, TypeError, ValueError, OverflowError, OSError) as error:
        what = f"{error} is missing" if isinstance(error, LookupError) else str(error)
        raise BadAnswerError(f"OpenWeatherMap's answer cannot be read: {what}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _message(response: httpx.Response) -> str:
    """What the service says about its failure: `message` of the JSON body, as far as there is one."""
    try:
        return str(response.json()["message"])[:200]
    except (LookupError, TypeError, ValueError):
        return response.reason_phrase


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds from the header Retry-After, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
