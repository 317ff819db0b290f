"""How the services of the examples are served: uvicorn on a free port of the loopback interface."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"


def listen(port: int = 0) -> socket.socket:
    """A listening socket; port 0 takes a free port, so its real address is known before anybody is told of it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio looks at the protocol:
    try:  # only where it reads TCP does it send small answers at once; else each waits 40 ms for the peer's word
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(256)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """`host:port`."""
    host, port = listener.getsockname()
    return f"{host}:{port}"


def serve(app: ASGIApp, listener: socket.socket, *, name: str, **options: str | type) -> None:
    """Serve `app` until SIGTERM or Ctrl-C; says where on standard output."""
    print(f"{name} listening on http://{address_of(listener)}", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)  # type: ignore[arg-type]  # uvicorn's own words
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print(f"{name} stopped", flush=True)


def log_to_stderr() -> None:
    """One line for each event, and nobody's API key: httpx logs whole addresses at INFO."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
