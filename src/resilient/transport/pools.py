"""One pool of connections per instance: a host that hangs must not hold the connections of the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from resilient.clock import Clock, forget_on_fork

T = TypeVar("T")

_IDLE = 60.0  # seconds that a pool to an instance which left the list is kept: it may only have missed a renewal
_SWEEP = 10.0  # seconds between looks for such pools


PoolKey: TypeAlias = tuple[str | None, str | None, int | None, str | None, str | None]
"""What must not share a connection: scheme, host, port, the name that TLS verifies, proxy.

A connection was verified for one name; another name must not ride on it. Hosts that are not logical share one pool per
proxy: their scheme, host and port stand here as None.
"""


class Pool(Generic[T]):
    """One client transport and who uses it."""

    __slots__ = ("_lock", "_made", "last_used", "listed", "users")

    def __init__(self, listed: Callable[[], bool]) -> None:
        self._lock = threading.Lock()
        self._made: list[T] = []
        self.listed = listed
        self.last_used = 0.0
        self.users: set[object] = set()  # not a number: a set may be changed from a finaliser without a lock

    def transport(self, make: Callable[[], T]) -> T:
        """The client transport, made once. The lock holds back only those who could not go on without it anyway."""
        with self._lock:
            if not self._made:
                self._made.append(make())
            return self._made[0]

    def made(self) -> list[T]:
        """The client transport, if there is one."""
        return self._made


class Place(Generic[T]):
    """One use of a pool, from the request to the end of the answer's body."""

    __slots__ = ("_now", "_pool", "transport")

    transport: T

    def __init__(self, pool: Pool[T], now: Callable[[], float]) -> None:
        self._pool = pool
        self._now = now
        pool.users.add(self)

    def free(self) -> None:
        """The use is over; twice is fine. Takes no lock."""
        self._pool.last_used = self._now()
        self._pool.users.discard(self)


class Pools(Generic[T]):
    """The pools of one transport. Safe for threads; closes nothing itself, it hands out what is to be closed."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._pools: dict[PoolKey, Pool[T]] = {}
        self._next_sweep = self._now() + _SWEEP
        self.closing: deque[T] = deque()  # a request that closes one pays for one, and cancelled it loses no other
        forget_on_fork(self)

    def used(self, key: PoolKey) -> Place[T] | None:
        """A place in the pool of `key`, if it was used lately: such a one is not about to be closed. Takes no lock."""
        pool = self._pools.get(key)
        now = self._now()
        if pool is None or not pool._made or now - pool.last_used > _SWEEP or now >= self._next_sweep:
            return None
        place = Place(pool, self._now)
        place.transport = pool._made[0]
        return place

    def take(self, key: PoolKey, listed: Callable[[], bool], make: Callable[[], T]) -> Place[T]:
        """Use the pool of `key`, made when there is none.

        Args:
            key: what must not share a connection.
            listed: whether the instance is still known; asked when the pool has been idle.
            make: makes the client transport.
        """
        now = self._now()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            self._sweep(now)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = Pool(listed)
            pool.last_used = now
            place = Place(pool, self._now)
        try:
            place.transport = pool.transport(make)
        except BaseException:
            place.free()
            raise
        return place

    def _sweep(self, now: float) -> None:
        """Once in 10 s: put aside the pools to be closed: idle for a minute, their instance gone."""
        with self._lock:
            idle = [entry for entry in self._pools.items() if now - entry[1].last_used >= _IDLE and not entry[1].users]
        gone = [(key, pool) for key, pool in idle if not pool.listed()]
        with self._lock:
            for key, pool in gone:
                if now - pool.last_used >= _IDLE and self._pools.get(key) is pool:  # nobody took it meanwhile
                    del self._pools[key]
                    self.closing.extend(pool.made())

    def take_all(self) -> list[T]:
        """Take out every pool."""
        with self._lock:
            pools, self._pools = self._pools, {}
            closing = [*self.closing, *(transport for pool in pools.values() for transport in pool.made())]
            self.closing.clear()
        return closing

    def __len__(self) -> int:
        return len(self._pools)

    def after_fork_in_child(self) -> None:
        """Drop the pools unclosed: their connections are the parent's."""
        self._lock = threading.Lock()
        self._pools = {}
        self.closing.clear()
