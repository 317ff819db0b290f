"""What leaves the middleware is aiohttp's error as well: `except aiohttp.ClientError` catches it."""

from __future__ import annotations

import aiohttp

from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoInstanceError,
    RateLimitedError,
)


class TransportCircuitOpenError(CircuitOpenError, aiohttp.ClientError):
    """The circuit of this service or host is open."""


class TransportRateLimitedError(RateLimitedError, aiohttp.ClientError):
    """The rate of this service or host is used up."""


class TransportConcurrencyLimitedError(ConcurrencyLimitedError, aiohttp.ClientError):
    """The adaptive limit of this service or host is reached."""


class TransportNoInstanceError(NoInstanceError, aiohttp.ClientConnectionError):
    """No instance of this service is known or usable."""


class TransportBulkheadFullError(BulkheadFullError, aiohttp.ClientConnectionError):
    """All places or connections for this service or host are taken."""


class TransportDeadlineExceededError(DeadlineExceededError, aiohttp.ServerTimeoutError):
    """The caller's deadline had passed before the request was sent."""


class TransportTimeoutError(CallTimeoutError, aiohttp.ServerTimeoutError):
    """The request was sent and took too long."""


class FailedAnswer(aiohttp.ClientResponseError):
    """An answer that counts as a failure, on its way through the policies; the middleware returns the answer itself."""

    def __init__(self, answer: aiohttp.ClientResponse, *, headers: bool = True) -> None:
        super().__init__(
            answer.request_info,
            answer.history,
            status=answer.status,
            message=answer.reason or "",
            headers=answer.headers if headers else None,
        )
        self.answer = answer


KINDS = (
    TransportCircuitOpenError,
    TransportRateLimitedError,
    TransportConcurrencyLimitedError,
    TransportNoInstanceError,
    TransportBulkheadFullError,
    TransportDeadlineExceededError,
    TransportTimeoutError,
)
