"""Connections that send no whole request do not stay: else a few hundred of them keep heartbeats out."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def with_patience(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol, which limits idle connections but not half-sent heads, with a limit on those too.

    A client that is well sends a head in one piece.
    """

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # h11's or httptools', whichever is there
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._seen: Any = None
            self._look_again = self.loop.call_later(seconds, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._look_again.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            cycle: Any = self.cycle
            if cycle is self._seen and (cycle is None or cycle.response_complete):  # no request came since
                self.transport.close()
                return
            self._seen = cycle
            self._look_again = self.loop.call_later(seconds, self._look)

    return Patient
