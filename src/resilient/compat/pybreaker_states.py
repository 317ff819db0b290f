"""The three states of a pybreaker circuit: what they do with the end of a call, and whom they tell.

All of it runs under the breaker's lock, as pybreaker's listeners and storages expect. The guarded call does not.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Literal, NoReturn, overload

import pybreaker as upstream

from resilient.compat.pybreaker_trial import Trial

if TYPE_CHECKING:
    from resilient.compat.pybreaker import CircuitBreaker

logger = logging.getLogger("resilient")


class CircuitBreakerState(upstream.CircuitBreakerState):
    """What the three states share: a listener that raises changes neither the outcome nor the circuit."""

    _breaker: CircuitBreaker

    @overload
    def _handle_error(self, exc: BaseException, reraise: Literal[True] = ...) -> NoReturn: ...

    @overload
    def _handle_error(self, exc: BaseException, reraise: Literal[False] = ...) -> None: ...

    def _handle_error(self, exc: BaseException, reraise: bool = True) -> None:
        breaker = self._breaker
        if breaker.is_system_error(exc):
            breaker._inc_counter()
            for listener in breaker.listeners:
                try:
                    listener.failure(breaker, exc)
                except Exception as error:
                    _listener_failed(listener, breaker, error)
            self.on_failure(exc)
        else:
            self._handle_success()
        if reraise:
            raise exc

    def _handle_success(self) -> None:
        breaker = self._breaker
        breaker._state_storage.reset_counter()
        self.on_success()
        for listener in breaker.listeners:
            try:
                listener.success(breaker)
            except Exception as error:
                _listener_failed(listener, breaker, error)

    def _tell_change(self, prev_state: upstream.CircuitBreakerState | None) -> None:
        breaker = self._breaker
        for listener in breaker.listeners:
            try:
                listener.state_change(breaker, prev_state, self)
            except Exception as error:
                _listener_failed(listener, breaker, error)


class CircuitClosedState(CircuitBreakerState, upstream.CircuitClosedState):
    """Calls pass; `fail_max` failures in a row open the circuit."""

    def __init__(
        self, cb: CircuitBreaker, prev_state: upstream.CircuitBreakerState | None = None, notify: bool = False
    ) -> None:
        CircuitBreakerState.__init__(self, cb, upstream.STATE_CLOSED)
        if notify:  # only then: a second breaker on one storage must not lose the count of the first
            cb._state_storage.reset_counter()
            self._tell_change(prev_state)

    def on_failure(self, exc: BaseException) -> None:
        """Open at the threshold."""
        breaker = self._breaker
        if breaker._state_storage.counter >= breaker.fail_max:
            breaker._trip("Failures threshold reached, circuit breaker opened", exc)


class CircuitOpenState(CircuitBreakerState, upstream.CircuitOpenState):
    """Calls are refused until `reset_timeout` seconds have passed."""

    def __init__(
        self, cb: CircuitBreaker, prev_state: upstream.CircuitBreakerState | None = None, notify: bool = False
    ) -> None:
        CircuitBreakerState.__init__(self, cb, upstream.STATE_OPEN)
        if notify:
            cb._state_storage.reset_success_counter()
            self._tell_change(prev_state)


class CircuitHalfOpenState(CircuitBreakerState, upstream.CircuitHalfOpenState):
    """One call at a time tries the dependency; `success_threshold` successes close, one failure opens."""

    def __init__(
        self, cb: CircuitBreaker, prev_state: upstream.CircuitBreakerState | None = None, notify: bool = False
    ) -> None:
        CircuitBreakerState.__init__(self, cb, upstream.STATE_HALF_OPEN)
        self._trial: weakref.ref[Trial] | None = None  # weak: a generator that is dropped unstarted frees the place
        if notify:
            cb._state_storage.reset_success_counter()
            self._tell_change(prev_state)

    def begin_trial(self, lease_ends: float) -> Trial:
        """Give the place away."""
        trial = Trial(lease_ends)
        self._trial = weakref.ref(trial)
        return trial

    def running_trial(self, now: float) -> Trial | None:
        """Who holds the place; None when it is free."""
        trial = None if self._trial is None else self._trial()
        if trial is None or trial.over or trial.lease_ends <= now:
            return None
        return trial

    def holds_place(self, trial: Trial) -> bool:
        """Whether `trial` still has the place; after its lease another call may have taken it."""
        return self._trial is not None and self._trial() is trial

    def vacate(self) -> None:
        """Free the place: in a forked child nobody is left who would."""
        self._trial = None

    def on_failure(self, exc: BaseException) -> NoReturn:
        """Open again."""
        self._breaker._trip("Trial call failed, circuit breaker opened", exc)


def _listener_failed(listener: object, breaker: CircuitBreaker, error: Exception) -> None:
    kind = type(listener).__name__
    logger.error("circuit %r: its listener %s raised", breaker._policy_name, kind, exc_info=error)
