"""What is rare and worth telling: state changes, rejections, registrations lost. What is frequent is counted instead.

An event is a frozen dataclass. It is queued while its owner decides and delivered after the owner's lock is free
again, in the order of the decisions. A listener that raises is logged and changes nothing.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from resilient.clock import forget_on_fork

logger = logging.getLogger("resilient")
logger.addHandler(logging.NullHandler())  # silent until the application configures logging


@dataclass(frozen=True, slots=True)
class Event:
    """Something rare that happened to the policy or registry `name`.

    Attributes:
        name: whom it happened to.
        at: when, in seconds of that policy's monotonic clock.
    """

    name: str
    at: float


EV = TypeVar("EV", bound=Event)
T = TypeVar("T")
Listener = Callable[[Any], object]


class _Hearers:
    """Who hears what: a tuple that is replaced, so that publishing reads it without a lock."""

    def __init__(self) -> None:
        self.all: tuple[tuple[type[Event], Listener], ...] = ()
        self._lock = threading.Lock()
        forget_on_fork(self)

    def add(self, entry: tuple[type[Event], Listener]) -> Callable[[], None]:
        with self._lock:
            self.all = (*self.all, entry)
        return lambda: self._remove(entry)

    def _remove(self, entry: tuple[type[Event], Listener]) -> None:
        with self._lock:
            self.all = tuple(other for other in self.all if other is not entry)

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


HEARERS = _Hearers()
"""Of this process. `HEARERS.all` is empty when nobody listens: what is frequent under load is not even made then."""


def listen(listener: Callable[[EV], object], kind: type[EV], /) -> Callable[[], None]:
    """Hear every event of a kind, from every policy of this process.

    Args:
        listener: called with the event, by the thread that caused it or, when several threads cause events at once,
            by one of them. Keep it short; hand long work to a queue.
        kind: an event class; its subclasses are heard too. `Event` hears everything.

    Returns:
        The function that stops the listening. Calling it twice is fine.

    Raises:
        TypeError: when `listener` is a coroutine function (nobody would await it), or `kind` no kind of event.

    Safe for threads and event loops.

    Example:
        >>> from resilient import CircuitBreaker, CircuitStateChanged, listen
        >>> heard = []
        >>> stop = listen(heard.append, CircuitStateChanged)
        >>> CircuitBreaker("db").force_open()
        >>> heard[0].new.value
        'forced_open'
        >>> stop()
    """
    check_listener(listener)
    given: object = kind  # what a caller without a type checker may pass
    if not (isinstance(given, type) and issubclass(given, Event)):
        raise TypeError(f"listen() takes a listener and a kind of Event, not {kind!r}")
    return HEARERS.add((kind, listener))


def check_listener(listener: object) -> None:
    """Refuse what can not be called, or what nobody would await, where it is registered."""
    if not callable(listener):
        raise TypeError(f"a listener must be callable, not {listener!r}")
    if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(getattr(listener, "__call__", None)):  # noqa: B004  # the bound method itself is asked for
        raise TypeError(f"a listener must be a plain function, {listener!r} is async: nobody would await it")


def publish(event: Event, own: Iterable[Listener] = ()) -> None:
    """Deliver `event` to its owner's listeners and to those of its kind. Never raises; never call it under a lock."""
    for listener in own:
        _tell(listener, event)
    for kind, listener in HEARERS.all:
        if isinstance(event, kind):
            _tell(listener, event)


def _tell(listener: Listener, event: Event) -> None:
    try:
        listener(event)
    except Exception:
        logger.exception("a listener raised on %r; nothing else changes", event)


class Outbox(Generic[T]):
    """Hands items on in the order they were put, outside the owner's lock, with nobody waiting for anybody.

    The owner appends to `queue` under its lock and calls `drain` after it. Whoever gets the try-lock delivers for all,
    so an item may be delivered by another thread than the one that put it, a moment later.
    """

    __slots__ = ("_deliver", "_delivering", "queue")

    def __init__(self, deliver: Callable[[T], None]) -> None:
        self.queue: list[T] = []  # nearly always empty, and a deque would take 600 bytes
        self._delivering = threading.Lock()
        self._deliver = deliver

    def drain(self, most: float = math.inf) -> None:
        """Deliver what is queued, at most so many items, unless another thread is at it; the next one does the rest."""
        while self.queue and most > 0:  # again: an item may arrive between the last pop and the release
            mine = False
            try:  # a signal handler that raises between taking and trying would stop deliveries for ever
                mine = self._delivering.acquire(blocking=False)
                if not mine:
                    return
                while self.queue and most > 0:
                    most -= 1
                    self._deliver(self.queue.pop(0))
            finally:
                if mine:
                    self._delivering.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's queue and whoever was delivering it."""
        self.queue.clear()
        self._delivering = threading.Lock()
