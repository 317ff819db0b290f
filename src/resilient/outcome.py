"""How a call ended, and who decides.

One classifier for every policy: `on=` (what is a failure), `ignore=` (what says nothing about the dependency) and
`on_result=` (a returned value that is a failure). The default counts every `Exception`, except the caller's own
mistake: an error whose HTTP response has a 4xx status other than 408, 425 or 429 shows that the dependency answered.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from resilient.errors import CallTimeoutError, ConfigError

logger = logging.getLogger("resilient")

Match: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which exceptions: a type, a tuple of types, or a predicate."""

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_CALLERS_MISTAKE_EXCEPTIONS = frozenset({408, 425, 429})
_ENOUGH_SHARE = 0.1  # of its own limit that a call must have had before a deadline's timeout says anything
_ENOUGH = 0.1  # seconds, when the pipeline has no limit of its own


class Outcome(enum.Enum):
    """What a call tells a policy."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED


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

Classifier: TypeAlias = Callable[[Exception], Outcome]


@dataclass(frozen=True, slots=True)
class Classification:
    """`on`, `ignore` and `on_result` together: checked at construction, handed from a command to its layers."""

    on: Match = Exception
    ignore: Match = ()
    on_result: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        _matcher(self.on, "on")
        _matcher(self.ignore, "ignore")
        if self.on_result is not None and not callable(self.on_result):
            raise ConfigError(f"on_result must be a function of the result, not {self.on_result!r}", path="on_result")

    def or_else(self, other: Classification) -> Classification:
        """Itself, or `other` when nothing was given."""
        return other if self == Classification() else self


def classifier(given: Classification) -> Classifier:
    """Compile `on` and `ignore` into one function from an error to its outcome. The function never raises."""
    matches_ignore = _matcher(given.ignore, "ignore")
    matches_on = _matcher(given.on, "on")

    def classify(error: Exception) -> Outcome:
        try:
            if isinstance(error, ExceptionGroup):
                return _of_group(error)
            return of_one(error)
        except Exception:
            logger.exception("a predicate of on= or ignore= raised; the outcome is ignored")
            return IGNORED

    def of_one(error: Exception) -> Outcome:
        if matches_ignore(error):
            return IGNORED
        if not matches_on(error) or _is_callers_mistake(error):
            return SUCCESS
        return FAILURE

    def _of_group(group: ExceptionGroup[Any]) -> Outcome:
        if matches_ignore(group):
            return IGNORED
        found = {classify(leaf) for leaf in group.exceptions}
        return FAILURE if FAILURE in found else IGNORED if IGNORED in found else SUCCESS

    return classify


def evidence(classify: Classifier) -> Classifier:
    """`classify` for gates: a caller's deadline that left the call no time is no evidence against the dependency."""

    def classify_evidence(error: Exception) -> Outcome:
        if isinstance(error, CallTimeoutError) and error.by_deadline and not had_time(error.elapsed, error.limit):
            return IGNORED
        return classify(error)

    return classify_evidence


def result_check(given: Classification) -> Callable[[Any], bool] | None:
    """`on_result` made safe: one that raises is logged, and the result counts as good."""
    on_result = given.on_result
    if on_result is None:
        return None

    def failed(result: Any) -> bool:
        try:
            return bool(on_result(result))
        except Exception:
            logger.exception("on_result raised; the result counts as a success")
            return False

    return failed


def _matcher(match: Match, path: str) -> Callable[[Exception], bool]:
    if isinstance(match, type):
        match = (match,)
    if isinstance(match, tuple):
        for kind in match:
            if not _is_exception_type(kind):
                raise ConfigError(
                    f"{path} must hold exception types, not {kind!r}"
                    " (cancellation and KeyboardInterrupt are never counted)",
                    path=path,
                )
        kinds = match
        return lambda error: isinstance(error, kinds)
    if not callable(match):
        raise ConfigError(f"{path} must be an exception type, a tuple of them or a predicate, not {match!r}", path=path)
    return match


def _is_exception_type(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _is_callers_mistake(error: Exception) -> bool:
    status = http_status(error)
    return status is not None and 400 <= status < 500 and status not in _CALLERS_MISTAKE_EXCEPTIONS


def had_time(elapsed: float, limit: float) -> bool:
    """Whether a call that a deadline further out ended had enough of its own `limit` to say something."""
    return elapsed >= (_ENOUGH_SHARE * limit if limit != float("inf") else _ENOUGH)
