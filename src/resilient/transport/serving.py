"""What both serving ends share: how long a request may take, and what a rejection looks like to its sender."""

from __future__ import annotations

import logging
import math
from typing import Final, NamedTuple

from resilient.checks import positive_seconds
from resilient.errors import CallTimeoutError, DeadlineExceededError, RejectedError

logger = logging.getLogger("resilient")

_SOON: Final = 1  # seconds, where a rejection does not know better
_LONGEST: Final = 3600  # seconds that a Retry-After asks for at most


class Refusal(NamedTuple):
    """The answer to a request that ended in one of our errors."""

    status: int
    phrase: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def checked_deadline(max_deadline: float | None) -> float | None:
    """The longest deadline that is taken from a request.

    Raises:
        ConfigError: when it is not a positive number.
    """
    return None if max_deadline is None else positive_seconds("ResilientMiddleware", "max_deadline", max_deadline)


def refusal(error: BaseException) -> Refusal | None:
    """What to answer when a request ended with `error`; None when that is none of ours.

    It says nothing about what lies behind the service: that is in the log.
    """
    found = _ours(error)
    if found is None:
        return None
    logger.debug("a request ended with %r and is answered in its place", found)
    if isinstance(found, (DeadlineExceededError, CallTimeoutError)):
        return _refusal(504, "Gateway Timeout", "what this service needs did not answer in time", None)
    assert isinstance(found, RejectedError)
    wait = _SOON if found.retry_after is None else max(_SOON, math.ceil(min(_LONGEST, found.retry_after)))
    return _refusal(503, "Service Unavailable", "what this service needs is not available", wait)


def _refusal(status: int, phrase: str, what: str, wait: int | None) -> Refusal:
    body = f"{phrase}: {what}\n".encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    if wait is not None:
        headers.append(("retry-after", str(wait)))
    return Refusal(status, phrase, tuple(headers), body)


def _ours(error: BaseException) -> RejectedError | CallTimeoutError | None:
    """Our error: itself, or all that a group of tasks raised; a timeout among them says most."""
    if isinstance(error, (RejectedError, CallTimeoutError)):
        return error
    if isinstance(error, ExceptionGroup):
        found = [_ours(leaf) for leaf in error.exceptions]
        ours = [leaf for leaf in found if leaf is not None]
        if len(ours) == len(found):
            return next((leaf for leaf in ours if isinstance(leaf, CallTimeoutError)), ours[0])
    return None
