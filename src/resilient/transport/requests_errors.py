"""What leaves an adapter is requests' error as well: `except requests.RequestException` catches it."""

from __future__ import annotations

import requests

from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoInstanceError,
    RateLimitedError,
)


class TransportCircuitOpenError(CircuitOpenError, requests.RequestException):
    """The circuit of this service or host is open."""


class TransportRateLimitedError(RateLimitedError, requests.RequestException):
    """The rate of this service or host is used up."""


class TransportConcurrencyLimitedError(ConcurrencyLimitedError, requests.RequestException):
    """The adaptive limit of this service or host is reached."""


class TransportNoInstanceError(NoInstanceError, requests.ConnectionError):
    """No instance of this service is known or usable."""


class TransportBulkheadFullError(BulkheadFullError, requests.ConnectionError):
    """All places or connections for this service or host are taken."""


class TransportDeadlineExceededError(DeadlineExceededError, requests.Timeout):
    """The caller's deadline had passed before the request was sent."""


class TransportTimeoutError(CallTimeoutError, requests.ReadTimeout):
    """The request was sent and took too long."""


class FailedAnswer(requests.HTTPError):
    """An answer that counts as a failure, on its way through the policies; the adapter returns the answer itself."""


KINDS = (
    TransportCircuitOpenError,
    TransportRateLimitedError,
    TransportConcurrencyLimitedError,
    TransportNoInstanceError,
    TransportBulkheadFullError,
    TransportDeadlineExceededError,
    TransportTimeoutError,
)
