"""Real servers in threads, raw sockets, and upstreams that note what reached them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Self

import uvicorn

from resilient.gateway import Gateway
from tests.waiting import wait_until

App = Callable[[Any, Any, Any], Awaitable[None]]


class Served:
    """An ASGI application behind a real uvicorn, in a thread, on a free port."""

    def __init__(self, app: App) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the gateway sees who really connects
            server_header=False,
            date_header=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive(), what="the server's start")
        assert self._server.started
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def ask_to_stop(self) -> None:
        """Begin to stop."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop it, and wait until it has."""
        self.ask_to_stop()
        self._thread.join(10.0)
        self._socket.close()
        assert not self._thread.is_alive()


class Upstream:
    """Answers with what reached it, unless told otherwise; notes every request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.answers: dict[str, App] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        path = scope["raw_path"].decode()
        if path in self.answers:
            return await self.answers[path](scope, receive, send)
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if not message.get("more_body"):
                break
        seen = {
            "method": scope["method"],
            "path": path,
            "query": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        self.requests.append(seen)
        await answer(send, 200, json.dumps(seen).encode(), [(b"content-type", b"application/json")])
        return None

    def header(self, name: str, index: int = -1) -> list[str]:
        """The values of a header of a request that reached it."""
        return [value for one, value in self.requests[index]["headers"] if one == name]


async def lifespan(receive: Any, send: Any) -> None:
    """Nothing to start, nothing to stop."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole answer."""
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or []), *length]})
    await send({"type": "http.response.body", "body": body})


def answering(status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> App:
    """An application that always answers the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status, body, headers)

    return app


@contextlib.contextmanager
def gateway_to(app: App, route: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[Served, Served]]:
    """(the gateway, the upstream), both served; one route for everything."""
    with Served(app) as upstream:
        table = {"path": "/", "service": "up", **(route or {})}
        made = Gateway({"up": table}, discovery=f"static://up={upstream.address}", **options)
        with Served(made) as front:
            try:
                yield front, upstream
            finally:
                upstream.ask_to_stop()  # both at once


class Wire:
    """A raw connection: what is written is what is sent."""

    def __init__(self, served: Served) -> None:
        self._socket = socket.create_connection(("127.0.0.1", served.port), timeout=10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> Self:
        """Write."""
        self._socket.sendall(data)
        return self

    def read(self, until: bytes) -> bytes:
        """Read until `until` was seen, or the connection ends."""
        found = b""
        while until not in found:
            chunk = self._socket.recv(65_536)
            if not chunk:
                break
            found += chunk
        return found

    def read_all(self) -> bytes:
        """Read until the connection ends."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self._socket.recv(65_536):
                found += chunk
        return found

    def reset(self) -> None:
        """Leave, at once."""
        self._socket.close()


class RawServer:
    """Answers each connection with fixed bytes, once the head of a request has come."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]  # noqa: UP031  # in one line
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (chunk := connection.recv(65_536)):
                    head += chunk
                if head:
                    self.heads.append(head)
                    connection.sendall(self._reply)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10.0)


async def hangs(scope: Any, receive: Any, send: Any) -> None:
    """An application that never answers."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await asyncio.Event().wait()
    return None
