"""What a requests adapter is made of below: the connections of one instance, and the body of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from requests.adapters import HTTPAdapter

from resilient import places
from resilient.errors import ResilienceError
from resilient.transport.exchange import Attempt
from resilient.transport.pools import Pool
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

    def close(self) -> None:
        """Close the connections; requests only forgets them, and one is closed when nobody holds its answer."""
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118  # it refuses to be iterated
            connections = pools.get(key)
            if connections is not None:
                connections.close()
        super().close()


class RawBody:
    """urllib3's response; gives back what it holds when it has been read or is closed: lease, pool, `kept` places."""

    _kept: list[places.Place] | None = None

    def __init__(self, raw: Any, attempt: Attempt, pool: Pool[Any], until: Any, key: str) -> None:
        self._raw = raw
        self._attempt = attempt  # uses the pool until the connection has been given back
        self._pool = pool
        self._open = True
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
        self._pool.leave(self._attempt)  # urllib3 has given the connection back

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        """Some of the body."""
        try:
            found: bytes = self._raw.read(*args, **kwargs)
        except BaseException as error:
            self._end(error)
            raise
        if self._raw.closed:
            self._end()
            self._pool.leave(self._attempt)  # as above
        return found

    def close(self) -> None:
        """Give everything back."""
        try:
            self._end()
        finally:
            try:
                self._raw.close()
            finally:
                self._pool.leave(self._attempt)

    def release_conn(self) -> None:
        """The same; the connection may be used again."""
        self._end()
        try:
            self._raw.release_conn()
        finally:
            self._pool.leave(self._attempt)

    def keep(self, kept: list[places.Place]) -> None:
        """Hold places of policies, too."""
        self._kept = kept
        if not self._open:  # a caller whose time was up has closed it meanwhile
            places.let_go(kept)

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
        if not self._open:
            return
        self._open = False
        if self._kept is not None:
            places.let_go(self._kept)
        if error is None or isinstance(error, ResilienceError):
            self._attempt.ended()
        else:
            self._attempt.broke(error, Trouble.BROKEN)

    def __del__(self) -> None:
        self._pool.lose(self._attempt)
