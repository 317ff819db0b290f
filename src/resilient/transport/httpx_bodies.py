"""Bodies: what was sent may be sent again or not; what is received holds its instance until its end.

Each client library has subclasses of these that are its own streams, too: see `httpx_family`.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from resilient import places
from resilient.deadline import Limit
from resilient.transport.exchange import Attempt
from resilient.transport.pools import Pool
from resilient.transport.routing import TIME_IS_UP, Trouble

if TYPE_CHECKING:
    from resilient.transport.httpx_family import Family


class SentBody:
    """A request's body that notes its first read. It belongs to the client: nothing here closes it."""

    family: ClassVar[Family]

    def __init__(self, stream: Any, clock: Any) -> None:
        self._stream = stream
        self._now = clock.monotonic
        self._started = False
        self.read_at: float | None = None  # in this attempt: the head has been written, on a connection

    def sendable(self) -> bool:
        """Whether it can be sent now: never read, or the same bytes each time. A file would send 0 bytes."""
        return not self._started or self._replayable()

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, self.family.http.SyncByteStream)  # the client has looked
        self._started = True
        self.read_at = self._now()
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, self.family.http.AsyncByteStream)  # the client has looked
        self._started = True
        self.read_at = self._now()
        return aiter(self._stream)

    def _replayable(self) -> bool:
        if isinstance(self._stream, self.family.http.ByteStream):
            return True
        fields = getattr(self._stream, "fields", None)  # multipart, by what it has: its class is not public
        return isinstance(fields, list) and all(isinstance(getattr(part, "file", b""), (bytes, str)) for part in fields)


class _Answer:
    """What both colours of an answer's body share: it gives back what it holds once."""

    family: ClassVar[Family]
    _kept: list[places.Place] | None = None
    _pool: Pool[Any] | None = None  # until it is whole: an interrupt may come before
    _open = False

    def __init__(
        self,
        stream: Any,
        attempt: Attempt,
        pool: Pool[Any],
        until: Limit | None,
        key: str,
    ) -> None:
        self._stream = stream
        self._attempt = attempt  # uses the pool until the stream has been closed: its connection is idle then
        self._pool = pool
        self._until = until
        self._key = key
        self._open = True

    def _end(self, error: BaseException | None = None) -> None:
        """The body is over, for whatever reason: the instance and the places of policies are free."""
        if not self._open:
            return
        self._open = False
        if self._kept is not None:
            places.let_go(self._kept)
        if error is None:
            self._attempt.ended()
        else:
            late = isinstance(error, self.family.late) or (
                isinstance(error, self.family.http.TimeoutException) and self._left() <= TIME_IS_UP
            )  # a caller without time is not the host's failure
            self._attempt.broke(error, Trouble.OTHER if late else self._trouble(error))

    def keep(self, kept: list[places.Place]) -> None:
        """Hold places of policies, too."""
        self._kept = kept
        if not self._open:  # a caller whose time was up has closed it meanwhile
            places.let_go(kept)

    def _leave(self) -> None:
        if self._pool is not None:
            self._pool.leave(self._attempt)

    def _trouble(self, error: BaseException) -> Trouble:
        found = self.family.trouble_of(error)
        return Trouble.BROKEN if found is Trouble.UNSENT else found

    def _left(self) -> float:
        return float("inf") if self._until is None else self._until.end - self._until.clock.monotonic()

    def _check_time(self) -> None:
        if self._left() <= 0:
            late: Any = self.family.late
            raise late(
                f"the answer of {self._key!r} was not read to its end: the caller's deadline has passed",
                policy=self._key,
                limit=float("inf"),
                elapsed=0.0,
                by_deadline=True,
            )

    def __del__(self) -> None:
        # Takes no lock: a finaliser may run anywhere. The lease, and places of policies, come back from finalisers of
        # their own.
        if self._pool is not None:
            self._pool.lose(self._attempt)
        if self._open:
            warnings.warn(
                f"an answer of {self._key!r} was neither read to its end nor closed; its connection is lost"
                " until the client is closed",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


class AnswerBody(_Answer):
    """A response's body, streamed; the lease and the place in the pool go back at its end."""

    def __iter__(self) -> Iterator[bytes]:
        limited = self._until is not None
        try:
            for chunk in self._stream:
                if limited:
                    self._check_time()
                yield chunk
        except GeneratorExit:  # the reader stops; close() follows
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end()

    def close(self) -> None:
        """Give everything back."""
        try:
            if self._open:
                self._end()
        finally:
            try:
                self._stream.close()
            finally:
                self._leave()


class AsyncAnswerBody(_Answer):
    """The same for async functions."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        limited = self._until is not None
        try:
            async for chunk in self._stream:
                if limited:
                    self._check_time()
                yield chunk
        except GeneratorExit:  # the reader stops; aclose() follows
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end()

    async def aclose(self) -> None:
        """Give everything back, the instance before the first await: a cancelled close must not keep it."""
        if self._open:
            self._end()
        try:
            await self._stream.aclose()
        finally:
            self._leave()
