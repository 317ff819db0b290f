"""What is a logical name, and what the end of an attempt says. Knows no HTTP client."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from resilient.outcome import FAILURE, IGNORED, SUCCESS, Outcome

AGAIN: Final = frozenset({408, 429, 502, 503, 504})
"""Answers that another attempt may better; 500 is the request's own doing more often."""
TIME_IS_UP: Final = 0.01  # seconds: a socket timeout cut to the deadline may fire this much before it

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_FAILURE = frozenset({501, 505})  # what the server does not do, it does not do tomorrow either


class Route(NamedTuple):
    """Under which key a URL is guarded, and the service it names, if it does."""

    key: str
    service: str | None


def single_label(host: str) -> bool:
    """Whether a host is a logical name by default: one label, not `localhost`, not an address."""
    return bool(host) and host != "localhost" and not any(mark in host for mark in ".:[")


def route(scheme: str, host: str, port: int | None, is_logical: Callable[[str], bool] | None) -> Route:
    """Decide from the URL alone; nothing is looked up.

    Args:
        scheme: of the URL.
        host: of the URL.
        port: of the URL; None when it is the scheme's own. A URL with a port names an address, never a service.
        is_logical: whether a host names a service; None: no host does.
    """
    host = host.lower()
    if is_logical is not None and port is None and scheme in _DEFAULT_PORTS and is_logical(host):
        return Route(host, host)
    shown = f"[{host}]" if ":" in host else host
    return Route(f"{scheme}://{shown}:{port or _DEFAULT_PORTS.get(scheme, '')}", None)


class Trouble(enum.Enum):
    """How an attempt ended without an answer, in an HTTP client's own words translated."""

    UNSENT = "no connection"  # nothing was sent: any request may go elsewhere
    BROKEN = "broken"  # something was sent, or may have been
    LOCAL = "local"  # our own pool was full: nobody else's fault, nothing was sent
    OTHER = "other"  # cancelled, a mistake in the request, a body that raised


def failed_call(status: int) -> bool:
    """Whether a policy around the whole call counts an answer as a failure."""
    return status in {408, 425, 429} or (status >= 500 and status not in _NO_FAILURE)


def host_outcome(status: int, *, retry_after: bool) -> Outcome:
    """What an answer says about the instance that gave it."""
    if status < 408:
        return SUCCESS
    if status == 429 or (status == 503 and retry_after):
        return IGNORED  # it is there and says that it is busy
    return FAILURE if status == 408 or (status >= 500 and status not in _NO_FAILURE) else SUCCESS


def shortened(timeouts: Mapping[str, float | None] | None, left: float | None) -> dict[str, float | None]:
    """A request's connect, read, write and pool timeouts, none longer than what is left."""
    given = dict(timeouts or {})
    if left is None:
        return given
    for phase in ("connect", "read", "write", "pool"):
        own = given.get(phase)
        given[phase] = left if own is None else min(own, left)
    return given
