"""The state machine of a circuit breaker: one state object, replaced under a short lock, and who hears of it.

Nothing here admits a call. Every change goes through `become_locked`; what is to be told is queued there and delivered
after the lock, in order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from resilient.checks import number
from resilient.clock import Clock, forget_on_fork
from resilient.errors import FailureInfo
from resilient.events import Outbox, publish
from resilient.gate import Gate
from resilient.outcome import Classification
from resilient.policies.circuit_closed import Closed, MetricsOnly
from resilient.policies.circuit_half_open import HalfOpen
from resilient.policies.circuit_listeners import Listeners
from resilient.policies.circuit_report import CircuitStateChanged, CircuitThresholdReached
from resilient.policies.circuit_settings import OWNER, Settings
from resilient.policies.circuit_states import CircuitState, Open, State, Trip
from resilient.tally import GIL

if TYPE_CHECKING:
    from resilient.policies.circuit_sharing import Sharing

logger = logging.getLogger("resilient")

_JITTER = 0.1  # open times are 1 … 1.1 times as long: the processes of a fleet must not probe in step


class _News(NamedTuple):
    event: CircuitStateChanged | CircuitThresholdReached
    state: CircuitState  # the new one, or the one whose threshold was reached
    error: BaseException | None
    local: bool  # decided here, not by another process


class Machine(Gate):
    """One state object, replaced under a short lock."""

    _sharing: Sharing | None = None  # what the fleet shares

    def __init__(
        self,
        name: str | None,
        settings: Settings,
        given: Classification,
        listeners: Listeners,
        clock: Clock | None,
        rng: Callable[[], float],
    ) -> None:
        super().__init__(name, given=given, clock=clock)
        self.settings = settings
        self._hearers = listeners.events
        self._listeners = listeners
        self._rng = rng
        self._stretch = 1.0
        self.lock = threading.RLock()
        self.ignored = self.late = 0
        self._ended = self._failed = self._rejected = 0  # of the states that are over; refusals that raised, of all
        self._outbox: Outbox[_News] = Outbox(self._tell)
        self.now = self._clock.monotonic
        self.state_object: CircuitState = Closed(self, self.now(), self._open_time(1))
        self.standing = self.state_object
        self._draw()
        forget_on_fork(self)

    # --- what the states ask for, under the lock ------------------------------------------------------------------

    def become_locked(
        self, old: CircuitState, new: CircuitState, reason: str, error: BaseException | None, local: bool = True
    ) -> None:
        """Replace `old` by `new` and queue the event, if any; nothing when `old` is no longer the state."""
        changed = new.kind is not old.kind or isinstance(new, Open)  # else `reset()` while closed: nothing to tell
        news = _News(CircuitStateChanged(self.name, self.now(), old.kind, new.kind, reason), new, error, local)
        # Until the state is replaced nothing is called: no thread and no signal handler comes in between. What `old`
        # has counted is read after that: a success counts without the lock while `old` is the state.
        if self.state_object is not old:
            return
        self.state_object = new
        self.standing = new if new.admits_all else None
        if changed:
            self._outbox.queue.append(news)
        self.fold_locked(*old.totals(), old.turned_away())

    def fold_locked(self, ended: int, failed: int, turned_away: int = 0) -> None:
        """Add what a state or a window that is over has counted to the totals."""
        self._ended += ended
        self._failed += failed
        self._rejected += turned_away

    def threshold_locked(self, state: CircuitState, reason: str) -> None:
        """Queue the event that a threshold was reached."""
        self._outbox.queue.append(
            _News(CircuitThresholdReached(self.name, self.now(), reason), state, None, local=True)
        )

    def jittered(self, seconds: float) -> float:
        """`seconds`, up to 10 % longer by chance; drawn ahead, for this is asked for under the lock."""
        return seconds * self._stretch

    def deliver(self) -> None:
        """Deliver what was queued; after the lock."""
        self._outbox.drain()

    # --- the rest ---------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """A new lock: the parent's may have been held by a thread that this process does not have."""
        self.lock = threading.RLock()
        self.state_object.after_fork_in_child()
        self._outbox.after_fork_in_child()
        self._draw()  # prefork workers must not probe in step
        if self._sharing is not None:
            self.standing = None  # the next call asks for admission, and starts the thread that this process lacks

    def _by_hand(self, make: Callable[[float], CircuitState]) -> None:
        with self.lock:
            self.become_locked(self.state_object, make(self.now()), "set by hand", None)
        self.deliver()

    def _open(self, exact: float | None, reason: str, info: FailureInfo | None, *, local: bool) -> CircuitState:
        """Open for `exact` seconds, or the breaker's own time; a later end and a state set by hand stay.

        Returns:
            The state before.
        """
        drawn = self.jittered(self._open_time(1)) if exact is None else exact
        with self.lock:
            now, state = self.now(), self.state_object
            until = now + drawn
            if not state.by_hand and not (isinstance(state, Open) and state.until >= until):
                attempt = max(state.attempt, 0 if exact is not None else 1)
                trip = Trip(reason, now, None, info, state.counts(now))
                opened = Open(self, until=until, attempt=attempt, trip=trip, slowest=state.slowest)
                if isinstance(state, Open):
                    opened.since = state.since  # a later end is no other opening
                self.become_locked(state, opened, reason, None, local)
        self.deliver()
        return state

    def _close(self, reason: str, *, local: bool) -> CircuitState:
        """Close an open or half-open circuit; returns the state before."""
        first = self._open_time(1)
        with self.lock:
            state = self.state_object
            if isinstance(state, (Open, HalfOpen)):
                self.become_locked(state, Closed(self, self.now(), first), reason, None, local)
        self.deliver()
        return state

    def _warn_if_by_hand(self, what: str, state: CircuitState) -> None:
        if state.by_hand:
            logger.warning("circuit %r is %s: %s() does nothing, reset() leaves it", self.name, state.kind.value, what)

    def _open_time(self, attempt: int) -> float:
        return self.settings.open_time(attempt, self._name)

    def _draw(self) -> None:
        """Draw how much longer the next opening will be. Calls the user's function: never under the lock."""
        try:
            self._stretch = 1 + _JITTER * number(OWNER, "rng", self._rng())
        except Exception:  # chance that fails must not reach the callers of a service that is down
            logger.exception("circuit %r: rng gave no number, its open times are not spread", self.name)
            self._stretch = 1.0

    def _tell(self, news: _News) -> None:
        event, state, error, local = news
        if isinstance(event, CircuitThresholdReached):
            if isinstance(state, MetricsOnly):
                logger.warning("circuit %r would open: %s (it is metrics-only)", event.name, event.reason)
            publish(event, self._hearers)
            return
        if isinstance(state, Open):
            state.describe_failure()
            if GIL and not logger.isEnabledFor(
                logging.DEBUG
            ):  # asked once per opening: it would be a fifth of a refusal
                state.turns_away_until = state.until
            self._draw()
        if self._sharing is not None and local:
            self._sharing.changed(state.kind, state.retry_after(self.now()), event.reason)
        if event.new is event.old:  # a later end while open: no news but for the fleet
            return
        level = logging.WARNING if event.new in {State.OPEN, State.FORCED_OPEN} else logging.INFO
        logger.log(
            level,
            "circuit %r: %s → %s: %s",
            event.name,
            event.old.value,
            event.new.value,
            event.reason,
            exc_info=error,
        )
        self._listeners.tell_change(self, event)
        publish(event, self._hearers)
