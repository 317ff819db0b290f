"""Places that stay taken while work runs that was started under them.

A worker thread that a timeout left behind still uses the dependency, so the place that a bulkhead gave its caller is
not free yet. A place counts its holders: the layer that took it, and every worker thread started inside that layer.
It is free when the last of them lets go. The layers of gates that hold places keep them in `held.places` while the
call runs; whoever moves a sync call to another thread calls `retain_held()` before that starts, and releases each
place when the work really ends.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Protocol


class Place(Protocol):
    """What a gate gave one call. Safe for threads."""

    def retain(self) -> bool:
        """One holder more; False when nobody holds it any more."""
        ...

    def release(self) -> None:
        """One holder less; the last one frees it."""
        ...


class _Held(threading.local):
    """The places of the sync calls that are under way in this thread.

    By thread, not by context: what copies a context may outlive the call, and setting a context variable twice costs
    more than the rest of a bulkhead.
    """

    def __init__(self) -> None:
        self.places: list[Place] = []


held = _Held()


def retain_held() -> tuple[Place, ...]:
    """Hold the places of the calls in this thread for a worker that it starts."""
    return tuple(place for place in held.places if place.retain())


def let_go(kept: list[Place]) -> None:
    """Release places, each one once, although several threads may do so."""
    while kept:
        try:
            place = kept.pop()
        except IndexError:
            return
        place.release()


collected: ContextVar[list[Place] | None] = ContextVar("resilient.collected_places", default=None)
"""In async code, the list of whoever keeps places longer than the call they were taken for: a response is not over at
its headers. Mostly nobody does. Layers put their places in while the call runs."""
