"""At most so many calls in so many seconds, counted by all processes together in a store."""

from __future__ import annotations

import logging
import threading
from types import NoneType
from typing import Any, Never

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork, wall_ms
from resilient.errors import ConfigError, RateLimitedError
from resilient.gate import Gate
from resilient.outcome import Classification
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs, Policy

logger = logging.getLogger("resilient")

OWNER = "SharedRateLimiter"
_AGAIN = 1.0  # seconds without asking a store that did not answer: it must not delay every call


class SharedRateLimiter(Policy[Never]):
    """At most `limit` calls in any `per` seconds, counted by all processes together in a store such as Redis.

    Each call asks the store, async ones in a thread, so each takes a round trip more. It is refused at once when the
    limit is reached, and never waits for its turn. Within one process a `RateLimiter` does the same for a microsecond.

    A store that does not answer never refuses a call and delays one caller per second at most: meanwhile calls are
    admitted by `local`, or all of them. One WARNING says so. What was counted is not given back when the call is
    refused further in.

    Args:
        limit: calls in any `per` seconds, of all processes together, 1 or more.
        per: whole seconds, 1 or more, default 1.
        storage: where to count, a URL as the package limits takes it: `redis://`, `rediss://`, `redis+unix://`,
            `memcached://`, `mongodb://`, `memory://` (this process only: for tests).
        name: the key in the store, the same in every process, and the label in errors.
        local: a gate that decides while the store does not answer, for instance a `RateLimiter` with this process's
            share; default None: all calls are admitted then.
        timeout: seconds to wait for an answer of Redis, more than 0, default 0.1.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is wrong or the package limits is missing.
        RateLimitedError: from a guarded call beyond the limit; `retry_after` is as good as the machines' clocks agree.

    Safe for threads and event loops.

    Source: the moving window of the package limits: the time of each call is kept, so no window ever sees more.

    Example:
        >>> from resilient.policies.shared_rate import SharedRateLimiter
        >>> limiter = SharedRateLimiter(100, per=60, storage="memory://", name="maps")
        >>> limiter.call(str.title, "bern")
        'Bern'
    """

    kind = "shared_rate_limiter"

    def __init__(
        self,
        limit: int,
        *,
        per: int = 1,
        storage: str,
        name: str,
        local: Gate | None = None,
        timeout: float = 0.1,
        clock: Clock | None = None,
    ) -> None:
        try:
            import limits.storage
            from limits.strategies import MovingWindowRateLimiter
        except ImportError:
            raise ConfigError(
                f"{OWNER} needs the package limits: pip install 'resilient-patterns[limits]'", path="storage"
            ) from None
        self._item = limits.RateLimitItemPerSecond(whole(OWNER, "limit", limit), whole(OWNER, "per", per))
        for path, given, kind, what in (
            ("name", name, str, "text: the key in the store"),
            ("local", local, (Gate, NoneType), "a gate such as a RateLimiter"),
            ("storage", storage, str, "a URL such as 'redis://localhost:6379'"),
        ):
            if given == "" or not isinstance(given, kind):
                raise ConfigError(f"{OWNER}: {path} must be {what}, not {given!r}", path=path)
        self._url = storage
        self._timeout = positive_seconds(OWNER, "timeout", timeout)
        self._local = local
        self._clock = clock or SYSTEM_CLOCK
        self._key = name
        self._silent_until = float("-inf")
        self._lost = False
        self._lock = threading.Lock()
        try:
            self._counter = MovingWindowRateLimiter(limits.storage.storage_from_string(storage, **self._options()))
        except Exception as error:
            scheme, why = storage.partition("://")[0], type(error).__name__  # no more: a URL may hold a password
            raise ConfigError(f"{OWNER}: no storage for a URL of scheme {scheme!r} ({why})", path="storage") from None
        super().__init__(name)
        forget_on_fork(self)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind the shared limit."""
        guarded = inner if self._local is None else self._local.layer(inner, limit, given)

        def limited(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if self._is_silent() or not self._ask():
                return guarded(fn, args, kwargs)
            return inner(fn, args, kwargs)

        return limited

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` behind the shared limit, for async functions; the store is asked in a thread.

        An async client of the store would belong to one event loop, and outlive it unclosed.
        """
        guarded = inner if self._local is None else self._local.alayer(inner, limit, given)

        async def limited(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            import asyncio

            if self._is_silent() or not await asyncio.to_thread(self._ask):
                return await guarded(fn, args, kwargs)
            return await inner(fn, args, kwargs)

        return limited

    def reset(self) -> None:
        """Ask the store again at once, if it did not answer; what it has counted stays: others count there, too."""
        self._silent_until = float("-inf")

    def describe(self) -> str:
        """One sentence: the rate, and who counts."""
        return f"SharedRateLimiter {self.name!r}: {self._item.amount} calls per {self._item.multiples} s, all processes"

    def __repr__(self) -> str:
        return f"SharedRateLimiter({self._item.amount}, per={self._item.multiples}, name={self._key!r})"

    def after_fork_in_child(self) -> None:
        """Whoever has the lock does so in the parent; clients of a store look at the process id themselves."""
        self._lock = threading.Lock()

    def _options(self) -> dict[str, Any]:
        if not self._url.startswith("redis"):
            return {}
        return {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}

    def _is_silent(self) -> bool:
        return self._clock.monotonic() < self._silent_until

    def _ask(self) -> bool:
        """True when the store admits the call, False when it does not answer."""
        if self._is_silent():  # since this call began to wait for a thread
            return False
        try:
            admitted = self._counter.hit(self._item, self._key)
            reset = 0.0 if admitted else self._counter.get_window_stats(self._item, self._key).reset_time
        except Exception as error:
            self._lose(error)
            return False
        self._regain()
        if not admitted:
            raise self._refusal(reset)
        return True

    def _lose(self, error: Exception) -> None:
        self._silent_until = self._clock.monotonic() + _AGAIN
        with self._lock:
            first, self._lost = not self._lost, True
        if first:
            who = "all calls are admitted" if self._local is None else f"{self._local.name!r} decides"
            logger.warning("%r: the store does not answer (%s); %s until it does", self, type(error).__name__, who)

    def _regain(self) -> None:
        if self._lost:
            with self._lock:
                first, self._lost = self._lost, False
            if first:
                logger.info("%r: the store answers again", self)

    def _refusal(self, reset: float) -> RateLimitedError:
        wait = max(0.0, reset - wall_ms() / 1000)
        text = f"{self.name!r}: more than {self._item.amount} calls in {self._item.multiples} s; next in {wait:.3g} s"
        return RateLimitedError(text, policy=self.name, retry_after=wait)
