"""How the services of the examples are served: uvicorn on a free port of the loopback interface."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"


def listen(port: int = 0, *, host: str = HOST) -> socket.socket:
    """A listening socket; port 0 takes a free port, so its real address is known before anybody is told of it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio looks at the protocol:
    try:  # only where it reads TCP does it send small answers at once; else each waits 40 ms for the peer's word
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_or_exit(parser: argparse.ArgumentParser, port: int, *, host: str = HOST) -> socket.socket:
    """The same for a command line: where that is not possible, it says so in a sentence and ends with status 2."""
    try:
        return listen(port, host=host)
    except OSError as error:
        parser.error(f"cannot listen on {host} port {port}: {error.strerror or error}")
    except OverflowError:
        parser.error(f"--port must be a whole number from 0 to 65535, not {port}")


def address_of(listener: socket.socket) -> str:
    """`host:port`."""
    host, port = listener.getsockname()
    return f"{host}:{port}"


def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    name: str,
    on_stop: Callable[[], None] | None = None,
    drain: float = 0.0,
    **options: str | bool | type,
) -> None:
    """Serve `app` until SIGTERM or Ctrl-C; says where on standard output.

    Args:
        app: what to serve.
        listener: where.
        name: what to call it.
        on_stop: is called by the event loop at the first of those signals, such as to leave a registry.
        drain: seconds for which it serves on after that; a second signal ends it at once.
        options: uvicorn's own.
    """
    print(f"{name} listening on http://{address_of(listener)}", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)  # type: ignore[arg-type]  # uvicorn's own words
    server = uvicorn.Server(config) if on_stop is None else _Draining(config, on_stop, drain)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print(f"{name} stopped", flush=True)


class _Draining(uvicorn.Server):
    """Stops in two steps."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None], drain: float) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain, which ends by itself."""
        if self._loop is None or self._captured_signals:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self._begin)  # a handler may have interrupted whoever holds a lock

    def _begin(self) -> None:
        self._on_stop()
        asyncio.get_running_loop().call_later(self._drain, self._end)

    def _end(self) -> None:
        self.should_exit = True


def log_to_stderr() -> None:
    """One line for each event, and nobody's API key: httpx logs whole addresses at INFO."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
