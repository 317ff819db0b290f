"""What leaves an httpx2 transport is httpx2's error as well: `except httpx2.HTTPError` catches it, with all its data.

The same pairs as in `resilient.transport.httpx_errors`. What httpx2 raises leaves as it is, and so does
what a policy of the user's own raises.
"""

from __future__ import annotations

import httpx2

from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoInstanceError,
    RateLimitedError,
)


class TransportCircuitOpenError(CircuitOpenError, httpx2.TransportError):
    """The circuit of this service or host is open."""


class TransportRateLimitedError(RateLimitedError, httpx2.TransportError):
    """The rate of this service or host is used up."""


class TransportConcurrencyLimitedError(ConcurrencyLimitedError, httpx2.TransportError):
    """The adaptive limit of this service or host is reached."""


class TransportNoInstanceError(NoInstanceError, httpx2.ConnectError):
    """No instance of this service is known or usable."""


class TransportBulkheadFullError(BulkheadFullError, httpx2.PoolTimeout):
    """All places or connections for this service or host are taken."""


class TransportDeadlineExceededError(DeadlineExceededError, httpx2.TimeoutException):
    """The caller's deadline had passed before the request was sent."""


class TransportTimeoutError(CallTimeoutError, httpx2.ReadTimeout):
    """The request was sent and took too long."""

    _request: httpx2.Request | None = None  # OSError among the bases ends the chain of constructors before httpx2's


class FailedResponse(httpx2.HTTPStatusError):  # it is the answer, travelling as what policies understand
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
