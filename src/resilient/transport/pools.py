"""One pool of connections per instance: a host that hangs must not hold the connections of the others."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from resilient.clock import forget_on_fork

T = TypeVar("T")

PoolKey: TypeAlias = tuple[str | None, str | None, int | None, str | None, str | None]
"""What must not share a connection: scheme, host, port, the name that TLS verifies, proxy.

A connection was verified for one name; another name must not ride on it. Hosts that are not logical share one pool per
proxy: their scheme, host and port stand here as None.
"""


class Listing(Protocol):
    """The list of the instances of one service."""

    @property
    def service(self) -> str | None:
        """Its name; None: it is no service, and nothing is on the list."""
        ...

    def lists(self, host: str, port: int) -> bool:
        """Whether an address is on the list now."""
        ...

    def hear(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed` after each change of the list; the function that stops that."""
        ...


class Pool(Generic[T]):
    """One client transport and who uses it: from the sending of a request until the answer has been closed."""

    __slots__ = ("_dispose", "_lock", "_made", "address", "left", "transport", "users")

    transport: T

    def __init__(self, dispose: Callable[[T], object], address: Any = None) -> None:
        self._lock = threading.Lock()
        self._dispose = dispose
        self.address = address  # of its instance, as the client library reads it
        self._made: list[T] = []  # the transport, until somebody takes it out to close it
        self.users: set[object] = set()  # not a number: a set may be changed from a finaliser without a lock
        self.left = False  # its instance has left the list: nobody comes in any more, the last one closes it

    def make(self, make: Callable[[], T]) -> bool:
        """Make the client transport, once; whether this was the time.

        The lock holds back only those who could not go on without it anyway.
        """
        with self._lock:
            if hasattr(self, "transport"):
                return False
            self.transport = make()
            self._made.append(self.transport)
            return True

    def leave(self, user: object) -> None:
        """A use is over; twice is fine."""
        self.users.discard(user)
        if self.left and not self.users:
            self.close()

    def lose(self, user: object) -> None:
        """The same for a finaliser: closes nothing, for that takes locks."""
        self.users.discard(user)

    def close(self) -> None:
        """Let the client transport be closed."""
        for transport in self.take():
            self._dispose(transport)

    def take(self) -> list[T]:
        """Take the client transport out; of several who want to close it one gets it."""
        try:
            return [self._made.pop()]
        except IndexError:
            return []


class Pools(Generic[T]):
    """The pools of one transport. Safe for threads.

    A pool whose instance leaves the list gets no new users, and is closed after the last one: at once when there is
    none. An instance that comes back gets a new pool.

    Args:
        dispose: closes a client transport that nobody uses, called by any thread; does not raise.
    """

    def __init__(self, dispose: Callable[[T], object]) -> None:
        self._dispose = dispose
        self._lock = threading.Lock()
        self._pools: dict[PoolKey, Pool[T]] = {}
        self._listings: dict[PoolKey, Listing] = {}
        self._leaving: list[Pool[T]] = []  # that were in use when their instance left
        self._heard: dict[str, Callable[[], None]] = {}  # services whose changes are heard, and how to stop that
        forget_on_fork(self)

    def enter(self, key: PoolKey, user: object) -> Pool[T] | None:
        """Use the pool of `key`, if there is one. Takes no lock."""
        pool = self._pools.get(key)
        if pool is None:
            return None
        try:
            pool.users.add(user)  # before the look: who closes it says so before it looks for users
            if pool._made and not pool.left:
                return pool
        except BaseException:
            pool.leave(user)
            raise
        pool.leave(user)
        return None

    def take(
        self, key: PoolKey, user: object, listing: Listing | None, make: Callable[[], T], *, address: Any = None
    ) -> Pool[T]:
        """Use the pool of `key`, made when there is none.

        Args:
            key: what must not share a connection.
            user: whoever leaves the pool in the end.
            listing: where its instance stands; None for hosts that are not logical, whose pool stays.
            make: makes the client transport.
            address: of the instance, for whoever uses the pool.
        """
        pool: Pool[T] | None = None
        try:
            with self._lock:
                pool = self._pools.get(key)
                if pool is None:
                    pool = self._pools[key] = Pool(self._dispose, address)
                    if listing is not None:
                        self._listings[key] = listing
                pool.users.add(user)
            if listing is not None and listing.service is not None:
                self._hear(listing.service, listing)
            if pool.make(make) and listing is not None and listing.service is not None:
                self._part({key: listing})  # its instance may have left since it was chosen
        except BaseException:
            if pool is not None:
                pool.leave(user)
            raise
        return pool

    def take_all(self) -> list[T]:
        """Take out every client transport, those that are in use too."""
        with self._lock:
            pools = [*self._pools.values(), *self._leaving]
            heard = list(self._heard.values())
            self._pools, self._listings, self._leaving, self._heard = {}, {}, [], {}
        for stop in heard:
            stop()
        return [transport for pool in pools for transport in pool.take()]

    def __len__(self) -> int:
        return len(self._pools)

    def after_fork_in_child(self) -> None:
        """Drop the pools unclosed: their connections are the parent's."""
        self._lock = threading.Lock()
        self._pools, self._listings, self._leaving = {}, {}, []

    def _hear(self, service: str, listing: Listing) -> None:
        with self._lock:
            if service in self._heard:
                return
            self._heard[service] = _nothing
        mine = weakref.ref(self)  # the discovery may live longer than the transport

        def changed() -> None:
            pools = mine()
            if pools is None:
                stop()
            else:
                pools._part(pools._listings.copy())

        try:
            stop = listing.hear(changed)
        except BaseException:
            with self._lock:
                self._heard.pop(service, None)  # the next one asks again
            raise
        with self._lock:
            self._heard[service] = stop

    def _part(self, among: dict[PoolKey, Listing]) -> None:
        """Part with those pools whose instances are gone."""
        gone = [key for key, listing in among.items() if not listing.lists(str(key[1]), int(key[2] or 0))]
        with self._lock:
            for key in gone:
                pool = self._pools.pop(key, None)
                self._listings.pop(key, None)
                if pool is not None:
                    pool.left = True  # before the look for users: who enters looks at it after
                    self._leaving.append(pool)
            free = [pool for pool in self._leaving if not pool.users]
            for pool in free:
                self._leaving.remove(pool)
        for pool in free:
            pool.close()


def _nothing() -> None:
    """In the place of a stop while it is being asked for."""
