"""Counters that never go back, although what they are added up from comes and goes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any, TypeAlias
from weakref import ReferenceType

from resilient.clock import forget_on_fork

Member: TypeAlias = ReferenceType[Any]
Readings: TypeAlias = Mapping["Series", Mapping[Member, float]]
Series: TypeAlias = tuple[str, ...]


class _Seen:
    """What one member of a series said."""

    __slots__ = ("at", "last", "lost")

    def __init__(self, value: float, at: int) -> None:
        self.last = value
        self.lost = 0.0  # what it had counted when it was reset
        self.at = at


class Ledger:
    """The totals of series, each the sum of its members.

    A member that was reset, or that is gone, keeps its share: Prometheus takes a smaller value for a restart, and would
    count all of the others again. A series without members ends.

    Readings are made outside of any lock, so an older one may arrive after a newer one: `begin()` before reading tells
    them apart. Safe for threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments = itertools.count(1)
        self._series: dict[Series, dict[Member, _Seen]] = {}
        self._gone: dict[Series, float] = {}
        self._last_left = 0  # the moment in which a member was found to be gone
        forget_on_fork(self)

    def begin(self) -> int:
        """A moment before a reading."""
        with self._lock:
            return next(self._moments)

    def totals(self, readings: Readings, begun: int) -> dict[Series, float]:
        """The totals after a reading that began at a moment."""
        with self._lock:
            now = next(self._moments)
            late = begun <= self._last_left  # somebody was found to be gone while this was read
            for series in [*self._series, *(one for one in readings if one not in self._series)]:
                self._enter_locked(series, readings.get(series, {}), begun, now, late=late)
            return {
                series: self._gone.get(series, 0.0) + sum(one.lost + one.last for one in members.values())
                for series, members in self._series.items()
            }

    def _enter_locked(
        self, series: Series, values: Mapping[Member, float], begun: int, now: int, *, late: bool
    ) -> None:
        members = self._series.setdefault(series, {})
        for member, value in values.items():
            seen = members.get(member)
            if seen is None:
                if not late:  # else it may be the one that left: its share would count twice
                    members[member] = _Seen(value, now)
                continue
            if value < seen.last:
                if begun <= seen.at:
                    continue  # this reading is the older one
                seen.lost += seen.last
            seen.last, seen.at = value, now
        for member in [one for one, seen in members.items() if one not in values and seen.at < begun]:
            seen = members.pop(member)
            self._gone[series] = self._gone.get(series, 0.0) + seen.lost + seen.last
            self._last_left = now
        if not members:
            del self._series[series]
            self._gone.pop(series, None)

    def after_fork_in_child(self) -> None:
        """A new lock: a scrape in the parent may have held it."""
        self._lock = threading.Lock()
