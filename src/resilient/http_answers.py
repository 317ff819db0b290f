"""What HTTP answers and errors say: those of httpx, requests and aiohttp, by duck typing, without importing any.

An answer is a response, or an error that carries one.
"""

from __future__ import annotations

import math
import time
from typing import Any

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_COME_BACK_LATER = frozenset({429, 503})


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of httpx, requests or aiohttp carries, without importing any of them."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        status = getattr(error, "status", None)
        if status is None or not _is_aiohttps(error):
            return None
    if isinstance(status, bool) or not isinstance(status, int):
        return None
    return int(status)  # http.HTTPStatus is an int too


def _is_aiohttps(error: BaseException) -> bool:
    """Whether it is one of aiohttp's own: anybody's error may have a `status` that means something else."""
    return any(kind.__module__.partition(".")[0] == "aiohttp" for kind in type(error).__mro__)


def is_transient(error: Exception, /) -> bool:
    """Whether trying again may help: for `on=`.

    True for ConnectionError and TimeoutError, for httpx's, requests' and aiohttp's own network errors, and for errors
    that carry the HTTP status 408, 425, 429, 500, 502, 503 or 504. Safe for threads and event loops.

    Example:
        >>> from resilient import CircuitBreaker, is_transient
        >>> breaker = CircuitBreaker("mail", on=is_transient)  # a bug in our own code does not open it
        >>> is_transient(TimeoutError()), is_transient(KeyError("sku"))
        (True, False)
    """
    status = http_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUSES
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(
        kind.__name__ in _NETWORK_ERRORS.get(kind.__module__.partition(".")[0], ()) for kind in type(error).__mro__
    )


_NETWORK_ERRORS = {
    "httpx": frozenset({"TransportError"}),
    "httpx2": frozenset({"TransportError"}),
    "requests": frozenset({"ConnectionError", "Timeout"}),
    "aiohttp": frozenset({"ClientConnectionError"}),
}


def retry_after(answer: object, /) -> float | None:
    """Seconds that a 429 or 503 asks to wait, read from its Retry-After: for `open_for=`.

    The header may hold seconds or a date; a date is compared with the answer's own Date, so that a clock that is wrong
    here changes nothing, else with the clock of this machine. Safe for threads and event loops; never raises.

    Args:
        answer: a response of httpx, requests or aiohttp, or an error that carries one; anything else says nothing.

    Returns:
        Seconds, more than 0; None when the answer does not ask to wait, or in words that nobody understands.

    Source: RFC 9110, section 10.2.3.

    Example:
        >>> import httpx
        >>> from resilient import CircuitBreaker, retry_after
        >>> retry_after(httpx.Response(503, headers={"Retry-After": "30"}))
        30.0
        >>> breaker = CircuitBreaker("rates", open_for=retry_after)  # open at once, for as long as they ask
    """
    response = getattr(answer, "response", None)
    response = answer if response is None else response
    status = getattr(response, "status_code", None)
    if status is None:
        status = getattr(response, "status", None)
    headers = getattr(response, "headers", None)
    if not isinstance(status, int) or status not in _COME_BACK_LATER or headers is None:
        return None
    try:
        seconds = _seconds(headers.get("Retry-After"), headers.get("Date"))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _seconds(wanted: Any, date: Any) -> float:
    from datetime import UTC
    from email.utils import parsedate_to_datetime  # half of what `import resilient` costs otherwise

    def timestamp(date: Any) -> float:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()  # HTTP dates are UTC

    if str(wanted).strip().isdecimal():
        return float(wanted)
    until = timestamp(wanted)
    try:
        now = timestamp(date)
    except (TypeError, ValueError):
        now = time.time()  # the header is a wall clock's
    return until - now
