"""Prefork servers: what one process collects, added up with what the others do, whichever of them is scraped.

Each process writes what it has into a file of its own, once a second and whenever it is scraped itself; who is scraped
reads them all. A process holds a lock on its file as long as it lives, so nobody has to be told that it has died: what
it has counted is kept, and what it showed is dropped.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from resilient.clock import REAL_CLOCK, forget_on_fork
from resilient.errors import ConfigError
from resilient.telemetry.prometheus_families import Together
from resilient.telemetry.prometheus_shelf import Document, Entry, Family, Shelf, counts, entry_of

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector
else:
    Collector = object

logger = logging.getLogger("resilient")

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_INTERVAL: Final = 1.0  # seconds between two writes; with ten breakers one takes 5 ms: half a percent of a core


class Described(Protocol):
    """A collector that says beforehand what there may be."""

    def describe(self) -> Iterable[Metric]:
        """Every metric there may be, without values."""
        ...

    def collect(self) -> Iterable[Metric]:
        """Every metric that there is now."""
        ...


_groups: dict[tuple[str, str], int] = {}
_alive: weakref.WeakSet[ProcessesCollector] = weakref.WeakSet()
_lock = threading.Lock()


def of_all_processes(
    collector: Described, kind: str, together: Mapping[str, Together | None], *, restarts: bool
) -> Described:
    """`collector`, or what it says in all processes when $PROMETHEUS_MULTIPROC_DIR names a folder.

    Args:
        collector: what this process has.
        kind: distinguishes collectors of one process; the n-th of a kind belongs to the n-th of other processes.
        together: how the values of a gauge become one, by its name; None, or no entry: they do not.
        restarts: whether it counts from 0 in a forked process.

    Raises:
        ConfigError: when the folder can not be used.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return collector
    with _lock:
        number = _groups[folder, kind] = _groups.get((folder, kind), 0) + 1
    return ProcessesCollector(collector, Path(folder), f"{kind}-{number}", together, restarts=restarts)


class ProcessesCollector(Collector):
    """What one collector says in all processes. Safe for threads and forks."""

    def __init__(
        self,
        collector: Described,
        folder: Path,
        group: str,
        together: Mapping[str, Together | None],
        *,
        restarts: bool,
    ) -> None:
        self._collector = collector
        self._together = together
        self._restarts = restarts
        self._lock = threading.Lock()
        self._last: dict[Entry, float] = {}  # what each counter said
        self._totals: dict[Entry, tuple[Family, float]] = {}  # what it has counted in this process
        try:
            self._shelf = Shelf(folder, group)
        except (OSError, ImportError) as error:  # there is no fcntl on Windows
            raise ConfigError(f"${VARIABLE}: {folder} can not be used: {error}", path=VARIABLE) from error
        forget_on_fork(self)
        _alive.add(self)
        self._start()

    def describe(self) -> Iterable[Metric]:
        """Every metric there may be, without values."""
        return self._collector.describe()

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes; what this one says now is written first, so that no counter goes back."""
        self.write()
        return self._merged(self._shelf.read())

    def write(self) -> None:
        """Write what this process has."""
        with self._lock:
            self._shelf.write(self._note())

    def _note(self) -> Document:
        """What it says now; its counters as they have counted in this process, those of series that ended as well."""
        samples: dict[Family, list[tuple[str, dict[str, str], float]]] = {}
        seen: set[Entry] = set()
        for metric in self._collector.collect():
            family = (metric.name, metric.documentation, metric.type)
            for sample in metric.samples:
                if counts(metric.type, sample.name):
                    entry = entry_of(sample.name, sample.labels)
                    seen.add(entry)
                    self._count(entry, family, sample.value)
                else:
                    samples.setdefault(family, []).append((sample.name, dict(sample.labels), sample.value))
        for entry in self._last.keys() - seen:
            self._last[entry] = 0.0  # should it come back, it is another one
        for (name, labels), (family, total) in self._totals.items():
            samples.setdefault(family, []).append((name, dict(labels), total))
        return list(samples.items())

    def _count(self, entry: Entry, family: Family, value: float) -> None:
        last = self._last.get(entry, 0.0)
        total = self._totals[entry][1] if entry in self._totals else 0.0
        self._totals[entry] = family, total + (value - last if value >= last else value)
        self._last[entry] = value

    def _merged(self, documents: list[Document]) -> list[Metric]:
        from prometheus_client.metrics_core import Metric

        families: dict[str, Family] = {}
        values: dict[str, dict[Entry, list[float]]] = {}
        for document in documents:
            for (metric, text, kind), samples in document:
                families.setdefault(metric, (metric, text, kind))  # others may run another version for a while
                entries = values.setdefault(metric, {})
                for name, labels, value in samples:
                    entries.setdefault(entry_of(name, labels), []).append(value)
        found = []
        for metric, entries in sorted(values.items()):
            _, text, kind = families[metric]
            shown = Metric(metric, text, kind)
            for (name, pairs), several in sorted(entries.items()):
                combine = sum if counts(kind, name) else self._together.get(metric)
                if combine is not None or len(several) == 1:
                    shown.add_sample(name, dict(pairs), several[0] if combine is None else combine(several))
            if shown.samples:
                found.append(shown)
        return found

    def before_fork(self) -> None:
        """What was counted until now is the parent's."""
        with self._lock:
            self._note()

    def after_fork_in_child(self) -> None:
        """A file of its own, and counters that begin at 0."""
        self._lock = threading.Lock()
        self._totals = {}
        if self._restarts:
            self._last = {}
        self._shelf.after_fork_in_child()
        self._start()

    def _start(self) -> None:
        stop = threading.Event()
        me = weakref.ref(self, lambda _: stop.set())
        threading.Thread(target=_write_forever, args=(me, stop), name="resilient-metrics", daemon=True).start()
        atexit.unregister(_write_all)
        atexit.register(_write_all)


def _write_forever(me: Callable[[], ProcessesCollector | None], stop: threading.Event) -> None:
    well = True
    while not REAL_CLOCK.wait(stop, _INTERVAL):  # first: after a fork others may still have their locks to renew
        collector = me()
        if collector is None:
            return
        try:
            collector.write()
            well = True
        except Exception:
            logger.log(
                logging.WARNING if well else logging.DEBUG,  # once per illness
                "the metrics of this process can not be written; others do not see them",
                exc_info=True,
            )
            well = False
        del collector


def _write_all() -> None:
    """At the end of a process: what it has counted in its last second."""
    for collector in list(_alive):
        try:
            collector.write()
        except Exception:
            logger.debug("the last metrics of this process can not be written", exc_info=True)


def _before_fork() -> None:
    for collector in list(_alive):
        collector.before_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
