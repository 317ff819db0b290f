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
    ResilienceError,
)
from resilient.transport.routing import Trouble


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


_KINDS: dict[type[ResilienceError], type[ResilienceError]] = {
    kind.__bases__[0]: kind
    for kind in (
        TransportCircuitOpenError,
        TransportRateLimitedError,
        TransportConcurrencyLimitedError,
        TransportNoInstanceError,
        TransportBulkheadFullError,
        TransportDeadlineExceededError,
        TransportTimeoutError,
    )
}


def as_httpx(error: ResilienceError, request: httpx.Request) -> ResilienceError:
    """The same error with the same data, as httpx's too; itself when it is a kind that is not ours."""
    kind = _KINDS.get(type(error))
    if kind is None:
        return error
    found = kind.__new__(kind, *error.args)
    found.args = error.args
    found.__dict__.update(error.__dict__, _request=request)
    return found


def trouble_of(error: BaseException) -> Trouble:
    """What an error of httpx says about the instance."""
    if isinstance(error, httpx.PoolTimeout):
        return Trouble.LOCAL
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Trouble.UNSENT
    if isinstance(error, ResilienceError) and not isinstance(error, httpx.TransportError):
        return Trouble.OTHER  # our own, before anything was sent; CallTimeoutError is an OSError
    if says_nothing(error) or not isinstance(error, (httpx.TransportError, OSError)):
        return Trouble.OTHER
    return Trouble.BROKEN


def says_nothing(error: BaseException) -> bool:
    """Whether an error says nothing about the dependency: a request that can not be sent, a body that raised."""
    return isinstance(
        error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.ProxyError, httpx.StreamError)
    ) or not isinstance(error, (httpx.HTTPError, OSError, ResilienceError))
