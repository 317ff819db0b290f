"""What changed lately, for those who already know the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from resilient.registry_server.record import Lease

Key = tuple[str, str]
"""A service and the id of its instance."""


class Changes:
    """The last change of each instance, oldest first; as bounded as the instances themselves. Not safe for threads.

    A client that comes and goes under ever new names pushes older changes out; the others see by the check sum that
    something is missing, and ask for everything.

    Args:
        most: instances told of.
        most_bytes: of those that left, whose records are kept here alone.
        version: the first one.
    """

    def __init__(self, *, most: int, most_bytes: int, version: int) -> None:
        self.version = version
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[Key, tuple[float, Lease | None, int]] = OrderedDict()

    def add(self, key: Key, now: float, gone: Lease | None = None, size: int = 0) -> None:
        """Something happened to an instance; one that left is told from `gone`, which weighs `size` bytes."""
        self.version += 1
        before = self._entries.pop(key, None)
        self._bytes += size - (before[2] if before else 0)
        self._entries[key] = now, gone, size
        while len(self._entries) > self._most or self._bytes > self._most_bytes:
            self._drop_oldest()

    def forget_before(self, oldest: float) -> None:
        """Tell no more what is older."""
        while self._entries and next(iter(self._entries.values()))[0] < oldest:
            self._drop_oldest()

    def __iter__(self) -> Iterator[tuple[Key, Lease | None]]:
        return ((key, gone) for key, (_, gone, _) in self._entries.items())

    def _drop_oldest(self) -> None:
        _, (_, _, size) = self._entries.popitem(last=False)
        self._bytes -= size
