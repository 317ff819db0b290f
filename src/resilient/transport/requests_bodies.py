"""What a requests adapter is made of below: the connections of one instance, and the body of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from requests.adapters import HTTPAdapter

from resilient import places
from resilient.errors import ResilienceError
from resilient.transport.exchange import Holding
from resilient.transport.pools import Place
from resilient.transport.requests_errors import TransportTimeoutError
from resilient.transport.routing import Trouble


class InstancePool(HTTPAdapter):
    """The connections of one instance, verified for the name of its service."""

    def __init__(self, tls_name: str | None, maxsize: int) -> None:
        self._tls_name = tls_name
        super().__init__(pool_connections=1, pool_maxsize=maxsize)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """As requests does, and TLS by name."""
        if self._tls_name is not None:
            options.update(server_hostname=self._tls_name, assert_hostname=self._tls_name)
        super().init_poolmanager(connections, maxsize, block, **options)


class RawBody:
    """urllib3's response; gives back what it holds when it has been read or is closed: lease, pool, `kept` places."""

    def __init__(
        self, raw: Any, holding: Holding, place: Place[Any], until: Any, key: str, kept: tuple[places.Place, ...]
    ) -> None:
        self._raw = raw
        self._kept = kept
        self._held: tuple[Holding, Place[Any]] | None = (holding, place)
        self._until = until
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """The body in parts."""
        try:
            for part in self._raw.stream(*args, **kwargs):
                self._check_time()
                yield part
        except GeneratorExit:  # the reader stops; close() follows
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end()

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        """Some of the body."""
        try:
            found: bytes = self._raw.read(*args, **kwargs)
        except BaseException as error:
            self._end(error)
            raise
        if self._raw.closed:
            self._end()
        return found

    def close(self) -> None:
        """Give everything back."""
        self._end()
        self._raw.close()

    def release_conn(self) -> None:
        """The same; the connection may be used again."""
        self._end()
        self._raw.release_conn()

    def _check_time(self) -> None:
        until = self._until
        if until is not None and until.end - until.clock.monotonic() <= 0:
            raise TransportTimeoutError(
                f"the answer of {self._key!r} was not read to its end: the caller's deadline has passed",
                policy=self._key,
                limit=float("inf"),
                elapsed=0.0,
                by_deadline=True,
            )

    def _end(self, error: BaseException | None = None) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        held[1].free()
        kept, self._kept = self._kept, ()
        for one in kept:
            one.release()
        if error is None or isinstance(error, ResilienceError):
            held[0].ended()
        else:
            held[0].broke(error, Trouble.BROKEN)
