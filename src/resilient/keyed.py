"""One policy per key: per host, tenant or shard. Bounded, and never two for one key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from resilient.checks import whole
from resilient.clock import SYSTEM_CLOCK, forget_on_fork
from resilient.errors import ConfigError
from resilient.events import Event, publish

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_LOOK = 0.05  # seconds between two looks at a value that another thread makes, should nobody be woken
_LOOK_AT = 16  # how many of the oldest are looked at when there are too many: the price of one new key stays bounded


@dataclass(frozen=True, slots=True)
class KeyDropped(Event):
    """A Keyed held twice its `max_keys` of values that are all in use, and let one go."""

    key: Hashable


class Keyed(Generic[K, V]):
    """One value per key, made at its first use: `breakers["acme"].call(...)`.

    Beyond `max_keys`, values that remember nothing go first, the longest unused before the others: a breaker that is
    closed with an empty window, a pipeline of such. While all of the oldest remember something the number may grow to
    twice `max_keys`; then one goes with a `KeyDropped` event: the oldest that is not open, where there is one among
    the 16 oldest. What somebody still holds is found again, so
    there are never two values for one key.

    Args:
        factory: makes the value of a key; called once per key, outside every lock.
        max_keys: how many values to keep, default 10,000, at least 1.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads and event loops.

    Example:
        >>> from resilient import CircuitBreaker
        >>> from resilient.keyed import Keyed
        >>> breakers = Keyed(lambda tenant: CircuitBreaker(f"db.{tenant}"))
        >>> breakers["acme"].call(lambda: 42)
        42
        >>> breakers["acme"] is breakers["acme"]
        True
        >>> "acme" in breakers, "nobody" in breakers, breakers.keys()
        (True, False, ('acme',))
        >>> breakers.reset("acme")
    """

    def __init__(self, factory: Callable[[K], V], *, max_keys: int = 10_000) -> None:
        if not callable(factory):
            raise ConfigError(f"Keyed: factory must be a function of the key, not {factory!r}", path="factory")
        self._factory = factory
        self._max = whole("Keyed", "max_keys", max_keys)
        self._lock = threading.Lock()
        self._recent: OrderedDict[K, V] = OrderedDict()  # the longest unused first
        self._alive: WeakValueDictionary[K, V] = WeakValueDictionary()
        self._making: dict[K, _Making] = {}
        forget_on_fork(self)

    def __getitem__(self, key: K, /) -> V:
        """The value of `key`, made when there is none yet.

        Raises:
            RuntimeError: when the factory asks for the key it is making.
        """
        mine: _Making | None = None
        try:
            while True:
                with self._lock:
                    if key in self._recent:
                        self._recent.move_to_end(key)
                        return self._recent[key]
                    found = self._alive.get(key)
                    if found is not None:
                        self._recent[key] = found
                        return found
                    making = self._making.get(key)
                    if making is None or making.over:
                        self._making[key] = mine = _Making()
                        break
                if making.thread == threading.get_ident():
                    raise RuntimeError(f"the factory of this Keyed asks for {key!r}, the key that it is making")
                making.wait()
            value = self._factory(key)
            self._keep(key, value)
        finally:
            if mine is not None:
                mine.over = True  # first, by itself: an interrupt may leave at the next call
                mine.done.set()
                with self._lock:
                    if self._making.get(key) is mine:
                        del self._making[key]
        self._make_room()
        return value

    def __len__(self) -> int:
        return len(self._recent)

    def __contains__(self, key: object) -> bool:
        """Whether there is a value for `key`; asking makes none."""
        with self._lock:
            return key in self._recent or key in self._alive

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys())

    def keys(self) -> tuple[K, ...]:
        """The keys that have a value now, the longest unused first."""
        with self._lock:
            return tuple(self._recent)

    def items(self) -> tuple[tuple[K, V], ...]:
        """(key, value) of all that have one now, the longest unused first; looking counts as no use."""
        with self._lock:
            return tuple(self._recent.items())

    def reset(self, key: K | None = None) -> None:
        """Reset the value of `key`, or every value: a breaker closes and forgets.

        Values without a `reset()` are left alone. A key that has no value gets none.
        """
        found = self.items() if key is None else [(key, self[key])] if key in self else []
        for _, value in found:  # outside the lock: it is the value's code
            reset = getattr(value, "reset", None)
            if callable(reset):
                reset()

    def __repr__(self) -> str:
        return f"<Keyed {len(self)} of {self._max} keys>"

    def after_fork_in_child(self) -> None:
        """Take a new lock; whoever was making a value is a thread of the parent."""
        self._lock = threading.Lock()
        self._making = {}

    def _keep(self, key: K, value: V) -> None:
        with self._lock:
            self._recent[key] = value
            try:
                self._alive[key] = value
            except TypeError:  # not weakly referable: it is found only while it is kept
                return

    def _make_room(self) -> None:
        with self._lock:
            if len(self._recent) <= self._max:
                return
            oldest = [entry for entry, _ in zip(self._recent.items(), range(_LOOK_AT), strict=False)]
        idle = [entry for entry in oldest if _remembers_nothing(entry[1])]  # asks the values, so outside the lock
        busy = [entry for entry in oldest if entry not in idle]
        last = next((entry for entry in busy if _is_closed(entry[1])), busy[0] if busy else None)
        dropped: K | None = None
        with self._lock:
            for key, value in idle:
                if len(self._recent) > self._max and self._recent.get(key) is value:
                    del self._recent[key]
            if last is not None and len(self._recent) > 2 * self._max and self._recent.get(last[0]) is last[1]:
                dropped = last[0]
                del self._recent[dropped]
        if dropped is not None:
            publish(KeyDropped("keyed", SYSTEM_CLOCK.monotonic(), dropped))


class _Making:
    """Somebody makes a value; the others wait for it."""

    __slots__ = ("done", "over", "thread")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.over = False  # stored before `done` is set, which a signal handler may interrupt
        self.thread = threading.get_ident()

    def wait(self) -> None:
        """Until it is over."""
        while not self.over:
            self.done.wait(_LOOK)


def _remembers_nothing(value: object) -> bool:
    """Whether a new value would behave the same: every layer that counts is closed and has counted nothing lately."""
    return _is_closed(value) and not any(getattr(seen, "calls", 0) for seen in _snapshots(value))


def _is_closed(value: object) -> bool:
    return all(getattr(getattr(seen, "state", None), "value", "closed") == "closed" for seen in _snapshots(value))


def _snapshots(value: object) -> Iterator[Any]:
    for layer in getattr(value, "layers", ()):
        snapshot = getattr(layer, "snapshot", None)
        if snapshot is not None:
            yield snapshot()
