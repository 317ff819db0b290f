"""Connections that only take up room do not stay: else a few hundred of them keep heartbeats out.

Uvicorn limits how long a connection may be idle. A hostile or broken client can still send a head byte by byte, take
an answer byte by byte, or open connections without end; these three are limited here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD = 65_536  # bytes of a request's line and headers; metadata is changed by query, so lines may be long


def with_limits(*, head_timeout: float, answer_timeout: float, max_connections: int) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol on h11, whichever parsers are installed, with limits of its own.

    Args:
        head_timeout: seconds from a connection, or the first byte of a request, to the end of its head.
        answer_timeout: seconds in which an answer must be taken once the client has let it wait.
        max_connections: beyond, the one that has been idle longest is closed, or the new one when none is idle.
    """
    idle: dict[Limited, None] = {}  # the longest idle first

    class Limited(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # whatever the client has not taken is a pause
            self._answering: asyncio.TimerHandle | None = None
            self._head: asyncio.TimerHandle | None = self.loop.call_later(head_timeout, transport.abort)
            if len(self.connections) > max_connections:
                longest = next(iter(idle), self)
                idle.pop(longest, None)  # it goes later in this round of the loop: the next newcomer takes another
                longest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            idle.pop(self, None)
            self._cancel_head()
            self._cancel_answering()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            idle.pop(self, None)
            before: Any = self.cycle
            if self._head is None and (before is None or before.response_complete):
                self._head = self.loop.call_later(head_timeout, self.transport.abort)
            super().data_received(data)
            if self.cycle is not before:
                self._cancel_head()

        def on_response_complete(self) -> None:
            answered = self.cycle
            self._cancel_answering()
            if self.flow.write_paused:  # its end was not taken yet, and closing would wait for that without a limit
                self._limit_answering()
            super().on_response_complete()
            if self.cycle is answered and self._head is None and not self.transport.is_closing():
                idle[self] = None

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._answering is None:
                self._limit_answering()

        def resume_writing(self) -> None:
            super().resume_writing()
            answered: Any = self.cycle
            if answered is None or answered.response_complete:
                self._cancel_answering()

        def _limit_answering(self) -> None:
            self._answering = self.loop.call_later(answer_timeout, self.transport.abort)

        def _cancel_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _cancel_answering(self) -> None:
            if self._answering is not None:
                self._answering.cancel()
                self._answering = None

    return Limited
