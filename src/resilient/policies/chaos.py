"""Break things on purpose, to see that what is around them holds."""

from __future__ import annotations

import functools
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Never, Self

from resilient import events
from resilient.checks import number, ratio
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import ConfigError
from resilient.events import Event, publish
from resilient.outcome import Classification
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs, Policy, ainvoke, invoke

logger = logging.getLogger("resilient")

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class ChaosInjected(Event):
    """A call was broken on purpose: `latency` seconds late, and then `fault`.

    `fault` is the name of the error's type, "result" for a made-up result, or None when the call itself goes on.
    """

    latency: float
    fault: str | None


@dataclass(frozen=True, slots=True)
class ChaosSnapshot:
    """One moment of a Chaos: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        on: whether it breaks calls now.
        injected: calls broken since it was made.
    """

    name: str
    on: bool
    injected: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ChaosSettings:
    """What a Chaos was told."""

    rate: float
    latency: float | Callable[[], float]
    error: Callable[[], Exception] | None
    result: Callable[[], Any] | None


class Chaos(Policy[Never]):
    """Make some calls slow, failing or wrong, to try timeouts, breakers and fallbacks before they are needed.

    Off until it is switched on in code: by `enabled=True`, `enable()`, or for a block by `with chaos.enabled():`. No
    environment variable and no file does it. What it injects takes the place of the call itself, further in than every
    other policy: a Timeout ends an injected latency, a breaker counts an injected error. While it is off a call costs
    one look at a flag.

    Put it innermost. A broken call is first late by `latency`, then raises what `error` makes, else returns what
    `result` makes, else goes on as it would.

    Args:
        rate: which part of the calls is broken, more than 0 and at most 1, default 0.001.
        latency: seconds that a broken call is late, or a function that gives them; default 0.0.
        error: makes the exception that a broken call raises: a type or a function without arguments.
        result: makes what a broken call returns instead, unless there is an `error`.
        enabled: whether it is on from the start; default False.
        rng: gives numbers from 0 to 1, default `random.random`.
        clock: sleeps; default the machine's.
        name: label; default "chaos".

    Raises:
        ConfigError: when an argument is out of range, or there is nothing to inject.

    Safe for threads and event loops. The default rate is that of Polly's chaos strategies.

    Example:
        >>> from resilient import Fallback, Pipeline
        >>> from resilient.policies.chaos import Chaos
        >>> chaos = Chaos(rate=1.0, error=ConnectionError)
        >>> price = Pipeline(Fallback(value="unknown"), chaos)(lambda: "3.50")
        >>> price()
        '3.50'
        >>> with chaos.enabled():
        ...     price()
        'unknown'
    """

    kind = "chaos"

    def __init__(
        self,
        *,
        rate: float = 0.001,
        latency: float | Callable[[], float] = 0.0,
        error: Callable[[], Exception] | None = None,
        result: Callable[[], Any] | None = None,
        enabled: bool = False,
        rng: Callable[[], float] = random.random,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(latency) and number("Chaos", "latency", latency) < 0:
            raise ConfigError(f"Chaos: latency must be seconds, 0 or more, not {latency!r}", path="latency")
        for path, function in (("error", error), ("result", result)):
            if function is not None and not callable(function):
                hint = f"; write lambda: {function!r}" if path == "result" else ", such as ConnectionError"
                raise ConfigError(
                    f"Chaos: {path} must be a function without arguments, not {function!r}{hint}", path=path
                )
        if latency == 0.0 and error is None and result is None:
            raise ConfigError("Chaos: nothing to inject: give latency=, error= or result=", path="error")
        if not isinstance(enabled, bool):
            raise ConfigError(f"Chaos: enabled must be True or False, not {enabled!r}", path="enabled")
        if not callable(rng):
            raise ConfigError(f"Chaos: rng must be a function like random.random, not {rng!r}", path="rng")
        self.settings = ChaosSettings(ratio("Chaos", "rate", rate), latency, error, result)
        self._rng = rng
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.Lock()
        self._switched_on = enabled
        self._blocks: set[object] = set()
        self._on = enabled
        self._injected = 0
        super().__init__(name)
        forget_on_fork(self)
        if enabled:
            self._tell()

    @property
    def on(self) -> bool:
        """Whether it breaks calls now."""
        return self._on

    def enable(self) -> None:
        """Switch it on, for every thread and task; logged as a warning."""
        with self._lock:
            self._switched_on = self._on = True
        self._tell()

    def disable(self) -> None:
        """Switch it off for everybody, those inside `with chaos.enabled():` included."""
        with self._lock:
            self._switched_on = self._on = False
            self._blocks.clear()
        logger.warning("%r is off", self)

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """On for a block, for every thread and task; afterwards as before.

        Example:
            >>> from resilient.policies.chaos import Chaos
            >>> chaos = Chaos(latency=30.0)
            >>> with chaos.enabled():
            ...     chaos.on
            True
            >>> chaos.on
            False
        """
        block = object()
        with self._lock:
            self._blocks.add(block)
            self._on = True
        try:
            yield
        finally:
            with self._lock:
                self._blocks.discard(block)
                self._on = self._switched_on or bool(self._blocks)

    def snapshot(self) -> ChaosSnapshot:
        """Counts of one moment."""
        with self._lock:
            return ChaosSnapshot(self.name, self._on, self._injected)

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`, on or off as it is."""
        self.settings = other.settings
        with self._lock:
            self._switched_on = other.on
            self._on = self._switched_on or bool(self._blocks)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner`, some calls of which are broken, for functions."""

        def chaotic(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if not self._on or self._rng() >= self.settings.rate:
                return inner(fn, args, kwargs)
            return inner(self._broken(fn), args, kwargs)

        return chaotic

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner`, some calls of which are broken, for async functions."""

        async def chaotic(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if not self._on or self._rng() >= self.settings.rate:
                return await inner(fn, args, kwargs)
            return await inner(self._abroken(fn), args, kwargs)

        return chaotic

    def describe(self) -> str:
        """One sentence: what it does to how many calls, and whether it is on."""
        settings = self.settings
        what = [
            "are late" if settings.latency else "",
            "fail" if settings.error else "return something else" if settings.result else "",
        ]
        state = "on" if self._on else "off"
        return f"Chaos ({state}): {settings.rate:.3g} of the calls {' and '.join(filter(None, what))}"

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """That it is on."""
        return [f"{self!r} is on: calls are broken on purpose"] if self._on else []

    def __repr__(self) -> str:
        return f"Chaos(rate={self.settings.rate:g})"

    def after_fork_in_child(self) -> None:
        """Take a new lock."""
        self._lock = threading.Lock()

    def _tell(self) -> None:
        logger.warning("%r is on: calls are broken on purpose", self)

    def _broken(self, fn: Fn) -> Fn:
        """`fn` as it is when it is broken: run where `fn` would run, inside every timeout."""
        settings = self.settings

        @functools.wraps(fn)
        def broken(*args: Any, **kwargs: Any) -> Any:
            latency, fault = self._strike(settings)
            if latency > 0:
                self._clock.sleep(latency)
            if fault is None:
                return invoke(fn, args, kwargs) if settings.result is None else settings.result()
            try:
                raise fault
            finally:
                del fault  # its traceback holds this frame

        return broken

    def _abroken(self, fn: Fn) -> Fn:
        settings = self.settings

        @functools.wraps(fn)
        async def broken(*args: Any, **kwargs: Any) -> Any:
            latency, fault = self._strike(settings)
            if latency > 0:
                await self._clock.sleep_async(latency)
            if fault is None:
                return await ainvoke(fn, args, kwargs) if settings.result is None else settings.result()
            try:
                raise fault
            finally:
                del fault  # its traceback holds this frame

        return broken

    def _strike(self, settings: ChaosSettings) -> tuple[float, Exception | None]:
        """What happens to this call: counted and told."""
        latency = number("Chaos", "latency", settings.latency() if callable(settings.latency) else settings.latency)
        fault = None if settings.error is None else settings.error()
        if fault is not None and not isinstance(fault, Exception):
            raise TypeError(f"{self!r}: error must make an Exception, not {fault!r}")
        with self._lock:
            self._injected += 1
        if events.HEARERS.all:
            what = type(fault).__name__ if fault is not None else None if settings.result is None else "result"
            publish(ChaosInjected(self.name, self._clock.monotonic(), latency, what))
        return latency, fault
