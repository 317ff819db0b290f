"""How a call ended, and who decides.

One classifier for every policy: `on=` (what is a failure), `ignore=` (what says nothing about the dependency) and
`on_result=` (a returned value that is a failure). The default counts every `Exception`, except the caller's own
mistake: an error whose HTTP response has a 4xx status other than 408, 425 or 429 shows that the dependency answered.
"""

from __future__ import annotations

import builtins
import enum
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from resilient.errors import CallTimeoutError, ConfigError
from resilient.http_answers import http_status

logger = logging.getLogger("resilient")

Match: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which exceptions: a type, a tuple of types, or a predicate."""

_CALLERS_MISTAKE_EXCEPTIONS = frozenset({408, 425, 429})
_ENOUGH_SHARE = 0.1  # of its own limit that a call must have had before a deadline's timeout says anything
_ENOUGH = 0.1  # seconds, when the pipeline has no limit of its own


class Outcome(enum.Enum):
    """What a call tells a policy."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED


_PYTHONS_OWN = tuple(
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ExceptionGroup)
)
_ASKED_TWICE = (ExceptionGroup, CallTimeoutError)

Classifier: TypeAlias = Callable[[Exception], Outcome]


@dataclass(frozen=True, slots=True)
class Classification:
    """`on`, `ignore` and `on_result` together: checked at construction, handed from a command to its layers."""

    on: Match = Exception
    ignore: Match = ()
    on_result: Callable[[Any], bool] | None = None
    causes: bool = False  # an error is also what it was raised from

    def __post_init__(self) -> None:
        _matcher(self.on, "on")
        _matcher(self.ignore, "ignore")
        if self.on_result is not None and not callable(self.on_result):
            raise ConfigError(f"on_result must be a function of the result, not {self.on_result!r}", path="on_result")
        if not isinstance(self.causes, bool):
            raise ConfigError(f"causes must be True or False, not {self.causes!r}", path="causes")

    def or_else(self, other: Classification) -> Classification:
        """Itself, or `other` when nothing was given."""
        return other if self == Classification() else self


def classifier(given: Classification, *, evidence: bool = False) -> Classifier:
    """Compile a classification into one function from an error to its outcome. The function never raises.

    Args:
        given: what is a failure and what is ignored.
        evidence: for gates: a deadline's timeout that left the call no time is ignored, being no evidence against the
            dependency.
    """
    ignores = None if given.ignore == () else _matcher(given.ignore, "ignore")
    fails = None if given.on is Exception else _matcher(given.on, "on")
    causes = given.causes

    def classify(error: Exception) -> Outcome:
        try:
            if isinstance(error, _ASKED_TWICE):
                if isinstance(error, ExceptionGroup):
                    return of_group(error)
                if evidence and is_impatience(error):
                    return IGNORED
            if causes and error.__cause__ is not None:
                return of_chain(error)
            if ignores is not None and ignores(error):
                return IGNORED
            if fails is not None and not fails(error):
                return SUCCESS
            return SUCCESS if _is_callers_mistake(error) else FAILURE
        except Exception:
            logger.exception("a predicate of on= or ignore= raised; the outcome is ignored")
            return IGNORED

    def of_chain(error: Exception) -> Outcome:
        chain = list(_with_causes(error))
        if ignores is not None and any(map(ignores, chain)):
            return IGNORED
        if any(map(_is_callers_mistake, chain)) or (fails is not None and not any(map(fails, chain))):
            return SUCCESS
        return FAILURE

    def of_group(group: ExceptionGroup[Any]) -> Outcome:
        if ignores is not None and ignores(group):
            return IGNORED
        found = {classify(leaf) for leaf in group.exceptions}
        return FAILURE if FAILURE in found else IGNORED if IGNORED in found else SUCCESS

    return classify


class Verdicts(NamedTuple):
    """How a gate judges: compiled from a Classification."""

    classify: Classifier
    known: dict[type[BaseException], Outcome]  # of Python's own errors: what needs no look at the error
    failed: Callable[[Any], bool] | None  # of a result


def verdicts(given: Classification) -> Verdicts:
    """Compile a classification for a gate; the same object for the same types, ten thousand breakers keep one."""
    plain = isinstance(given.on, (type, tuple)) and isinstance(given.ignore, (type, tuple)) and given.on_result is None
    return _kept_verdicts(given) if plain else _verdicts(given)  # a predicate is not kept alive by a cache


def _verdicts(given: Classification) -> Verdicts:
    return Verdicts(classifier(given, evidence=True), _known(given), result_check(given))


_kept_verdicts = lru_cache(maxsize=256)(_verdicts)


def _known(given: Classification) -> dict[type[BaseException], Outcome]:
    """Python's own errors carry no HTTP response: looking one up costs a fifth of asking the classifier."""
    on, ignore = given.on, given.ignore
    if given.causes or not isinstance(on, (type, tuple)) or not isinstance(ignore, (type, tuple)):
        return {}
    return {
        kind: IGNORED if issubclass(kind, ignore) else FAILURE if issubclass(kind, on) else SUCCESS
        for kind in _PYTHONS_OWN
    }


def is_impatience(error: BaseException) -> bool:
    """Whether it is the timeout of a caller's deadline that left the call no time: it says nothing about the callee."""
    return isinstance(error, CallTimeoutError) and error.by_deadline and not had_time(error.elapsed, error.limit)


def _with_causes(error: Exception) -> Iterator[Exception]:
    """`error`, and what it was raised from, each once: a chain may bite its own tail."""
    seen: set[int] = set()
    found: BaseException | None = error
    while isinstance(found, Exception) and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__


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
    if getattr(error, "response", None) is None and getattr(error, "status", None) is None:
        return False  # most errors: at half the cost of asking for a status
    status = http_status(error)
    return status is not None and 400 <= status < 500 and status not in _CALLERS_MISTAKE_EXCEPTIONS


def had_time(elapsed: float, limit: float) -> bool:
    """Whether a call that a deadline further out ended had enough of its own `limit` to say something."""
    return elapsed >= (_ENOUGH_SHARE * limit if limit != float("inf") else _ENOUGH)
