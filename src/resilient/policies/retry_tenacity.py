"""Where tenacity's own objects are asked: its call state, its retry objects, a whole `Retrying`.

Imported after the first failure, and only when there is such an object to ask.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tenacity

from resilient.errors import ConfigError
from resilient.policy import Args, Fn, Kwargs

logger = logging.getLogger("resilient")

# Those that are False for every result: with others each result has to be looked at.
_ERRORS_ONLY = frozenset(
    {
        tenacity.retry_if_exception,
        tenacity.retry_if_exception_type,
        tenacity.retry_if_not_exception_type,
        tenacity.retry_if_exception_message,
        tenacity.retry_if_exception_cause_type,
        type(tenacity.retry_never),
    }
)


class Ended:
    """How an attempt ended, with the face of tenacity's Future: its own makes a Condition for each attempt."""

    __slots__ = ("_error", "_result", "attempt_number")

    def __init__(self, attempt: int, result: Any, error: BaseException | None) -> None:
        self.attempt_number = attempt
        self._result = result
        self._error = error

    @property
    def failed(self) -> bool:
        """Whether it raised."""
        return self._error is not None

    def exception(self) -> BaseException | None:
        """What it raised."""
        return self._error

    def result(self) -> Any:
        """What it returned; what it raised is raised here."""
        if self._error is not None:
            raise self._error
        return self._result


class State(tenacity.RetryCallState):
    """tenacity's call state, on the policy's own clock."""

    def __init__(self, fn: Fn | None, args: Args, kwargs: Kwargs, started: float, attempt: int = 1) -> None:
        super().__init__(None, fn, args, kwargs)  # type: ignore[arg-type]  # there is no Retrying; nothing asks for it
        self.start_time = started
        self.attempt_number = attempt

    def ended(self, attempt: int, outcome: object, now: float, *, raised: bool) -> None:
        """Attempt number `attempt` ended at `now`."""
        self.attempt_number = attempt
        self.next_action = None
        error = outcome if raised and isinstance(outcome, BaseException) else None
        self.outcome = Ended(attempt, None if raised else outcome, error)  # type: ignore[assignment]  # its face
        self.outcome_timestamp = now

    def will_sleep(self, delay: float) -> None:
        """The next attempt comes after `delay` seconds."""
        self.upcoming_sleep = delay
        self.next_action = tenacity.RetryAction(delay)
        self.idle_for += delay


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a `Retrying` does besides waiting and stopping."""

    after: Callable[[Any], object] | None
    before_sleep: Callable[[Any], object] | None
    callback: Callable[[Any], Any] | None
    error: type[tenacity.RetryError]
    reraise: bool

    def leaves(self, error: BaseException | None) -> bool:
        """Whether the last error leaves as it is."""
        return self.callback is None and self.reraise and error is not None

    def give_up(self, state: State) -> Any:
        """What tenacity does when it stops, unless the last error leaves.

        Returns:
            What `retry_error_callback` answers instead.

        Raises:
            RetryError: when there is no callback.
        """
        if self.callback is not None:
            return self.callback(state)
        outcome = state.outcome
        assert outcome is not None
        error = outcome.exception()
        last = tenacity.Future.construct(
            state.attempt_number, outcome.result() if error is None else error, error is not None
        )
        raise self.error(last) from error


def looks_at_results(given: object) -> bool:
    """Whether a retry object may want a result to be replaced."""
    if isinstance(given, (tenacity.retry_any, tenacity.retry_all)):
        return any(looks_at_results(one) for one in given.retries)
    return type(given) not in _ERRORS_ONLY


def wants(given: Callable[[Any], Any], state: State) -> bool:
    """Whether a retry object wants another attempt. May raise what it raises."""
    outcome = state.outcome
    if outcome is not None and isinstance(outcome.exception(), tenacity.TryAgain):
        return True
    return bool(given(state))


def results_wanted(given: Callable[[Any], Any], now: Callable[[], float]) -> Callable[[Any], bool]:
    """A predicate of results: whether a retry object wants one replaced. One that raises is logged: it is good then."""

    def failed(result: Any) -> bool:
        try:
            state = State(None, (), {}, now())
            state.ended(1, result, state.start_time, raised=False)
            return bool(given(state))
        except Exception:
            logger.exception("a retry object raised; the result counts as good")
            return False

    return failed


def read(retrying: object) -> tuple[dict[str, Any], Callable[[Any], Any], Hooks]:
    """(wait=, stop= and the like; the retry object; the rest) of a whole `Retrying`.

    Raises:
        ConfigError: when it is none, or does what this library does in another way.
    """
    if not isinstance(retrying, tenacity.BaseRetrying):
        raise ConfigError(
            f"Retry.of: a tenacity.Retrying or AsyncRetrying is read, not {retrying!r}; of a function decorated with"
            " tenacity it is `function.retry`",
            path="retrying",
        )
    if retrying.before is not tenacity.before_nothing:
        raise ConfigError(
            "Retry.of: before= runs before every attempt, also when nothing fails: do that in the function itself,"
            " or take before_sleep=",
            path="before",
        )
    if not getattr(retrying.sleep, "__module__", "").startswith("tenacity"):
        raise ConfigError("Retry.of: sleep= is not used, waits go through clock=: give that", path="sleep")
    after = None if retrying.after is tenacity.after_nothing else retrying.after
    for path, hook in (
        ("after", after),
        ("before_sleep", retrying.before_sleep),
        ("retry", retrying.retry),
        ("retry_error_callback", retrying.retry_error_callback),
    ):
        if hook is not None and _is_async(hook):
            raise ConfigError(f"Retry.of: {path} must be a plain function, {hook!r} is async", path=path)
    hooks = Hooks(
        after, retrying.before_sleep, retrying.retry_error_callback, retrying.retry_error_cls, retrying.reraise
    )
    numbers: dict[str, Any] = {"wait": retrying.wait, "stop": retrying.stop}
    if not retrying.enabled:
        numbers = {"attempts": 1}
    return numbers, retrying.retry, hooks


def _is_async(hook: object) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004  # the bound method itself is asked for
