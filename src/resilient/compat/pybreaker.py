"""A drop-in for pybreaker 1.4: its names, its behaviour, its errors; calls run side by side, coroutines are counted.

Change the import, or put this module in the other's place before anything imports it::

    import sys
    import resilient.compat.pybreaker
    sys.modules["pybreaker"] = resilient.compat.pybreaker

It builds on the installed pybreaker: its breaker is the base class, its storages and listeners are used as they are,
and `except pybreaker.CircuitBreakerError` catches what is raised here, as `except resilient.CircuitOpenError` does.

What differs from pybreaker:

- No lock is held while a guarded call runs. A result that comes when the state has changed since is not counted.
- Half-open, one trial runs at a time; other calls are refused meanwhile instead of waiting. What a trial calls through
  the same breaker is part of it. A trial holds its place for `max(reset_timeout, 10)` seconds at most; then the next
  call takes it over, and the result of the hung one is not counted. Processes that share a storage try one call each.
- `async def` functions are counted when they end: decorated, in `call`, in `acall`, in `async with calling()`. So are
  async generators, and coroutines that a plain function returns. The circuit is asked when the coroutine is awaited.
- Cancellation, KeyboardInterrupt, SystemExit, and the GeneratorExit of a generator closed early say nothing about the
  dependency: they are not counted, and a trial gives its place back. (pybreaker counts each as a failure.) A time limit
  belongs inside the guarded function: around it, it is a cancellation.
- A generator may handle what is thrown into it; what leaves it is counted.
- A listener that raises in `success`, `failure` or `state_change` is logged; the outcome and the trip stay. Raised in
  `before_call`, an error blocks the call, as in pybreaker.
- An exception class with a metaclass can be excluded. An `opened_at` without a time zone is taken for UTC.
- A storage that stays open although told to be half-open (Redis gone, fallback "open") refuses calls.

What does not differ: listeners, exclusion predicates and the storage run under the breaker's lock, and open times are
read from the wall clock. With `CircuitRedisStorage` each call waits for Redis several times, and the other callers
wait too, event loop included: that is pybreaker's contract. `resilient.CircuitBreaker` does none of it.
"""
# ruff: noqa: PLC0414  # `X as X` hands a name on to type checkers without adding to pybreaker's eight of `import *`

from __future__ import annotations

import sys
import threading
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, NoReturn, TypeAlias, TypeVar, cast, overload

import pybreaker as _upstream
from pybreaker import HAS_REDIS_SUPPORT as HAS_REDIS_SUPPORT
from pybreaker import HAS_TORNADO_SUPPORT as HAS_TORNADO_SUPPORT
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreakerListener, CircuitMemoryStorage
from pybreaker import CBListenerType as CBListenerType
from pybreaker import CircuitBreakerStorage as CircuitBreakerStorage
from pybreaker import ExceptionType as ExceptionType
from pybreaker import T as T

from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.compat import pybreaker_calls as _calls
from resilient.compat.pybreaker_errors import CircuitBreakerError
from resilient.compat.pybreaker_states import CircuitBreakerState as CircuitBreakerState
from resilient.compat.pybreaker_states import CircuitClosedState as CircuitClosedState
from resilient.compat.pybreaker_states import CircuitHalfOpenState as CircuitHalfOpenState
from resilient.compat.pybreaker_states import CircuitOpenState as CircuitOpenState
from resilient.compat.pybreaker_trial import Trial
from resilient.errors import FailureInfo

__all__ = (
    "CircuitBreaker",
    "CircuitBreakerListener",
    "CircuitBreakerError",
    "CircuitMemoryStorage",
    "CircuitRedisStorage",
    "STATE_OPEN",
    "STATE_CLOSED",
    "STATE_HALF_OPEN",
)

CBStateType: TypeAlias = CircuitClosedState | CircuitHalfOpenState | CircuitOpenState
F = TypeVar("F", bound=Callable[..., Any])

