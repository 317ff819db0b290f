"""Stop calling what does not answer, and probe until it does."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from resilient import events
from resilient.checks import number, positive_seconds
from resilient.clock import Clock
from resilient.errors import CircuitOpenError, ConfigError, FailureInfo, RejectedError
from resilient.events import publish
from resilient.gate_layers import Ticket, alone, lone
from resilient.outcome import Classification, Match
from resilient.policies.circuit_closed import Closed, MetricsOnly
from resilient.policies.circuit_half_open import HalfOpen
from resilient.policies.circuit_listeners import Listeners
from resilient.policies.circuit_machine import Machine
from resilient.policies.circuit_report import CircuitBreakerSnapshot, CircuitRejected
from resilient.policies.circuit_settings import OWNER, BreakerSettings, Settings, settings_of
from resilient.policies.circuit_states import Disabled, Durations, ForcedOpen, Open, Rejection, State, because
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs, is_async
from resilient.window import CountWindow, TimeWindow

if TYPE_CHECKING:
    from resilient.policies.circuit_sharing import Sharing
    from resilient.shared_state import SharedState

logger = logging.getLogger("resilient")


class CircuitBreaker(Machine):
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
        causes: True to judge an error also by those it was raised from (`raise X from Y`): ignored if one of them is to
            be ignored, a failure if one of them is one; default False.
        open_for: a function of the result or the error of each call: seconds for which the circuit opens at once, at
            most `max_open_duration`, or None. `resilient.retry_after` reads the Retry-After of a 429 or 503. Only for
            a dependency that is one host, or whose hosts share the limit.
        shared: state that the processes of a fleet share: a `RedisState`, or any pybreaker storage; default None.
        listeners: called with every event of this breaker, outside its lock: state changes in the order they happened,
            rejections by the thread whose call is refused. Of pybreaker's listener objects the `state_change` is heard.
        clock: default the machine's monotonic clock.
        rng: gives a float in [0, 1) for the jitter of open times; default `random.random`.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        TypeError: at construction, for a listener that is async or can not be called.
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
    rejects_with = CircuitOpenError

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
        causes: bool = False,
        open_for: Callable[[Any], float | None] | None = None,
        shared: SharedState | object | None = None,
        listeners: Sequence[Any] = (),
        clock: Clock | None = None,
        rng: Callable[[], float] | None = None,
    ) -> None:
        settings = settings_of(
            window,
            minimum_calls,
            failure_rate,
            consecutive_failures,
            slow_call_duration,
            slow_call_rate,
            open_duration,
            max_open_duration,
            half_open_probes,
            half_open_successes,
            half_open_failures,
            half_open_timeout,
        )
        self._open_for = _function("open_for", open_for, "of the result or the error that gives seconds or None")
        super().__init__(
            name,
            settings,
            Classification(on, ignore, on_result, causes),
            Listeners.of(listeners),
            clock,
            _function("rng", rng, "that gives a float in [0, 1)") or random.random,
        )
        if shared is not None:  # the last step: from now on another thread looks at this breaker
            self._sharing = _share(self, shared)

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
                since=state.since,
                at=now,
                calls=calls,
                failures=failures,
                slow=slow,
                failure_rate=failures / calls if enough else None,
                slow_call_rate=slow / calls if enough else None,
                rejected=self._rejected + state.turned_away(),
                retry_after=state.retry_after(now),
                last_failure=state.last_failure(),
                successes=self._ended + ended - self._failed - failed,
                failed=self._failed + failed,
                ignored=self.ignored,
                late=self.late,
            )

    def configure(self, **changes: Unpack[BreakerSettings]) -> None:
        """Change settings while it runs: the numbers of the constructor, by the same names.

        Counts, state and permits stay, and an open circuit keeps its end. Only a `window` of another length begins
        anew, empty. What is judged from then on, is judged by the new settings.

        Args:
            changes: `failure_rate=`, `open_duration=` … as at construction; what is not named stays.

        Raises:
            ConfigError: for a name that is no setting or a value out of range; then nothing has changed.

        Example:
            >>> from resilient import CircuitBreaker
            >>> breaker = CircuitBreaker("rates")
            >>> breaker.configure(failure_rate=0.3, open_duration=10.0)
        """
        self._replace_settings(lambda old: old.changed(dict(changes)))

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of another breaker, as `configure` does."""
        self._replace_settings(lambda _old: other.settings)

    def _replace_settings(self, change: Callable[[Settings], Settings]) -> None:
        while True:
            old = self.settings
            new = change(old)
            attempt = self.state_object.attempt
            durations = Durations(new.open_time(1, self.name), new.open_time(attempt + 1, self.name))
            with self.lock:
                if self.settings is old:  # else somebody else changed them at the same time: theirs must not be lost
                    self.settings = new
                    self.state_object.adjust_locked(old, new, durations, self.now())
                    return

    def force_open(self) -> None:
        """Reject everything until `reset()`."""
        self._by_hand(lambda now: ForcedOpen(self, now))

    def disable(self) -> None:
        """Admit everything, count nothing, until `reset()`."""
        self._by_hand(lambda now: Disabled(self, now))

    def metrics_only(self) -> None:
        """Admit everything, count, tell once when it would have opened, until `reset()`."""
        self._by_hand(lambda now: MetricsOnly(self, now))

    def reset(self) -> None:
        """Closed, with empty counts, from any state."""
        first = self._open_time(1)
        self._by_hand(lambda now: Closed(self, now, first))

    def close(self) -> None:
        """Close an open or half-open circuit, with empty counts: somebody knows that the dependency is well.

        Closed, it does nothing. In a state set by hand it does nothing but log a warning: `reset()` leaves that.
        """
        self._warn_if_by_hand("close", self._close("closed by hand", local=True))

    def open(self, seconds: float | None = None) -> None:
        """Open now, by hand or because the dependency says so; then half-open as usual.

        When it is open already, the later end wins. In a state set by hand it does nothing but log a warning.

        Args:
            seconds: exactly how long, more than 0; default the breaker's own open time.

        Raises:
            ConfigError: when `seconds` is not a positive number.
        """
        exact = None if seconds is None else positive_seconds("CircuitBreaker.open", "seconds", seconds)
        self._warn_if_by_hand("open", self._open(exact, "opened by hand", None, local=True))

    def describe(self) -> str:
        """One sentence: when it opens, for how long."""
        return f"CircuitBreaker {self.name!r}: opens at {self.settings.describe()}"

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
        if self._sharing is not None:
            self._share_here(self._sharing)
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
                self._half_open(state, now)

    def turn_away(self) -> bool:
        """Refuse a call without raising, if it is sure to be refused and nobody listens to refusals."""
        now = self.now()
        state = self.state_object
        if now >= state.turns_away_until or self._hearers or events.HEARERS.all:
            return False
        next(state.refusals.ticks)  # nothing was called since the state was read: this is counted before it is replaced
        return True

    def rejection(self) -> RejectedError:
        """What a call that was turned away would have raised."""
        state, now = self.state_object, self.now()
        answer = state.admit(now, 0.0) if isinstance(state, Open) else None
        if answer is None:  # its time ended, or another state came, a moment ago
            answer = Rejection(0.0, state.last_failure(), "a moment ago")
        return self._error(answer)

    def _half_open(self, opened: Open, now: float) -> None:
        """Let probes in; of those who ask at once the first does it."""
        if self._sharing is not None and (wait := self._sharing.may_probe(now)) > 0:
            self._reject(Rejection(wait, opened.info, because("another process may be probing", opened.info)), now)
        durations = Durations(self._open_time(1), self._open_time(opened.attempt + 1))
        with self.lock:
            half_open = HalfOpen(opened, self, self.now(), durations)
            self.become_locked(opened, half_open, "its open time is over", None)
        self.deliver()

    def _share_here(self, sharing: Sharing) -> None:
        """A forked child has no thread that shares: its first call starts one."""
        sharing.start()
        with self.lock:
            state = self.state_object
            self.standing = state if state.admits_all else None

    def _reject(self, why: Rejection, now: float) -> NoReturn:
        with self.lock:
            self._rejected += 1
        if self._hearers or events.HEARERS.all:
            publish(CircuitRejected(self.name, now, why.retry_after), self._hearers)
        error = self._error(why)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", error)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _error(self, why: Rejection) -> CircuitOpenError:
        left, info, reason = why
        text = f"circuit {self._name!r} is open: {reason}"
        if left is not None:
            text += f"; next try in {left:.3g} s"
        return CircuitOpenError(text, policy=self._name, retry_after=left, last_failure=info)

    # --- an answer that says when to come back -------------------------------------------------------------------

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind this breaker; no lock is held while it runs."""
        gated = super().layer(inner, limit, given)
        if self._open_for is None:
            return gated
        heed = self.heed

        def heeding(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            try:
                result = gated(fn, args, kwargs)
            except Exception as error:
                heed(error)
                raise
            heed(result)
            return result

        return self.marked(heeding)

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` behind this breaker, for async functions."""
        gated = super().alayer(inner, limit, given)
        if self._open_for is None:
            return gated
        heed = self.heed

        async def heeding(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            try:
                result = await gated(fn, args, kwargs)
            except Exception as error:
                heed(error)
                raise
            heed(result)
            return result

        return self.marked(heeding)

    def alone(self, fn: Fn) -> Fn | None:
        """`fn` behind this breaker and nothing else."""
        if self._open_for is not None:
            return None
        return alone(self, fn, self._verdicts) if is_async(fn) else lone(self, fn, self._verdicts)

    def heed(self, told: object) -> None:
        """Open, if the result or error of a call that was settled says for how long."""
        if self._open_for is None or isinstance(told, RejectedError):
            return
        try:
            given = self._open_for(told)
            seconds = 0.0 if given is None else number(OWNER, "open_for", given)
        except Exception:
            logger.exception("circuit %r: open_for raised or gave no seconds; nothing opens", self.name)
            return
        if seconds > 0:
            seconds = min(seconds, self.settings.max_open_duration)
            now = self.now()
            info = FailureInfo.of(told, now) if isinstance(told, Exception) else FailureInfo("result", "", now)
            self._open(seconds, f"told to wait {seconds:.3g} s", info, local=True)

    # --- what the shared state of a fleet asks for -----------------------------------------------------------------

    def open_from_elsewhere(self, seconds: float, reason: str) -> None:
        """Another process opened it for `seconds` more; what is open longer stays so."""
        if seconds > 0:
            self._open(seconds, reason, None, local=False)

    def close_from_elsewhere(self) -> None:
        """Another process closed it."""
        self._close("closed by another process", local=False)


def _function(path: str, given: Any, what: str) -> Any:
    if given is not None and (not callable(given) or is_async(given)):
        raise ConfigError(f"{OWNER}: {path} must be a plain function {what}, not {given!r}", path=path)
    return given


def _share(breaker: CircuitBreaker, shared: object) -> Sharing | None:
    from resilient.policies.circuit_sharing import share

    return share(breaker, shared)
