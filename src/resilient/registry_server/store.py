"""Records, leases and what changed lately: the registry's memory. No I/O, no waiting; one lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, wall_ms
from resilient.errors import ResilienceError
from resilient.registry_server.changes import Changes
from resilient.registry_server.encoding_json import size
from resilient.registry_server.record import Lease, Record, hashcode_of, resulting_status

MAX_INSTANCES = 20_000
MAX_BYTES = 32 * 1024 * 1024  # of the JSON list of everything; MAX_INSTANCES of the usual 900 bytes are 18 MB
MAX_METADATA_KEYS = 1_000  # of one instance; merging is the only way to grow a record beyond a request's size
MAX_RECORD = 128 * 1024  # bytes of JSON that one instance may become by merging
_PROTECTED = 0.15  # of the instances: Eureka's threshold, from the other side


class RegistryFullError(ResilienceError):
    """The registry takes no more: it protects itself from a client that registers without end."""


class Delta(NamedTuple):
    """What changed lately, one lease per instance, and the check sum of everything that is there now."""

    leases: list[Lease]
    hashcode: str
    version: int


class RegistryStore:
    """All instances, in memory.

    A lease ends exactly one duration after the last renewal, or the registration; `evict` removes what has ended.
    A renewal that comes late but before `evict` counts: the instance is alive. Safe for threads.

    Args:
        clock: leases are measured on it; default the machine's monotonic clock.
        wall: epoch milliseconds, for the timestamps on the wire.
        max_instances: registrations beyond are refused; default 20,000.
        max_bytes: how large the JSON list of all instances may become, beyond which registrations are refused; default
            32 MiB, with which the process has 200 MB usually, and 0.5 GB when full of the worst.
        delta_seconds: how long a change is told, default 180 s (Eureka's); clients that poll less often see that their
            check sum differs, and ask for everything.
        self_preservation: True keeps every instance while more than 15 % of them have not renewed in time, because it
            is likelier that the network is down than that they are. Default False: what crashed is gone, which is
            what development and small fleets need; of six instances one alone is more than 15 %.

    Raises:
        ConfigError: when a value is out of range.

    Example:
        >>> from resilient.registry_server import RegistryStore
        >>> store = RegistryStore(max_instances=100)
        >>> len(store), store.evict(), store.protected
        (0, [], 0)
    """

    def __init__(
        self,
        *,
        clock: Clock = SYSTEM_CLOCK,
        wall: Callable[[], int] = wall_ms,
        max_instances: int = MAX_INSTANCES,
        max_bytes: int = MAX_BYTES,
        delta_seconds: float = 180.0,
        self_preservation: bool = False,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._max = whole("RegistryStore", "max_instances", max_instances)
        self._max_bytes = whole("RegistryStore", "max_bytes", max_bytes)
        self._delta_seconds = positive_seconds("RegistryStore", "delta_seconds", delta_seconds)
        self._self_preservation = self_preservation
        self._lock = threading.Lock()
        self._apps: dict[str, dict[str, Lease]] = {}
        self._count = 0
        self._bytes = 0
        self._statuses: Counter[str] = Counter()
        self._protected = 0
        # The version does not begin at 1: py_eureka_client skips a delta whose version and check sum it knows, and
        # after a restart a small number would come again with other instances behind it.
        self._changes = Changes(most=self._max, most_bytes=self._max_bytes, version=wall())

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<RegistryStore {self._count} instances of {len(self._apps)} services>"

    @property
    def protected(self) -> int:
        """How many instances self-preservation kept at the last look though their leases have ended."""
        return self._protected

    def register(self, record: Record) -> None:
        """Take in an instance, or a newer description of one; one that is older than the known is only a renewal.

        Raises:
            RegistryFullError: when it is new and there are `max_instances`, or it takes the list beyond `max_bytes`.
        """
        with self._lock:
            now_ms = self._wall()
            old = self._apps.get(record.app, {}).get(record.id)
            if old is None and self._count >= self._max:
                raise RegistryFullError(f"the registry is full: it holds {self._count:,} instances")
            before = old.record if old else None
            if before and record.dirty_ms is not None and before.dirty_ms is not None:
                record = before if before.dirty_ms > record.dirty_ms else record
            overridden = before.overridden if before and before.overridden != "UNKNOWN" else record.overridden
            status = resulting_status(record.status, overridden, before.status if before else None)
            self._put_locked(
                replace(
                    record,
                    status=status,
                    overridden=overridden,
                    dirty_ms=now_ms if record.dirty_ms is None else record.dirty_ms,
                    action="ADDED",
                    updated_ms=now_ms,
                    registered_ms=now_ms,
                    up_ms=(before.up_ms if before else 0) or (now_ms if status == "UP" else 0),
                ),
                now_ms,
            )

    def renew(self, app: str, instance: str, *, dirty_ms: int | None = None) -> bool:
        """Prolong a lease. False when the client must register (again): see the three reasons.

        Its instance is not known; its status was taken away (UNKNOWN); or the client has changed since it registered
        (`dirty_ms` is newer than what is known).
        """
        with self._lock:
            lease = self._apps.get(app, {}).get(instance)
            if lease is None or lease.record.status == "UNKNOWN":
                return False
            if dirty_ms is not None and dirty_ms > (lease.record.dirty_ms or 0):
                return False
            self._apps[app][instance] = lease.heard(self._clock.monotonic(), self._wall())
            return True

    def cancel(self, app: str, instance: str) -> bool:
        """Remove an instance; False when it is not there."""
        with self._lock:
            return self._remove_locked(app, instance) is not None

    def override(self, app: str, instance: str, status: str, *, dirty_ms: int | None = None) -> bool:
        """Set a status that outlives registrations until it is removed; False when the instance is not there."""
        return self._restate(app, instance, status, status, dirty_ms)

    def remove_override(self, app: str, instance: str, status: str = "UNKNOWN", *, dirty_ms: int | None = None) -> bool:
        """Remove the override; `status` holds until the next registration. False when the instance is not there."""
        return self._restate(app, instance, status, "UNKNOWN", dirty_ms)

    def merge_metadata(self, app: str, instance: str, metadata: Mapping[str, str]) -> bool:
        """Add to an instance's metadata, until its next registration; False when it is not there.

        Raises:
            RegistryFullError: when it would have more than 1,000 keys or 128 KiB, or takes the list beyond `max_bytes`.
        """
        with self._lock:
            lease = self._apps.get(app, {}).get(instance)
            if lease is None:
                return False
            merged = {**lease.record.metadata, **metadata}
            if len(merged) > max(MAX_METADATA_KEYS, len(lease.record.metadata)):
                raise RegistryFullError(
                    f"an instance may have {MAX_METADATA_KEYS:,} metadata keys, not {len(merged):,}"
                )
            now_ms = self._wall()
            changed = replace(lease.record, metadata=merged, action="ADDED", updated_ms=now_ms)
            self._put_locked(changed, now_ms, most=MAX_RECORD)
            return True

    def get(self, app: str, instance: str) -> Lease | None:
        """One instance of a service."""
        return self._apps.get(app, {}).get(instance)

    def find(self, instance: str) -> Lease | None:
        """One instance, whatever its service."""
        with self._lock:
            return next((leases[instance] for leases in self._apps.values() if instance in leases), None)

    def app(self, app: str) -> list[Lease]:
        """The instances of a service."""
        with self._lock:
            return list(self._apps.get(app, {}).values())

    def all(self) -> list[Lease]:
        """Every instance, those of one service together."""
        with self._lock:
            return self._all_locked()

    def delta(self) -> Delta:
        """What changed in the last `delta_seconds`, in its present state."""
        with self._lock:
            self._changes.forget_before(self._clock.monotonic() - self._delta_seconds)
            leases = [gone or self._apps[app][instance] for (app, instance), gone in self._changes]
            return Delta(leases, hashcode_of(self._statuses), self._changes.version)

    def evict(self, *, paused: float = 0.0) -> list[Record]:
        """Remove every instance whose lease has ended, and return them.

        Args:
            paused: seconds for which this process stood still (stopped, swapped out, its machine moved) and could not
                hear renewals; they do not count, or one pause would empty the registry.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._changes.forget_before(now - self._delta_seconds)
            if paused > 0:
                for leases in self._apps.values():
                    for instance, lease in leases.items():
                        leases[instance] = lease.heard(min(now, lease.renewed + paused), lease.renewed_ms)
            ended = [lease.record for lease in self._all_locked() if now > lease.renewed + lease.record.duration]
            self._protected = 0
            if self._self_preservation and len(ended) > _PROTECTED * self._count:
                self._protected = len(ended)
                return []
            for record in ended:
                self._remove_locked(record.app, record.id)
            return ended

    def age(self, lease: Lease) -> float:
        """Seconds since a lease was renewed."""
        return max(0.0, self._clock.monotonic() - lease.renewed)

    def _restate(self, app: str, instance: str, status: str, overridden: str, dirty_ms: int | None) -> bool:
        with self._lock:
            lease = self._apps.get(app, {}).get(instance)
            if lease is None:
                return False
            now_ms, record = self._wall(), lease.record
            changed = replace(
                record,
                status=status,
                overridden=overridden,
                dirty_ms=max(record.dirty_ms or 0, dirty_ms or 0),
                action="MODIFIED",
                updated_ms=now_ms,
                up_ms=record.up_ms or (now_ms if status == "UP" else 0),
            )
            self._put_locked(changed, now_ms, checked=False)  # an operator's word is small, and always taken
            return True

    def _put_locked(self, record: Record, now_ms: int, *, most: int | None = None, checked: bool = True) -> None:
        leases = self._apps.get(record.app, {})
        old = leases.get(record.id)
        lease = Lease(record, self._clock.monotonic(), now_ms)
        weighs = size(lease)
        grown = self._bytes + weighs - (size(old) if old else 0)
        if checked and most is not None and weighs > most:
            raise RegistryFullError(f"an instance may have {most:,} bytes, not {weighs:,}")
        if checked and grown > max(self._max_bytes, self._bytes):
            raise RegistryFullError(f"the registry is full: its list may have {self._max_bytes:,} bytes")
        self._apps.setdefault(record.app, leases)[record.id] = lease
        self._bytes = grown
        self._count += old is None
        if old is not None:
            self._statuses[old.record.status] -= 1
        self._statuses[record.status] += 1
        self._changes.add((record.app, record.id), lease.renewed)

    def _remove_locked(self, app: str, instance: str) -> Lease | None:
        lease = self._apps.get(app, {}).get(instance)
        if lease is None:
            return None
        now_ms = self._wall()
        del self._apps[app][instance]
        if not self._apps[app]:
            del self._apps[app]
        self._count -= 1
        self._bytes -= size(lease)
        self._statuses[lease.record.status] -= 1
        record = replace(lease.record, action="DELETED", updated_ms=now_ms, evicted_ms=now_ms)
        gone = Lease(record, lease.renewed, lease.renewed_ms)
        self._changes.add((app, instance), self._clock.monotonic(), gone, size(lease))
        return lease

    def _all_locked(self) -> list[Lease]:
        return [lease for leases in self._apps.values() for lease in leases.values()]