_LATER = frozenset({GeneratorType, CoroutineType, AsyncGeneratorType})  # results whose work is still to come
_NO_VERDICT = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)  # not all: gevent.Timeout is a failure
_SHORTEST_LEASE = 10.0  # seconds; a `reset_timeout` may be a few milliseconds, shorter than an honest call
_SOON = 1.0  # seconds after which to ask again while a trial runs: it may end any moment
_STILL_OPEN = "Timeout not elapsed yet, circuit breaker still open"


class CircuitBreaker(_upstream.CircuitBreaker):
    """pybreaker's CircuitBreaker, without its lock around your calls.

    Safe for threads and event loops: the lock is held for admission and for bookkeeping only. Listeners, exclusion
    predicates and the storage are called under it, in pybreaker's order.

    Args:
        fail_max: failures in a row that open the circuit, default 5.
        reset_timeout: seconds that it stays open, default 60.
        success_threshold: trials that must succeed to close it, default 1.
        exclude: exception types and predicates; what they match counts as a success.
        listeners: objects with the methods of `CircuitBreakerListener`, called in this order.
        state_storage: where state and counters live, default in memory.
        name: for your listeners and for errors, default None.
        throw_new_error_on_trip: whether the call that trips raises CircuitBreakerError (default) or its own error.
        clock: measures how long a trial holds its place, default the machine's monotonic clock. Open times are
            compared with the wall clock: `opened_at` may come from another machine.

    Raises:
        CircuitBreakerError: from a guarded call that trips the circuit, or that is refused.

    Example:
        >>> from resilient.compat import pybreaker
        >>> breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=30)
        >>> @breaker
        ... def price(sku: str) -> float:
        ...     return 9.5
        >>> price("apple")
        9.5
        >>> breaker.current_state
        'closed'
    """

    _state: CBStateType

    def __init__(
        self,
        fail_max: int = 5,
        reset_timeout: float = 60,
        success_threshold: int = 1,
        exclude: Iterable[type[ExceptionType] | Callable[[Any], bool]] | None = None,
        listeners: Sequence[CBListenerType] | None = None,
        state_storage: CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool = True,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._resilient_clock = clock or SYSTEM_CLOCK
        self._resilient_latest: FailureInfo | None = None  # of the result that is being counted
        self._resilient_failure: FailureInfo | None = None  # that opened the circuit
        super().__init__(
            fail_max,
            reset_timeout,
            success_threshold,
            exclude,
            listeners,
            state_storage,
            name,
            throw_new_error_on_trip,
        )
        forget_on_fork(self)

    # --- guarding ---------------------------------------------------------------------------------------------------

    def call(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call `func`; no lock is held while it runs.

        Of an `async def` function it gives the coroutine of `acall`: the circuit is asked when that is awaited. Of a
        generator function it gives the generator: the circuit is asked now, and told when the generator ends.

        Raises:
            CircuitBreakerError: when the circuit is open, or when this call opens it.
        """
        if _calls.gives_coroutine(func):
            return cast("T", self.acall(cast("Callable[..., Awaitable[Any]]", func), *args, **kwargs))
        state, trial = self._admit(func, args, kwargs)
        try:
            if trial is None:
                result = func(*args, **kwargs)
            else:
                with trial.running():
                    result = func(*args, **kwargs)
        except BaseException as error:
            self._settle(state, trial, error)
            raise
        if type(result) in _LATER:
            return cast("T", _calls.follow_any(self, state, trial, result))
        self._settle(state, trial, None)
        return result

    async def acall(self, func: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Await `func`; counted when it ends. Safe for any number of tasks and event loops.

        Raises:
            CircuitBreakerError: when the circuit is open, or when this call opens it.
        """
        state, trial = self._admit(func, args, kwargs)
        return await _calls.follow(self, state, trial, lambda: func(*args, **kwargs))

    def calling(self) -> _calls.Calling:  # type: ignore[override]  # not made of a generator: it is async too
        """Guard a block: `with breaker.calling():` or `async with breaker.calling():`; as a decorator, a function."""
        return _calls.Calling(self)

    @overload  # type: ignore[override]  # pybreaker's type forgets the function's; it takes one function as well
    def __call__(self, func: F, /, **call_kwargs: bool) -> F: ...

    @overload
    def __call__(self, func: None = None, /, **call_kwargs: bool) -> Callable[[F], F]: ...

    def __call__(self, func: Any = None, /, **call_kwargs: bool) -> Any:
        """Decorate a function, an async function or a generator function.

        With `__pybreaker_call_async=True` the function is run as a Tornado coroutine; that needs Tornado.

        Raises:
            ImportError: when Tornado is asked for and absent.
        """
        tornado = call_kwargs.pop("__pybreaker_call_async", False)
        if tornado:
            _require_tornado()

        def decorate(guarded: Callable[..., Any]) -> Callable[..., Any]:
            return _calls.guard(guarded, self.call_async if tornado else self.call, detect_async=not tornado)

        return decorate if func is None else decorate(func)

    def call_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func`, a function that Tornado can yield from, and give a Tornado future; no lock is held meanwhile.

        Raises:
            ImportError: when Tornado is absent.
        """
        _require_tornado()
        coroutine = vars(_upstream)["gen"].coroutine  # pragma: no cover  # needs Tornado, which is no dependency
        return coroutine(_calls.tornado_steps)(self, func, args, kwargs)  # pragma: no cover  # its steps are tested

    def is_system_error(self, exception: BaseException) -> bool:
        """Whether `exception` counts as a failure: no excluded type, no excluding predicate matches."""
        exclusion: Any
        for exclusion in self._excluded_exceptions:
            if isinstance(exclusion, type):
                if isinstance(exception, exclusion):
                    return False
            elif callable(exclusion) and exclusion(exception):
                return False
        return True

    # --- the state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> CBStateType:
        """The state object, brought up to date with the storage; a change found there is told to the listeners."""
        with self._lock:
            current = self.current_state
            if current != self._state.name:
                self.state = current
            return self._state

    @state.setter
    def state(self, state_str: str) -> None:
        """Set the state object and tell the listeners; the storage is not touched."""
        with self._lock:
            self._resilient_failure = None
            self._state = self._create_new_state(state_str, prev_state=self._state, notify=True)

    def open(self) -> bool:
        """Open the circuit now; returns `throw_new_error_on_trip`."""
        with self._lock:
            self._state_storage.opened_at = datetime.now(UTC)
            self.state = STATE_OPEN
            self._state_storage.state = STATE_OPEN
            return self._throw_new_error_on_trip

    def after_fork_in_child(self) -> None:
        """A new lock: the parent's may have been held by a thread that this process does not have."""
        self._lock = threading.RLock()
        if isinstance(self._state, CircuitHalfOpenState):
            self._state.vacate()

    def _create_new_state(
        self, new_state: str, prev_state: _upstream.CircuitBreakerState | None = None, notify: bool = False
    ) -> CBStateType:
        kinds: dict[str, type[CBStateType]] = {  # looked up at each call: tests patch these names of this module
            STATE_CLOSED: CircuitClosedState,
            STATE_OPEN: CircuitOpenState,
            STATE_HALF_OPEN: CircuitHalfOpenState,
        }
        if new_state not in kinds:
            raise ValueError(f"Unknown state {new_state!r}, valid states: {', '.join(kinds)}")
        return kinds[new_state](self, prev_state=prev_state, notify=notify)

    # --- admission and bookkeeping ----------------------------------------------------------------------------------

    def _admit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CBStateType, Trial | None]:
        """The state that admits this call, with the place it takes if that is a trial; or CircuitBreakerError."""
        with self._lock:
            state = self.state
            if state.name == STATE_OPEN:
                self._refuse_while_open()
                self.half_open()
                state = self.state
                if state.name == STATE_OPEN:  # the storage takes nothing, or another process was faster
                    raise self._error(_STILL_OPEN, None)
            trial = self._take_place(state) if isinstance(state, CircuitHalfOpenState) else None
            if self._listeners:
                try:
                    for listener in self.listeners:
                        listener.before_call(self, func, *args, **kwargs)
                except BaseException:
                    if trial is not None:
                        trial.over = True
                    raise
            return state, trial

    def _refuse_while_open(self) -> None:
        opened_at = self._state_storage.opened_at
        if not opened_at:
            return
        if opened_at.tzinfo is None:
            opened_at = opened_at.replace(tzinfo=UTC)
        left = (opened_at + timedelta(seconds=self.reset_timeout) - datetime.now(UTC)).total_seconds()
        if left > 0:
            raise self._error(_STILL_OPEN, left)

    def _take_place(self, state: CircuitHalfOpenState) -> Trial | None:
        """The place of the trial; None when this call is part of the one that runs."""
        now = self._resilient_clock.monotonic()
        running = state.running_trial(now)
        if running is None:
            return state.begin_trial(now + max(self.reset_timeout, _SHORTEST_LEASE))
        if running.encloses_caller():
            return None
        left = min(_SOON, running.lease_ends - now)
        raise self._error("Trial call in progress, circuit breaker still half-open", left)

    def _settle(self, state: CBStateType, trial: Trial | None, error: BaseException | None) -> None:
        """Count the end of a call that `state` admitted.

        Raises:
            CircuitBreakerError: when it opens the circuit; or `error` itself, where that was asked for.
        """
        if error is not None and isinstance(error, _NO_VERDICT):
            if trial is not None:
                trial.over = True  # without the lock: the garbage collector may be closing a generator
            return
        latest = None if error is None else FailureInfo.of(error, self._resilient_clock.monotonic())
        with self._lock:
            late = self._state is not state
            if trial is not None:
                late = late or not (isinstance(state, CircuitHalfOpenState) and state.holds_place(trial))
                trial.over = True
            if late:
                return
            if error is None:
                state._handle_success()
            else:
                self._resilient_latest = latest
                state._handle_error(error, reraise=False)

    def _trip(self, message: str, error: BaseException) -> NoReturn:
        throw_new_error = self.open()
        self._resilient_failure = self._resilient_latest
        if throw_new_error:
            raise self._error(message, self.reset_timeout).with_traceback(sys.exc_info()[2]) from error
        raise error

    def _error(self, message: str, retry_after: float | None) -> CircuitBreakerError:
        return CircuitBreakerError(
            message, policy=self._policy_name, retry_after=retry_after, last_failure=self._resilient_failure
        )

    @property
    def _policy_name(self) -> str:
        return self.name or "circuit_breaker"


class CircuitRedisStorage(_upstream.CircuitRedisStorage):
    """pybreaker's storage in Redis: one circuit for several processes.

    Args:
        state: the state to begin with, when Redis holds none.
        redis_object: a `redis.Redis` that gives bytes.
        namespace: put before each key, default none.
        fallback_circuit_state: the state while Redis does not answer, default closed.
        cluster_mode: whether to do without transactions, default False.

    Raises:
        ImportError: when redis is not installed.

    Example:
        >>> import redis
        >>> def shared(url: str) -> CircuitBreaker:
        ...     storage = CircuitRedisStorage(STATE_CLOSED, redis.Redis.from_url(url), namespace="prices")
        ...     return CircuitBreaker(state_storage=storage)
    """

    def __init__(
        self,
        state: str,
        redis_object: Any,
        namespace: str | None = None,
        fallback_circuit_state: str = STATE_CLOSED,
        cluster_mode: bool = False,
    ) -> None:
        if not HAS_REDIS_SUPPORT:
            raise ImportError("CircuitRedisStorage can only be used if the required dependencies exist")
        super().__init__(state, redis_object, namespace, fallback_circuit_state, cluster_mode)


def _require_tornado() -> None:
    if not HAS_TORNADO_SUPPORT:  # pragma: no branch  # true where Tornado is installed
        raise ImportError("No module named tornado")
