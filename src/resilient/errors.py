"""What can go wrong, each error with the data a caller acts on.

::

    ResilienceError
    ├── RejectedError            the call was not made; `policy` refused it, `retry_after` says when to come back
    │   ├── CircuitOpenError         the circuit is open
    │   ├── BulkheadFullError        all places are taken, and so is the queue
    │   ├── RateLimitedError         the rate is used up
    │   ├── ConcurrencyLimitedError  the adaptive limit is reached
    │   ├── NoInstanceError          no instance of the service is known or usable
    │   └── DeadlineExceededError    the caller's deadline had passed before the call was made
    ├── CallTimeoutError         (also TimeoutError) the call was made and took too long
    ├── MissingResultError       (also KeyError) a batch call returned nothing for one of its keys
    ├── DiscoveryError           a registry could not be asked
    │   ├── RegistryUnavailableError  no registry server answers
    │   └── RegistryAuthError         the registry refuses our credentials
    └── ConfigError              (also ValueError) a bad argument or setting; `path` names it

    ResilienceWarning            (a UserWarning) legal, but it bites

Every error can be pickled and copied, so it crosses process and queue borders with its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MESSAGE_LIMIT = 200  # characters of a failure's text that are kept: enough to recognise it, too few to leak a body


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """What went wrong last. Text only: no frames, so no caller's objects are kept alive.

    Attributes:
        kind: the exception's type name, or `"result"` when a returned value counted as a failure.
        message: its text, at most 200 characters.
        at: when, in seconds of the policy's monotonic clock.
    """

    kind: str
    message: str
    at: float

    @classmethod
    def of(cls, error: BaseException, at: float) -> FailureInfo:
        """Describe `error`; an error whose `str()` raises is described by its type alone."""
        try:
            message = str(error)
        except Exception:
            message = ""
        return cls(type(error).__name__, message[:_MESSAGE_LIMIT], at)


class ResilienceError(Exception):
    """Base of every error this library raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state: the keyword-only constructors of the subclasses cannot be called with `args`."""
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[ResilienceError], args: tuple[Any, ...], data: dict[str, Any]) -> ResilienceError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(data)
    return error


class RejectedError(ResilienceError):
    """The call was not made; `policy` refused it.

    Attributes:
        policy: the name of the policy that refused.
        retry_after: seconds until a call may be admitted, or None when that is not known.
    """

    def __init__(self, message: str = "", *, policy: str, retry_after: float | None = None) -> None:
        self.args = (message,)  # without the chain of constructors: a rejection should cost next to nothing
        self.policy = policy
        self.retry_after = retry_after


class CircuitOpenError(RejectedError):
    """The circuit is open; `last_failure` is what opened it (None when it was opened by hand)."""

    def __init__(
        self,
        message: str = "",
        *,
        policy: str,
        retry_after: float | None = None,
        last_failure: FailureInfo | None = None,
    ) -> None:
        self.args = (message,)
        self.policy = policy
        self.retry_after = retry_after
        self.last_failure = last_failure


class BulkheadFullError(RejectedError):
    """All places are taken, and so is the queue."""


class RateLimitedError(RejectedError):
    """The rate is used up; `retry_after` is exact."""


class ConcurrencyLimitedError(RejectedError):
    """The adaptive limit is reached."""


class NoInstanceError(RejectedError):
    """No instance of the service is known or usable."""


class DeadlineExceededError(RejectedError):
    """The caller's deadline had passed before the call was made."""


class CallTimeoutError(ResilienceError, TimeoutError):
    """The call was made and took longer than `limit`.

    Attributes:
        policy: the name of the policy whose limit it was.
        limit: that limit in seconds; `inf` when only the caller's deadline limited the call.
        elapsed: seconds the call was waited for.
        by_deadline: True when a deadline set further out ended the call before `limit` did.
    """

    def __init__(
        self, message: str = "", *, policy: str, limit: float, elapsed: float, by_deadline: bool = False
    ) -> None:
        super().__init__(message)
        self.policy = policy
        self.limit = limit
        self.elapsed = elapsed
        self.by_deadline = by_deadline


class MissingResultError(ResilienceError, KeyError):
    """A batch call returned nothing for `key`; the other keys have their answers."""

    def __init__(self, message: str = "", *, key: object = None) -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:  # a KeyError would show the message in quotes
        return str(self.args[0]) if self.args else ""


class DiscoveryError(ResilienceError):
    """A registry could not be asked."""


class RegistryUnavailableError(DiscoveryError):
    """No registry server answers."""


class RegistryAuthError(DiscoveryError):
    """The registry refuses our credentials."""


class ConfigError(ResilienceError, ValueError):
    """A bad argument or setting; `path` names it."""

    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ResilienceWarning(UserWarning):
    """Legal, but it bites: a breaker made per call, a timeout that can not fire."""
