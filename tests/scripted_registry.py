"""A Eureka server for tests, small and obedient: it can be told to fail in every way that a real one does."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    at: float
    method: str
    path: str
    query: str
    body: Any
    authorization: str | None


@dataclass
class ScriptedRegistry:
    """The list it serves, the requests it saw, and how it fails.

    `script[method]` is a status or one of `hang`, `drip`, `garbage`, `cut`; without an entry it does its work.
    """

    url: str = ""
    requests: list[Seen] = field(default_factory=list)
    listed: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    script: dict[str, int | str] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def seen(self, method: str) -> list[Seen]:
        return [request for request in list(self.requests) if request.method == method]

    def put(self, service: str, host: str, port: int, **more: Any) -> None:
        name = f"{host}:{service}:{port}"
        raw = {"instanceId": name, "hostName": host, "app": service.upper(), "ipAddr": host, "status": "UP"}
        self.listed[service.upper(), name] = raw | {"port": {"$": port, "@enabled": "true"}} | more

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.split("/") if part][1:]
        assert "//" not in path, f"double slash: {path}"
        if method == "POST":
            instance = body["instance"]
            self.listed[parts[1], instance["instanceId"]] = instance
            return 204, None
        if method == "GET" and parts[1:] in ([], ["delta"]):  # as a delta: everybody; who left shows by the hash alone
            apps: dict[str, list[Any]] = {}
            for (app, _), instance in list(self.listed.items()):
                apps.setdefault(app, []).append(instance)
            found = [{"name": app, "instance": instances} for app, instances in apps.items()]
            counts = Counter(instance.get("status", "UP") for instance in list(self.listed.values()))
            hashcode = "".join(f"{status}_{count}_" for status, count in sorted(counts.items()))
            return 200, {"applications": {"versions__delta": "1", "apps__hashcode": hashcode, "application": found}}
        if len(parts) < 3:
            return 404, None
        key = parts[1], parts[2]
        if parts[3:] == ["status"]:
            instance = self.listed.get(key)
            if instance is None:
                return 404, None
            instance["status"] = query["value"]
            instance["overriddenStatus"] = "UNKNOWN" if method == "DELETE" else query["value"]
            return 200, None
        if method == "DELETE":
            return (200 if self.listed.pop(key, None) else 404), None
        return (200 if key in self.listed else 404), None


def _handler(registry: ScriptedRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            authorization = self.headers.get("Authorization")
            registry.requests.append(Seen(time.monotonic(), self.command, parts.path, parts.query, body, authorization))
            order = registry.script.get(self.command)
            if order == "hang":
                registry.stopping.wait(30)
                self.close_connection = True
            elif order == "drip":
                self.drip()
            elif order == "garbage":
                self.reply(200, b"<html>not what you asked for")
            elif order == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{")
                self.close_connection = True
            elif isinstance(order, int):
                self.reply(order, b'{"error": "scripted"}')
            else:
                status, found = registry.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body)
                self.reply(status, b"" if found is None else json.dumps(found).encode())

        def drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not registry.stopping.wait(0.02):
                self.wfile.write(b"X-Drip: 1\r\n")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Quiet."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what the tests are about."""


@contextmanager
def scripted_registry(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedRegistry]:
    """One such server on a free port of the loopback interface, or on `port`; with TLS by `tls`."""
    registry = ScriptedRegistry()
    server = _Server(("127.0.0.1", port), _handler(registry))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.url = f"{'eureka' if tls is None else 'https'}://127.0.0.1:{server.server_port}/eureka"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def free_port() -> int:
    """A port of the loopback interface on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
