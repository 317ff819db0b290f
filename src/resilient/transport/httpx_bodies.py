"""Bodies: what was sent may be sent again or not; what is received holds its instance until its end."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from resilient.deadline import Deadline
from resilient.transport.httpx_errors import TransportTimeoutError, trouble_of
from resilient.transport.pools import Place
from resilient.transport.routing import TIME_IS_UP, Holding, Trouble


class SentBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request's body that notes its first read. It belongs to the client: nothing here closes it."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._started = False
        self.read_now = False  # in this attempt

    def begin(self) -> None:
        """A new attempt."""
        self.read_now = False

    def sendable(self) -> bool:
        """Whether it can be sent now: never read, or the same bytes each time. A file would send 0 bytes."""
        return not self._started or _replayable(self._stream)

    def __iter__(self) -> Iterator[bytes]:
        self._started = self.read_now = True
        assert isinstance(self._stream, httpx.SyncByteStream)  # the client has looked
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._started = self.read_now = True
        assert isinstance(self._stream, httpx.AsyncByteStream)  # the client has looked
        return aiter(self._stream)


def _replayable(stream: object) -> bool:
    if isinstance(stream, httpx.ByteStream):
        return True
    fields = getattr(stream, "fields", None)  # multipart, by what it has: its class is not public
    return isinstance(fields, list) and all(isinstance(getattr(part, "file", b""), (bytes, str)) for part in fields)


class _Answer:
    """What both colours of an answer's body share: it gives back what it holds once."""

    def __init__(self, holding: Holding, place: Place[Any], until: Deadline | None, key: str) -> None:
        self._held: tuple[Holding, Place[Any]] | None = (holding, place)
        self._until = until
        self._key = key

    def _end(self, error: BaseException | None = None) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        holding, place = held
        place.free()
        if error is None:
            holding.ended()
        else:
            late = isinstance(error, TransportTimeoutError) or (
                isinstance(error, httpx.TimeoutException)
                and self._until is not None
                and self._until.remaining <= TIME_IS_UP
            )  # a caller without time is not the host's failure
            holding.broke(error, Trouble.OTHER if late else trouble_of(error))

    def _check_time(self) -> None:
        if self._until is not None and self._until.remaining <= 0:
            raise TransportTimeoutError(
                f"the answer of {self._key!r} was not read to its end: the caller's deadline has passed",
                policy=self._key,
                limit=float("inf"),
                elapsed=0.0,
                by_deadline=True,
            )

    def __del__(self) -> None:
        # Takes no lock: a finaliser may run anywhere. The lease gives its place back from a finaliser of its own.
        if self._held is not None:
            self._held[1].free()
            warnings.warn(
                f"an answer of {self._key!r} was neither read to its end nor closed; its connection is lost"
                " until the client is closed",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


class AnswerBody(_Answer, httpx.SyncByteStream):
    """A response's body, streamed; the lease and the place in the pool go back at its end."""

    def __init__(
        self, stream: httpx.SyncByteStream, holding: Holding, place: Place[Any], until: Deadline | None, key: str
    ) -> None:
        super().__init__(holding, place, until, key)
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
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
        self._end()
        self._stream.close()


class AsyncAnswerBody(_Answer, httpx.AsyncByteStream):
    """The same for async functions."""

    def __init__(
        self, stream: httpx.AsyncByteStream, holding: Holding, place: Place[Any], until: Deadline | None, key: str
    ) -> None:
        super().__init__(holding, place, until, key)
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._check_time()
                yield chunk
        except GeneratorExit:  # the reader stops; aclose() follows
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end()

    async def aclose(self) -> None:
        """Give everything back, before the first await: a cancelled close must not keep it."""
        self._end()
        await self._stream.aclose()
