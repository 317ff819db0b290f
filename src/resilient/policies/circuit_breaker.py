"""Stop calling what does not answer, and probe until it does."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from resilient import events
from resilient.checks import number, positive_seconds, ratio, whole
from resilient.clock import Clock, forget_on_fork
from resilient.errors import CircuitOpenError, ConfigError
from resilient.events import Event, Outbox, check_listener, publish
from resilient.gate import Gate, Ticket
from resilient.outcome import Classification, Match
from resilient.policies.circuit_closed import Closed, MetricsOnly
from resilient.policies.circuit_half_open import HalfOpen
from resilient.policies.circuit_report import (
    CircuitBreakerSnapshot,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
)
from resilient.policies.circuit_states import (
    CircuitState,
    Disabled,
    Durations,
    ForcedOpen,
    Open,
    Rejection,
    Settings,
    State,
    Trip,
)
from resilient.window import CountWindow, TimeWindow

logger = logging.getLogger("resilient")

_JITTER = 0.1  # open times are 1 … 1.1 times as long: the processes of a fleet must not probe in step


class _Transition(NamedTuple):
    event: Event
    new: CircuitState | None
    error: BaseException | None


class CircuitBreaker(Gate):
    """Stop calling what does not answer, and probe until it does.

    Closed, it counts. It opens when, of at least `minimum_calls` in the window, the `failure_rate` failed or the
    `slow_call_rate` were slow; or after `consecutive_failures` while there are fewer calls than that; or after
    `minimum_calls` failures in a row at any volume. Open, it rejects with `CircuitOpenError` at once. After
    `open_duration` the next caller is the probe: half-open, one call at first, one place more for each success while
    callers are being refused; closed after `half_open_successes` when nobody is refused any more.

    One object guards functions and async functions, from any number of threads and event loops; no lock is held while
    a call runs. It adds less than a microsecond to a call. Do not make one per call: it would never see enough calls to
    open.

    Args:
        name: label in metrics, events and errors; default "circuit_breaker", or the name of its command.
        window: which calls count, `TimeWindow` (default the last 10 s in 10 buckets) or `CountWindow`.
        minimum_calls: fewer calls than this are never judged by their rates; default 20 (Hystrix), 1 or more.
        failure_rate: ratio of failed calls that opens, in (0, 1], default 0.5; None: the rate is not judged.
        consecutive_failures: failures in a row that open while there are fewer than `minimum_calls`, default 5 (a
            process that sees few calls would never open by its rate); without a rate, at any volume; None: off.
        slow_call_duration: seconds from which a call is slow, more than 0; default None: no call is slow.
        slow_call_rate: ratio of slow calls that opens, in (0, 1], default 1.0.
        open_duration: seconds to stay open, more than 0, default 5.0, doubled each time the probes fail; or a function
            of the attempt (1, 2, …) that gives the seconds. Each is made up to 10 % longer by chance.
        max_open_duration: the longest open time in seconds, default 60.0.
        half_open_probes: calls admitted at once when half-open begins, default 1.
        half_open_successes: probes that must succeed to close, default 3.
        half_open_failures: probes that must fail to open again, default 1; more where single failures are normal.
        half_open_timeout: seconds a probe without a limit of its own is waited for, default 10.0.
        on: which exceptions are failures, default every Exception; errors with an HTTP status of 4xx other than 408,
            425 and 429 count as successes: the dependency answered.
        ignore: which exceptions say nothing about the dependency; wins over `on`.
        on_result: a predicate: True for a returned value that is a failure.
        listeners: called with every event of this breaker, outside its lock: state changes in the order they happened,
            rejections by the thread whose call is refused.
        clock: default the machine's monotonic clock.
        rng: gives a float in [0, 1) for the jitter of open times; default `random.random`.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        CircuitOpenError: from a guarded call while the circuit is open.

    Source: half-open that opens gradually and drops late results is our own; the defaults are Hystrix's.

    Example:
        >>> from resilient import CircuitBreaker
        >>> breaker = CircuitBreaker("prices", failure_rate=0.5, open_duration=5.0)
        >>> @breaker
        ... def price(sku: str) -> float:
        ...     return 9.5
        >>> price("apple")
        9.5
        >>> breaker.state
        <State.CLOSED: 'closed'>
    """

    kind = "circuit_breaker"

    def __init__(
        self,
        name: str | None = None,
        *,
        window: TimeWindow | CountWindow = TimeWindow(),
        minimum_calls: int = 20,
        failure_rate: float | None = 0.5,
        consecutive_failures: int | None = 5,
        slow_call_duration: float | None = None,
        slow_call_rate: float = 1.0,
        open_duration: float | Callable[[int], float] = 5.0,
        max_open_duration: float = 60.0,
        half_open_probes: int = 1,
        half_open_successes: int = 3,
        half_open_failures: int = 1,
        half_open_timeout: float = 10.0,
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        listeners: Sequence[Callable[[Any], object]] = (),
        clock: Clock | None = None,
        rng: Callable[[], float] | None = None,
    ) -> None:
        owner = "CircuitBreaker"
        if not isinstance(window, (TimeWindow, CountWindow)):
            raise ConfigError(f"{owner}: window must be a TimeWindow or a CountWindow, not {window!r}", path="window")
        for listener in listeners:
            check_listener(listener)
        self.settings = Settings(
            window=window,
            minimum_calls=whole(owner, "minimum_calls", minimum_calls),
            failure_rate=None if failure_rate is None else ratio(owner, "failure_rate", failure_rate),
            consecutive_failures=None
            if consecutive_failures is None
            else whole(owner, "consecutive_failures", consecutive_failures),
            slow_call_duration=float("inf")
            if slow_call_duration is None
            else positive_seconds(owner, "slow_call_duration", slow_call_duration),
            slow_call_rate=ratio(owner, "slow_call_rate", slow_call_rate),
            half_open_probes=whole(owner, "half_open_probes", half_open_probes),
            half_open_successes=whole(owner, "half_open_successes", half_open_successes),
            half_open_failures=whole(owner, "half_open_failures", half_open_failures),
            half_open_timeout=positive_seconds(owner, "half_open_timeout", half_open_timeout),
        )
        _check_can_open(self.settings)
        self._max_open = positive_seconds(owner, "max_open_duration", max_open_duration)
        if callable(open_duration):
            number(owner, "open_duration", open_duration(1))
            self._open_duration: float | Callable[[int], float] = open_duration
        else:
            self._open_duration = positive_seconds(owner, "open_duration", open_duration)
        if rng is not None and not callable(rng):
            raise ConfigError(f"{owner}: rng must be a function that gives a float in [0, 1), not {rng!r}", path="rng")
        self._rng = rng or random.random
        self._stretch = 1.0
        super().__init__(name, given=Classification(on, ignore, on_result), clock=clock)
        self.lock = threading.RLock()
        self.ignored = self.late = 0
        self._ended = self._failed = 0  # of the states that are over
        self._rejected = 0
        self._listeners = tuple(listeners)
        self._outbox: Outbox[_Transition] = Outbox(self._tell)
        self.now = self._clock.monotonic
        self.state_object: CircuitState = Closed(self, self.now(), self._open_time(1))
        self.standing = self.state_object
        self._draw()
        forget_on_fork(self)

    # --- the face ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state now; reading changes nothing."""
        return self.state_object.kind

    def snapshot(self) -> CircuitBreakerSnapshot:
        """Counts and rates of one moment: consistent, cheap, plain data."""
        with self.lock:
            now = self.now()
            state = self.state_object
            calls, failures, slow = state.counts(now)
            enough = calls >= self.settings.minimum_calls
            ended, failed = state.totals()
            return CircuitBreakerSnapshot(
                name=self.name,
                state=state.kind,
                calls=calls,
                failures=failures,
                slow=slow,
                failure_rate=failures / calls if enough else None,
                slow_call_rate=slow / calls if enough else None,
                rejected=self._rejected,
                retry_after=state.retry_after(now),
                successes=self._ended + ended - self._failed - failed,
                failed=self._failed + failed,
                ignored=self.ignored,
                late=self.late,
            )

    def force_open(self) -> None:
        """Reject everything until `reset()`."""
        self._by_hand(lambda _now: ForcedOpen(self))

    def disable(self) -> None:
        """Admit everything, count nothing, until `reset()`."""
        self._by_hand(lambda _now: Disabled(self))

    def metrics_only(self) -> None:
        """Admit everything, count, tell once when it would have opened, until `reset()`."""
        self._by_hand(lambda now: MetricsOnly(self, now))

    def reset(self) -> None:
        """Closed, with empty counts, from any state."""
        first = self._open_time(1)
        self._by_hand(lambda now: Closed(self, now, first))

    def open(self, seconds: float | None = None) -> None:
        """Open now, by hand or because the dependency says so; then half-open as usual.

        When it is open already, the later end wins. In a state set by hand it does nothing but log a warning.

        Args:
            seconds: exactly how long, more than 0; default the breaker's own open time.

        Raises:
            ConfigError: when `seconds` is not a positive number.
        """
        exact = None if seconds is None else positive_seconds("CircuitBreaker.open", "seconds", seconds)
        drawn = self.jittered(self._open_time(1))
        with self.lock:
            now, state = self.now(), self.state_object
            until = now + (drawn if exact is None else exact)
            if isinstance(state, (ForcedOpen, Disabled, MetricsOnly)):
                refused: State | None = state.kind
            else:
                refused = None
                if not (isinstance(state, Open) and state.until >= until):
                    attempt = max(state.attempt, 0 if exact is not None else 1)
                    trip = Trip("opened by hand", now, None, None, state.counts(now))
                    opened = Open(self, until=until, attempt=attempt, trip=trip, slowest=state.slowest)
                    self.become_locked(state, opened, trip.reason, None)
        self.deliver()
        if refused is not None:
            logger.warning("circuit %r is %s: open() does nothing, reset() leaves it", self.name, refused.value)

    def describe(self) -> str:
        """One sentence: when it opens, for how long."""
        settings = self.settings
        ways = []
        if settings.failure_rate is not None:
            ways.append(f"{settings.failure_rate:.0%} of at least {settings.minimum_calls} calls in {settings.window}")
        if settings.consecutive_failures is not None:
            ways.append(f"{settings.consecutive_failures} failures in a row")
        if settings.slow_call_duration != float("inf"):
            ways.append(f"{settings.slow_call_rate:.0%} of calls slower than {settings.slow_call_duration:g} s")
        return f"CircuitBreaker {self.name!r}: opens at " + ", or ".join(ways)

    def __repr__(self) -> str:
        with self.lock:  # counting rolls the window
            now, state = self.now(), self.state_object
            calls, failures, _ = state.counts(now)
        text = f"<CircuitBreaker {self.name!r} {state.kind.name}"
        if calls:
            text += f" {failures}/{calls} failed"
        left = state.retry_after(now)
        return f"{text}, {left:.1f} s left>" if left is not None else f"{text}>"

    # --- admission --------------------------------------------------------------------------------------------------

    def admit(self, limit: float) -> Ticket:
        """A ticket for a call that is granted `limit` seconds, or CircuitOpenError."""
        while True:
            state = self.state_object
            now = self.now()
            answer = state.admit(now, limit)
            self._outbox.drain()
            if isinstance(answer, Rejection):
                self._reject(answer, now)
            if answer is not None:
                return answer
            if isinstance(state, Open):
                self._half_open(state)

    def _half_open(self, opened: Open) -> None:
        """Let probes in; of those who ask at once the first does it."""
        durations = Durations(self._open_time(1), self._open_time(opened.attempt + 1))
        with self.lock:
            half_open = HalfOpen(opened, self, self.now(), durations)
            self.become_locked(opened, half_open, "its open time is over", None)
        self.deliver()

    def _reject(self, why: Rejection, now: float) -> NoReturn:
        with self.lock:
            self._rejected += 1
        if self._listeners or events.anyone_listens():
            publish(CircuitRejected(self.name, now, why.retry_after), self._listeners)
        left, info, reason = why
        text = f"circuit {self._name!r} is open: {reason}"
        if left is not None:
            text += f"; next try in {left:.3g} s"
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", text)
        raise CircuitOpenError(text, policy=self._name, retry_after=left, last_failure=info)

    # --- what the states ask for, under the lock ------------------------------------------------------------------

    def become_locked(self, old: CircuitState, new: CircuitState, reason: str, error: BaseException | None) -> None:
        """Replace `old` by `new` and queue the event, if any; nothing when `old` is no longer the state."""
        if self.state_object is not old:
            return
        ended, failed = old.totals()
        self._ended += ended
        self._failed += failed
        self.state_object = new
        self.standing = new if new.admits_all else None
        if new.kind is old.kind:  # `reset()` while closed, a later end while open: nothing to tell
            return
        event = CircuitStateChanged(self.name, self.now(), old.kind, new.kind, reason)
        self._outbox.put(_Transition(event, new, error))

    def threshold_locked(self, reason: str) -> None:
        """Queue the event that a metrics-only circuit would have opened."""
        self._outbox.put(_Transition(CircuitThresholdReached(self.name, self.now(), reason), None, None))

    def jittered(self, seconds: float) -> float:
        """`seconds`, up to 10 % longer by chance; drawn ahead, for this is asked for under the lock."""
        return seconds * self._stretch

    def _draw(self) -> None:
        """Draw how much longer the next opening will be. Calls the user's function: never under the lock."""
        try:
            self._stretch = 1 + _JITTER * number("CircuitBreaker", "rng", self._rng())
        except Exception:  # chance that fails must not reach the callers of a service that is down
            logger.exception("circuit %r: rng gave no number, its open times are not spread", self.name)
            self._stretch = 1.0

    def deliver(self) -> None:
        """Deliver what was queued; after the lock."""
        self._outbox.drain()

    # --- the rest ---------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """A new lock: the parent's may have been held by a thread that this process does not have."""
        self.lock = threading.RLock()
        self.state_object.after_fork_in_child(self.lock)
        self._outbox.after_fork_in_child()
        self._draw()  # prefork workers must not probe in step

    def _by_hand(self, make: Callable[[float], CircuitState]) -> None:
        with self.lock:
            self.become_locked(self.state_object, make(self.now()), "set by hand", None)
        self.deliver()

    def _open_time(self, attempt: int) -> float:
        """Seconds of the open period `attempt`. Calls the user's function: never under the lock."""
        if not callable(self._open_duration):
            return min(self._max_open, self._open_duration * 2.0 ** min(attempt - 1, 60))
        try:
            seconds = number("CircuitBreaker", "open_duration", self._open_duration(attempt))
        except Exception:  # the callers of a service that is down must not get this instead, nor the circuit stay open
            logger.exception("circuit %r: open_duration(%d) gave no time, max_open_duration holds", self.name, attempt)
            return self._max_open
        return min(self._max_open, max(0.0, seconds))

    def _tell(self, item: _Transition) -> None:
        event, new, error = item
        if isinstance(new, Open):
            new.describe_failure()
            self._draw()
        if isinstance(event, CircuitStateChanged):
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
        elif isinstance(event, CircuitThresholdReached):
            logger.warning("circuit %r would open: %s (it is metrics-only)", event.name, event.reason)
        publish(event, self._listeners)


def _check_can_open(settings: Settings) -> None:
    if settings.slow_call_rate != 1.0 and settings.slow_call_duration == float("inf"):
        raise ConfigError(
            "CircuitBreaker: slow_call_rate says nothing without slow_call_duration, from which a call is slow",
            path="slow_call_rate",
        )
    if (
        settings.failure_rate is None
        and settings.consecutive_failures is None
        and settings.slow_call_duration == float("inf")
    ):
        raise ConfigError(
            "CircuitBreaker: it would never open: failure_rate, consecutive_failures and slow_call_duration are None",
            path="failure_rate",
        )
    window = settings.window
    if isinstance(window, CountWindow) and settings.minimum_calls > window.calls:
        raise ConfigError(
            f"CircuitBreaker: minimum_calls ({settings.minimum_calls}) is more than the window holds"
            f" ({window.calls} calls): its rates would never be judged",
            path="minimum_calls",
        )
