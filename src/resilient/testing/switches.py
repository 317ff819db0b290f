"""Switches for a whole process: another clock, no policies, everything as new."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from resilient import names, policy
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import ConfigError
from resilient.gate import Gate
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import Fallback
from resilient.testing.free import FreeCalling, FreePermit
from resilient.testing.rebuilding import everything, rebuild, replace_cached

ClockT = TypeVar("ClockT", bound=Clock)

_METHODS = ("monotonic", "sleep", "sleep_async", "wait", "call_later")
_FREE: dict[str, Callable[..., object]] = {
    "acquire": lambda _gate, *_args, **_kwargs: FreePermit(),
    "calling": lambda _gate, *_args, **_kwargs: FreeCalling(),
}

_lock = threading.RLock()
_clocks: list[Clock] = []  # in use, the innermost last
_blocks = 0  # of `disabled()` that are entered
_doors: list[tuple[type, str, object]] = []  # the methods of gates that `disabled()` has replaced


@contextmanager
def use_clock(clock: ClockT, /) -> Iterator[ClockT]:
    """Every command and policy of the process runs on this clock meanwhile, those that exist already too.

    What was given a `clock=` of its own keeps it. A moment of one clock means nothing on another, so that whatever
    changes its clock begins as new, on entering and on leaving: breakers close, caches are empty. Enter it while no
    guarded call and no `Deadline` is under way.

    Blocks nest; the innermost clock counts, for every thread and event loop. Background threads of discovery that were
    given no clock follow too: with virtual time they work when it is advanced.

    Args:
        clock: a `VirtualClock`, or another `resilient.Clock`.

    Returns:
        A context manager that gives the clock.

    Raises:
        ConfigError: when `clock` is no clock.

    Example:
        >>> from resilient import CircuitBreaker, State
        >>> from resilient.testing import VirtualClock, use_clock
        >>> breaker = CircuitBreaker("of the application", open_duration=5.0)
        >>> with use_clock(VirtualClock()) as clock:
        ...     breaker.open(5.0)
        ...     clock.advance(5.0)
        ...     breaker.acquire().success()  # the probe
        ...     breaker.state
        <State.HALF_OPEN: 'half_open'>
        >>> breaker.state
        <State.CLOSED: 'closed'>
    """
    missing = [name for name in _METHODS if not callable(getattr(clock, name, None))]
    if missing:
        raise ConfigError(f"use_clock: {clock!r} is no clock: it has no {missing[0]}()", path="clock")
    try:
        with _lock:
            _clocks.append(clock)
            _set_clock()
        _begin_anew()
        yield clock
    finally:
        with _lock:
            _clocks.remove(clock)
            _set_clock()
        _begin_anew()


@contextmanager
def disabled() -> Iterator[None]:
    """Every policy is transparent meanwhile: functions are called as if undecorated.

    Nothing is counted, refused, limited, repeated, replaced or remembered, by decorators, `call`, `acall`, transports,
    `acquire()` and `calling()`, in every thread and event loop, for policies made before and meanwhile. Calls that are
    under way when the block begins or ends finish as they began. A `Deadline` is no policy and stays.

    Blocks nest. Unused, it costs a call nothing.

    Example:
        >>> import resilient
        >>> from resilient.testing import disabled
        >>> @resilient.command("prices", fallback=resilient.Fallback(value=0.0))
        ... def price() -> float:
        ...     raise ConnectionError("the price service is down")
        >>> price()
        0.0
        >>> with disabled():
        ...     price()
        Traceback (most recent call last):
        ConnectionError: the price service is down
    """
    _disable(+1)
    try:
        yield
    finally:
        _disable(-1)


def reset() -> None:
    """Every command and every policy as new: to be called between tests.

    Circuits are closed and their counts zero, whatever state they were set to by hand; caches are empty; whatever else
    has a `reset()` is reset: metrics of commands, limiters, budgets, policies of your own. Names are free: a policy
    made from now on may have the name of one that is still alive, without a number and without a warning. Settings,
    listeners and calls under way stay.

    Example:
        >>> from resilient import CircuitBreaker
        >>> from resilient.testing import reset
        >>> breaker = CircuitBreaker("stock")
        >>> breaker.force_open()
        >>> reset()
        >>> breaker.state
        <State.CLOSED: 'closed'>
        >>> CircuitBreaker("stock").name
        'stock'
    """
    living = {id(one) for one in names.living()}
    for part in everything():
        if id(part) in living or hasattr(part, "_clock"):
            _as_new(part)
    names.forget()


def _set_clock() -> None:
    """Make the default clock that of the innermost block, and everything that has looked up its methods look again."""
    before = [getattr(SYSTEM_CLOCK, name) for name in _METHODS]
    if _clocks:  # a partial of our own: told from the same method of a clock that a policy was given
        vars(SYSTEM_CLOCK).update({name: partial(getattr(_clocks[-1], name)) for name in _METHODS})
    else:
        for name in _METHODS:
            vars(SYSTEM_CLOCK).pop(name, None)
    replace_cached(zip(before, [getattr(SYSTEM_CLOCK, name) for name in _METHODS], strict=True))
    rebuild()


def _begin_anew() -> None:
    for part in everything():
        if getattr(part, "_clock", None) is SYSTEM_CLOCK:
            _as_new(part)


def _disable(step: int) -> None:
    global _blocks
    with _lock:
        _blocks += step
        policy.transparent = _blocks > 0
        if policy.transparent and not _doors:
            _open_doors()
        elif not policy.transparent:
            for kind, name, method in _doors:
                setattr(kind, name, method)
            _doors.clear()
        rebuild()


def _open_doors() -> None:
    kinds: list[type] = [Gate]
    for kind in kinds:  # grows: subclasses may have methods of their own
        kinds.extend(set(kind.__subclasses__()).difference(kinds))
        for name, free in _FREE.items():
            if name in vars(kind):
                _doors.append((kind, name, vars(kind)[name]))
                setattr(kind, name, free)


def _as_new(one: object) -> None:
    forget: Any = getattr(one, "reset", None) or getattr(one, "clear", None)
    if callable(forget):
        forget()
    if isinstance(one, CircuitBreaker):
        totals = one.snapshot()  # its own `reset()` leaves them to those who watch a service
        with one.lock:
            one.ignored = one.late = 0
            one._rejected -= totals.rejected
            one._ended -= totals.successes + totals.failed
            one._failed -= totals.failed
    if isinstance(one, Fallback):
        one._told.clear()  # so that the next test sees the first fallback logged, too
