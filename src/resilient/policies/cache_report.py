"""What a Cache and a Collapser tell: snapshots of one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """One moment of a cache: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        entries: answers it remembers; those of this request where it remembers per request.
        in_flight: calls that run now, likewise.
        hits: answers given without a call, since the cache was made.
        shared: callers that waited for a call which another one had begun.
        calls: calls made for callers.
        passed: calls that could not be remembered: no request, or arguments that can not be a key.
    """

    name: str
    entries: int
    in_flight: int
    hits: int
    shared: int
    calls: int
    passed: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CollapserSnapshot:
    """One moment of a collapser: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        waiting: keys that wait for their batch to start or to end.
        calls: single calls, since the collapser was made.
        batches: batch calls made for them.
        keys: keys that those batches asked for; `calls / batches` is what collapsing saves.
    """

    name: str
    waiting: int
    calls: int
    batches: int
    keys: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)
