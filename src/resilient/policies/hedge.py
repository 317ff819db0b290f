"""A second call when the first is late: the first good answer wins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, Self

from resilient.budget import RetryBudget, RetryPermit
from resilient.checks import number, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.deadline import current_limit
from resilient.errors import ConfigError, RejectedError
from resilient.events import check_listener, publish
from resilient.outcome import FAILURE, Classification, Classifier, Match, classifier, result_check
from resilient.policies.hedge_latency import LEARNED_FROM, Latencies
from resilient.policies.hedge_report import HedgeSnapshot, HedgeStarted
from resilient.policy import UNLIMITED, Args, AsyncCall, Call, Fn, Kwargs, Policy

if TYPE_CHECKING:
    from resilient.policies.hedge_race import Leg, Race

__all__ = ["Hedge", "HedgeSettings", "HedgeSnapshot", "HedgeStarted"]

logger = logging.getLogger("resilient")

OWNER = "Hedge"
DEFAULT_SHARE = 0.1
_WAIT_FOR_LOSERS = 0.05  # what `hedge_race` waits, said here so that `import resilient` stays light


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """What may change while it runs."""

    delay: float | None
    extra: int
    budget: RetryBudget


class Hedge(Policy[Never]):
    """A second call when the first is late; the first good answer wins, the others are cancelled. Async only.

    It cuts the tail: one slow instance, one lost packet, one collection pause. It does not help when the dependency is
    slow altogether; then the budget stops it. The same call is sent twice: use it for reads, and for writes that carry
    an idempotency key. Put it outside a balancer or a transport, so that the second call goes to another instance.

    A failure that counts (`on`, `ignore`, `on_result`) starts the next call at once; any other error leaves at once.
    When all have failed the last failure leaves. A call that a policy further in refuses starts nothing: the others are
    waited for. Losers are cancelled, waited for up to 50 ms, then left to end by themselves; their answers are closed
    when they have an `aclose()` or a `close()`. Each call runs in a task and a copy of the context of its own: context
    variables that it sets do not come back. Under a deadline no hedge is started that could not finish, measured by
    what half of the calls take.

    Args:
        delay: seconds after which the next call is started; default None: learned, the 95th percentile of the last 256
            calls, without hedges of late calls until 50 were seen. 0 starts all at once, `inf` only after a failure.
        extra: further calls at most, default 1.
        budget: what limits hedges altogether, default an own `RetryBudget` of a tenth of the calls.
        name: label in metrics and events; default "hedge".
        on: which exceptions start the next call, default every Exception; errors with an HTTP status of 4xx other than
            408, 425 and 429 leave at once.
        ignore: which exceptions leave at once; wins over `on`.
        on_result: a predicate: True for a returned value that is a failure. Such a result is returned when nothing
            better came.
        listeners: called with a `HedgeStarted` for each hedge.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is out of range; at decoration, for a function that is not async.
        TypeError: at construction, for a listener that is async or can not be called.

    Safe for threads and event loops.

    Source: Dean and Barroso, "The Tail at Scale", 2013; failures that start the next call at once are Polly's, the
    learned delay and the budget Finagle's.

    Example:
        >>> import asyncio
        >>> from resilient.policies.hedge import Hedge
        >>> hedge = Hedge(0.1)
        >>> @hedge
        ... async def price(sku: str) -> float:
        ...     return 9.5
        >>> asyncio.run(price("apple"))
        9.5
    """

    kind = "hedge"

    def __init__(
        self,
        delay: float | None = None,
        *,
        extra: int = 1,
        budget: RetryBudget | None = None,
        name: str | None = None,
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        listeners: Sequence[Callable[[Any], object]] = (),
        clock: Clock | None = None,
    ) -> None:
        if budget is not None and not isinstance(budget, RetryBudget):
            raise ConfigError(f"{OWNER}: budget must be a RetryBudget, not {budget!r}", path="budget")
        self._clock = clock or SYSTEM_CLOCK
        self.settings = HedgeSettings(
            _delay(delay),
            whole(OWNER, "extra", extra, most=100),
            budget if budget is not None else RetryBudget(DEFAULT_SHARE, clock=self._clock),
        )
        self._given = Classification(on, ignore, on_result)
        for listener in listeners:
            check_listener(listener)
        self._hearers = tuple(listeners)
        self._latencies = Latencies()
        self._lock = threading.RLock()  # reentrant: a signal handler may look at the counts
        self._calls = self._hedges = self._won = self._refused = 0
        super().__init__(name)
        forget_on_fork(self)

    # --- the face ---------------------------------------------------------------------------------------------------

    @property
    def delay(self) -> float | None:
        """Seconds after which a hedge is started now; None while that is being learned."""
        fixed = self.settings.delay
        return self._latencies.late if fixed is None else fixed

    def snapshot(self) -> HedgeSnapshot:
        """Counts of one moment: consistent, cheap, plain data."""
        delay = self.delay
        with self._lock:
            return HedgeSnapshot(
                self.name, self._calls, self._hedges, self._won, self._refused, None if delay == UNLIMITED else delay
            )

    def take_settings(self, other: Self) -> None:
        """Go on with delay, number and budget of `other`; counts and what was learned stay."""
        self.settings = other.settings

    def reset(self) -> None:
        """As new: nothing learned, nothing counted, the budget empty."""
        self._latencies = Latencies()
        self.settings.budget.reset()
        with self._lock:
            self._calls = self._hedges = self._won = self._refused = 0

    def granted(self, limit: float) -> float:
        """All of them one after the other, when each fails at its end."""
        return limit * (1 + self.settings.extra) + _WAIT_FOR_LOSERS

    def describe(self) -> str:
        """One sentence: when, how many, how often."""
        settings = self.settings
        calls = "1 more call" if settings.extra == 1 else f"{settings.extra} more calls"
        if settings.delay is None:
            when = f"after the 95th percentile of what calls take, learned from {LEARNED_FROM} of them"
        elif settings.delay == UNLIMITED:
            when = "when one failed"
        else:
            when = f"after {settings.delay:g} s each" if settings.delay else "at once"
        return f"Hedge {self.name!r}: {calls} {when}, for {settings.budget.ratio:.0%} of the calls at most; async only"

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """Each starts when the one before failed at its end, or after the delay if that is sooner."""
        settings = self.settings
        apart = wait if settings.delay is None else min(settings.delay, wait)
        return wait + settings.extra * apart + _WAIT_FOR_LOSERS, calls * (1 + settings.extra)

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """Calls sent twice; a Retry beside it."""
        found = ["a hedged call is sent twice: only for calls that may run twice, such as reads"]
        retries = [other for other in (*outside, *inside) if other.kind == "retry"]
        if retries:
            found.append(
                f"{retries[0]!r} and {self!r} multiply: up to {1 + self.settings.extra} calls per attempt;"
                " use one of them, a Hedge starts the next call after a failure too"
            )
        return found

    def __repr__(self) -> str:
        settings = self.settings
        delay = "" if settings.delay is None else f"{settings.delay:g}"
        extra = "" if settings.extra == 1 else f"extra={settings.extra}"
        return f"Hedge({', '.join(filter(None, (delay, extra)))})"

    def after_fork_in_child(self) -> None:
        """A lock of one's own."""
        self._lock = threading.RLock()
        self._latencies.after_fork_in_child()

    # --- the layers ---------------------------------------------------------------------------------------------------

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Refuse functions that are not async."""
        raise ConfigError(
            f"{self!r} guards async functions only: of two sync calls the slower can not be cancelled, it would keep"
            " its thread and its connection. Use an async client, or a Retry",
            path=self.kind,
        )

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` hedged."""
        verdicts = self._given.or_else(given)
        classify, failed = classifier(verdicts), result_check(verdicts)

        async def hedged(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            return await _Call(self, inner, classify, failed).answer(fn, args, kwargs)

        return hedged

    # --- what one call tells ------------------------------------------------------------------------------------------

    def begin(self) -> HedgeSettings:
        """A caller's call begins."""
        settings = self.settings
        settings.budget.deposit()
        with self._lock:
            self._calls += 1
        return settings

    def may_finish(self, now: float) -> bool:
        """Whether a call that begins now can end before the deadline, as far as anybody knows."""
        deadline = current_limit.get()
        return deadline is None or deadline.on(self._clock, now).end - now > (self._latencies.usual or 0.0)

    def allow(self, budget: RetryBudget) -> RetryPermit | None:
        """Ask the budget."""
        permit = budget.take()
        if permit is None:
            with self._lock:
                self._refused += 1
        return permit

    def tell(self, hedge: int, after: float, now: float, reason: str) -> None:
        """A hedge was started."""
        with self._lock:
            self._hedges += 1
        logger.debug("%r starts hedge %d after %.3g s: %s", self.name, hedge, after, reason)
        publish(HedgeStarted(self.name, now, hedge, after, reason), self._hearers)

    def learn(self, durations: Sequence[float], *, by_hedge: bool) -> None:
        """A call was answered: what it took, and what those that it beat had taken so far."""
        for seconds in durations:
            self._latencies.add(seconds)
        if by_hedge:
            with self._lock:
                self._won += 1


class _Call:
    """One caller's call."""

    __slots__ = ("_classify", "_failed", "_hedge", "_inner", "_last", "_left", "_refusal", "_settings")

    def __init__(
        self, hedge: Hedge, inner: AsyncCall, classify: Classifier, failed: Callable[[Any], bool] | None
    ) -> None:
        self._hedge = hedge
        self._inner = inner
        self._classify, self._failed = classify, failed
        self._settings = hedge.begin()
        self._left = self._settings.extra
        self._last: Leg | None = None  # the last that failed
        self._refusal: Leg | None = None  # the last that was refused further in

    async def answer(self, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        """Run the calls until one is good, or none is left."""
        from resilient.policies.hedge_race import Race

        hedge, now = self._hedge, self._hedge._clock.monotonic
        race = Race(hedge._clock)
        leg: Leg | None = None
        settled: Leg | None = None
        try:
            began = now()
            race.start(self._run(fn, args, kwargs, None))
            delay = hedge.delay if self._settings.delay is None else self._settings.delay
            delay = UNLIMITED if delay is None else delay
            due, running = began + delay, 1
            while running:
                leg = await race.next(due if self._left else UNLIMITED)
                if leg is not None:
                    running -= 1
                    if self._is_final(leg):
                        settled = leg
                        self._learn(race, leg, now())
                        return leg.result()
                    if leg is not self._last:
                        continue  # refused further in, as the next one would be
                if self._left and self._may_start(now()):
                    permit = hedge.allow(self._settings.budget)
                    if permit is None:
                        self._left = 0  # what runs may still answer
                        continue
                    self._left -= 1
                    race.start(self._run(fn, args, kwargs, permit))
                    del permit  # the traceback of an error holds this frame: a task that never begins must drop it
                    running += 1
                    moment = now()
                    due = moment + delay
                    hedge.tell(self._settings.extra - self._left, moment - began, moment, "failed" if leg else "late")
            settled = self._last or self._refusal
            assert settled is not None
            return settled.result()
        finally:
            self._last = self._refusal = None
            await race.end(settled)
            settled = leg = None  # the traceback of an error holds this frame, and a task its error

    async def _run(self, fn: Fn, args: Args, kwargs: Kwargs, permit: RetryPermit | None) -> Any:
        try:
            return await self._inner(fn, args, kwargs)
        finally:
            if permit is not None:  # of a task that is cancelled before it begins the permit is dropped: the same
                permit.release()

    def _may_start(self, now: float) -> bool:
        if not self._hedge.may_finish(now):
            self._left = 0
        return self._left > 0

    def _is_final(self, leg: Leg) -> bool:
        """Whether this is how the caller's call ends; else remember it."""
        if leg.cancelled():  # by itself: nobody else has it
            return True
        error = leg.exception()
        if error is None:
            bad = self._failed is not None and self._failed(leg.result())
        elif isinstance(error, RejectedError):
            self._refusal = leg
            return False
        else:
            bad = isinstance(error, Exception) and self._classify(error) is FAILURE
        if bad:
            self._last = leg
        return not bad

    def _learn(self, race: Race, winner: Leg, now: float) -> None:
        """Learn from a good answer. Those it beat took at least so long: without them the slow would not count."""
        if winner.cancelled() or winner.exception() is not None:
            return
        first = next(iter(race.started))
        durations = [now - began for leg, began in race.started.items() if leg is winner or not leg.done()]
        self._hedge.learn(durations, by_hedge=winner is not first)


def _delay(value: object) -> float | None:
    if value is None:
        return None
    if value == UNLIMITED:
        return UNLIMITED
    seconds = number(OWNER, "delay", value)
    if seconds < 0:
        raise ConfigError(f"{OWNER}: delay must be 0 or more seconds, inf or None, not {value!r}", path="delay")
    return seconds
