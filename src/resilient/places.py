"""Places that stay taken while work runs that was started under them.

A worker thread that a timeout left behind still uses the dependency, so the place that a bulkhead gave its caller is
not free yet. A place counts its holders: the layer that took it, and every worker thread started inside that layer.
It is free when the last of them lets go. The layers of gates that hold places put them into `held`; whoever moves a
sync call to another thread calls `retain_held()` before the thread starts, releases each place when the work really
ends, and runs it in a context in which `held` is empty.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import Protocol


class Place(Protocol):
    """What a gate gave one call. Safe for threads."""

    def retain(self) -> bool:
        """One holder more; False when nobody holds it any more."""
        ...

    def release(self) -> None:
        """One holder less; the last one frees it."""
        ...


held: ContextVar[tuple[Place, ...]] = ContextVar("resilient.places", default=())


def retain_held(context: Context) -> tuple[Place, ...]:
    """Hold the places of this call for a worker that will run in `context`, where there are none then."""
    places = held.get()
    if not places:
        return ()
    context.run(held.set, ())
    return tuple(place for place in places if place.retain())
