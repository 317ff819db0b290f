"""A dependency that answers by script."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.checks import number, whole
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of a `ScriptedDependency`, given `times` times; made by `ok`, `fail`, `hang` and `slow`.

    Example:
        >>> from resilient.testing import ok
        >>> (ok("sunny") * 3).times
        3
    """

    value: Any = None
    error: BaseException | type[BaseException] | None = None
    seconds: float = 0.0
    times: int = 1

    def __mul__(self, times: int) -> Step:
        """The same answer, that many times."""
        return replace(self, times=self.times * whole("Step", "times", times))

    __rmul__ = __mul__

    def answer(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is None:
            return self.value
        if isinstance(self.error, BaseException):
            raise self.error.with_traceback(None)  # the same one each time: its traceback would grow
        raise self.error


@dataclass(frozen=True, slots=True)
class Received:
    """One call that a `ScriptedDependency` has got.

    Attributes:
        args: its arguments.
        kwargs: its keyword arguments.
        at: when it came, in seconds of the dependency's clock.

    Example:
        >>> from resilient.testing import ScriptedDependency, ok
        >>> prices = ScriptedDependency(ok(1.5))
        >>> prices("apple", size=3)
        1.5
        >>> prices.calls[0].args, prices.calls[0].kwargs
        (('apple',), {'size': 3})
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    at: float = 0.0


def ok(value: Any = None, *, times: int = 1) -> Step:
    """A step that returns `value`.

    Args:
        value: the answer.
        times: how many calls get it, default 1; `ok(1) * 3` says the same as `ok(1, times=3)`.

    Example:
        >>> from resilient.testing import ScriptedDependency, ok
        >>> prices = ScriptedDependency(ok(1.5), ok(2.5))
        >>> prices("apple"), prices("apple"), prices("apple")
        (1.5, 2.5, 2.5)
    """
    return Step(value, times=whole("ok", "times", times))


def fail(error: BaseException | type[BaseException] = ConnectionError, *, times: int = 1) -> Step:
    """A step that raises `error`.

    Args:
        error: an exception or its class, default ConnectionError.
        times: how many calls get it, default 1.

    Example:
        >>> from resilient.testing import ScriptedDependency, fail, ok
        >>> prices = ScriptedDependency(fail(TimeoutError("no answer")), ok(1.5))
        >>> prices("apple")
        Traceback (most recent call last):
        TimeoutError: no answer
        >>> prices("apple")
        1.5
    """
    given: object = error
    if not isinstance(given, BaseException) and not (isinstance(given, type) and issubclass(given, BaseException)):
        raise ConfigError(f"fail: error must be an exception or its class, not {error!r}", path="error")
    return Step(error=error, times=whole("fail", "times", times))


def slow(seconds: float, value: Any = None, *, times: int = 1) -> Step:
    """A step that returns `value` after `seconds`.

    Args:
        seconds: of the dependency's clock, 0 or more.
        value: the answer.
        times: how many calls get it, default 1.

    Example:
        >>> from resilient.testing import ScriptedDependency, VirtualClock, slow
        >>> clock = VirtualClock(auto=True)
        >>> ScriptedDependency(slow(30.0, "at last"), clock=clock)()
        'at last'
        >>> clock.monotonic()
        1030.0
    """
    return Step(value, seconds=_seconds("slow", seconds), times=whole("slow", "times", times))


def hang(seconds: float = 3600.0, *, times: int = 1) -> Step:
    """A step that gives no answer for `seconds`, then raises TimeoutError.

    Args:
        seconds: of the dependency's clock, default an hour.
        times: how many calls get it, default 1.

    Example:
        >>> from resilient import Timeout
        >>> from resilient.testing import ScriptedDependency, VirtualClock, hang, use_clock
        >>> limit = Timeout(2.0)
        >>> with use_clock(VirtualClock(auto=True)):
        ...     limit.call(ScriptedDependency(hang()))
        Traceback (most recent call last):
        resilient.errors.CallTimeoutError: no answer within 2 s (timeout)
    """
    error = TimeoutError(f"the scripted dependency hung for {seconds} s")
    return Step(error=error, seconds=_seconds("hang", seconds), times=whole("hang", "times", times))


class ScriptedDependency:
    """A dependency that answers by script, and remembers who asked: a callable, instead of a mock.

    Call it for the sync colour, `await` its `acall` for the async one; both go through one script. The last step goes
    on for ever, or with `repeat=True` the script starts again.

    Args:
        steps: made by `ok`, `fail`, `slow` and `hang`; at least one.
        repeat: True: after the last step comes the first; default False: the last one goes on for ever.
        clock: on which it is slow; default that of the process, see `use_clock`.

    Raises:
        ConfigError: without a step, or for something else in its place.

    Safe for threads and event loops: each call gets one step.

    Example:
        >>> from resilient import CircuitBreaker, State
        >>> from resilient.testing import ScriptedDependency, fail, ok
        >>> prices = ScriptedDependency(ok(1.5), fail(ConnectionError("down")))
        >>> breaker = CircuitBreaker(consecutive_failures=2)
        >>> breaker.call(prices, "apple")
        1.5
        >>> for _ in range(2):
        ...     try:
        ...         breaker.call(prices, "apple")
        ...     except ConnectionError:
        ...         pass
        >>> breaker.state, len(prices.calls), prices.calls[0].args
        (<State.OPEN: 'open'>, 3, ('apple',))
    """

    def __init__(self, *steps: Step, repeat: bool = False, clock: Clock | None = None) -> None:
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.Lock()
        self._calls: list[Received] = []
        self._in_flight = self._most = 0
        self.play(*steps, repeat=repeat)

    def play(self, *steps: Step, repeat: bool = False) -> None:
        """Go on with another script; calls under way end by the old one, and what was recorded stays.

        Args:
            steps: as at construction.
            repeat: likewise.

        Raises:
            ConfigError: likewise.
        """
        if not steps:
            raise ConfigError("ScriptedDependency: at least one step is needed, such as ok(...)", path="steps")
        for position, step in enumerate(steps):
            if not isinstance(step, Step):
                raise ConfigError(
                    f"ScriptedDependency: step {position + 1} must be made by ok, fail, slow or hang, not {step!r}",
                    path="steps",
                )
        with self._lock:
            self._steps = steps
            self._repeat = repeat
            self._played = 0

    @property
    def calls(self) -> tuple[Received, ...]:
        """The calls it has got, in order."""
        with self._lock:
            return tuple(self._calls)

    @property
    def in_flight(self) -> int:
        """How many calls have no answer yet."""
        return self._in_flight

    @property
    def most_in_flight(self) -> int:
        """How many calls were under way at once, at most."""
        return self._most

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the script says."""
        step = self._begin(args, kwargs)
        try:
            if step.seconds:
                self._clock.sleep(step.seconds)
            return step.answer()
        finally:
            self._end()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The same for async code: hand on `dependency.acall`, an async function."""
        step = self._begin(args, kwargs)
        try:
            if step.seconds:
                await self._clock.sleep_async(step.seconds)
            return step.answer()
        finally:
            self._end()

    def __repr__(self) -> str:
        return f"<ScriptedDependency {len(self._calls)} calls, {self._in_flight} in flight>"

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
        now = self._clock.monotonic()
        with self._lock:
            self._calls.append(Received(args, kwargs, now))
            self._in_flight += 1
            self._most = max(self._most, self._in_flight)
            position = self._played
            self._played += 1
            if self._repeat:
                position %= sum(step.times for step in self._steps)
            for step in self._steps:
                position -= step.times
                if position < 0:
                    return step
            return self._steps[-1]

    def _end(self) -> None:
        with self._lock:
            self._in_flight -= 1


def _seconds(owner: str, value: object) -> float:
    seconds = number(owner, "seconds", value)
    if seconds < 0:
        raise ConfigError(f"{owner}: seconds must be 0 or more, not {value!r}", path="seconds")
    return seconds
