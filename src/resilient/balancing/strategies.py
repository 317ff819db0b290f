"""How to choose: one object per balancer."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from resilient.clock import forget_on_fork
from resilient.discovery import Instance


class Strategy(Protocol):
    """How to choose; one object per balancer, called by many threads at once."""

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
        """One of `instances`.

        Args:
            instances: what may be chosen: never empty, always in the same order while the list does not change.
            key: what calls that belong together have in common (a user, a shard), or None.
        """
        ...


class RoundRobin:
    """One after the other, from a random start.

    Of any k x H picks in a row among H instances each gets exactly k, from however many threads. The position goes on
    when the list changes. The start is drawn at the first pick, once per process and again after a fork: clients that
    start together, and the workers of a prefork server, do not all begin with the same instance.

    Args:
        rng: gives a float in [0, 1) for the start; default `random.random`.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import RoundRobin
        >>> from resilient.discovery import Instance
        >>> a, b = Instance("db", "10.0.0.1", 5432), Instance("db", "10.0.0.2", 5432)
        >>> rotation = RoundRobin(rng=lambda: 0.0)
        >>> [rotation.pick((a, b), None).host for _ in range(3)]
        ['10.0.0.1', '10.0.0.2', '10.0.0.1']
    """

    __slots__ = ("__weakref__", "_lock", "_position", "_rng")

    def __init__(self, *, rng: Callable[[], float] | None = None) -> None:
        self._rng = rng or random.random
        self._lock = threading.Lock()
        self._position: int | None = None
        forget_on_fork(self)

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:  # rotation knows no keys
        """The next of `instances`."""
        start = 0 if self._position is not None else int(self._rng() * len(instances))
        with self._lock:  # not itertools.count: its next() is atomic with the GIL only
            position = start if self._position is None else self._position
            self._position = position + 1
        return instances[position % len(instances)]

    def __repr__(self) -> str:
        return "RoundRobin()"

    def after_fork_in_child(self) -> None:
        """Draw a new start: the children of one parent must not go in step."""
        self._lock = threading.Lock()
        self._position = None
