"""What leaves an httpx transport is httpx's error as well: `except httpx.HTTPError` catches it, with all its data.

::

    CircuitOpenError         also httpx.TransportError
    RateLimitedError         also httpx.TransportError
    ConcurrencyLimitedError  also httpx.TransportError
    NoInstanceError          also httpx.ConnectError: there is nobody to connect to
    BulkheadFullError        also httpx.PoolTimeout: no place of our own was free
    DeadlineExceededError    also httpx.TimeoutException
    CallTimeoutError         also httpx.ReadTimeout

What httpx raises leaves as it is, and so does what a policy of the user's own raises.
"""

from __future__ import annotations

import httpx

from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoInstanceError,
    RateLimitedError,
)


class TransportCircuitOpenError(CircuitOpenError, httpx.TransportError):
    """The circuit of this service or host is open."""


class TransportRateLimitedError(RateLimitedError, httpx.TransportError):
    """The rate of this service or host is used up."""


class TransportConcurrencyLimitedError(ConcurrencyLimitedError, httpx.TransportError):
    """The adaptive limit of this service or host is reached."""


class TransportNoInstanceError(NoInstanceError, httpx.ConnectError):
    """No instance of this service is known or usable."""


class TransportBulkheadFullError(BulkheadFullError, httpx.PoolTimeout):
    """All places or connections for this service or host are taken."""


class TransportDeadlineExceededError(DeadlineExceededError, httpx.TimeoutException):
    """The caller's deadline had passed before the request was sent."""


class TransportTimeoutError(CallTimeoutError, httpx.ReadTimeout):
    """The request was sent and took too long."""

    _request: httpx.Request | None = None  # OSError among the bases ends the chain of constructors before httpx's


class FailedResponse(httpx.HTTPStatusError):  # it is the answer, travelling as what policies understand
    """An answer that counts as a failure, on its way through the policies; the transport returns the answer itself."""


KINDS = (
    TransportCircuitOpenError,
    TransportRateLimitedError,
    TransportConcurrencyLimitedError,
    TransportNoInstanceError,
    TransportBulkheadFullError,
    TransportDeadlineExceededError,
    TransportTimeoutError,
)
