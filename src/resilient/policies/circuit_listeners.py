"""Listeners of a breaker: functions of its events, and pybreaker's listener objects, whose `state_change` is heard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from resilient.events import check_listener
from resilient.policies.circuit_report import CircuitStateChanged
from resilient.policies.circuit_states import State

logger = logging.getLogger("resilient")

_THEIR_NAMES = {
    State.CLOSED: "closed",
    State.OPEN: "open",
    State.HALF_OPEN: "half-open",
    State.FORCED_OPEN: "open",
    State.DISABLED: "closed",
    State.METRICS_ONLY: "closed",
}


class NamedState(NamedTuple):
    """A state as pybreaker's listeners read it."""

    name: str


class Listeners(NamedTuple):
    """Who hears one breaker."""

    events: tuple[Callable[[Any], object], ...] = ()
    changes: tuple[Any, ...] = ()  # objects with pybreaker's `state_change(breaker, old, new)`

    @classmethod
    def of(cls, listeners: Iterable[Any]) -> Listeners:
        """Sort and check what was given.

        Raises:
            TypeError: for what can not be called, or is async.
        """
        given = tuple(listeners)
        changes = tuple(one for one in given if _is_pybreakers(one))
        for listener in given:
            check_listener(listener.state_change if _is_pybreakers(listener) else listener)
        return cls(tuple(one for one in given if not _is_pybreakers(one)), changes) if given else NOBODY

    def tell_change(self, breaker: object, event: CircuitStateChanged) -> None:
        """Call each `state_change`, if that is a change in pybreaker's words too. Never raises."""
        old, new = _THEIR_NAMES[event.old], _THEIR_NAMES[event.new]
        if old == new:
            return
        for listener in self.changes:
            try:
                listener.state_change(breaker, NamedState(old), NamedState(new))
            except Exception:
                logger.exception("a listener raised on %r; nothing else changes", event)


NOBODY = Listeners()


def _is_pybreakers(listener: object) -> bool:
    if isinstance(listener, type) and hasattr(listener, "state_change"):
        raise TypeError(f"a listener must be an object, not its class: write {listener.__name__}()")
    return not callable(listener) and hasattr(listener, "state_change")
