"""An API server for EndpointSlices, small and obedient: lists in pages, watches with bookmarks, forgets its history.

It follows the documents of Kubernetes (discovery.k8s.io/v1; API concepts: watches, bookmarks, 410, chunks).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def endpoint(address: str, **more: Any) -> dict[str, Any]:
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {"addresses": [address], "conditions": conditions, "zone": "z1", "nodeName": "n1"} | more


def slice_of(name: str, service: str, *endpoints: dict[str, Any], port: Any = 8001, **more: Any) -> dict[str, Any]:
    ports = [{"name": "http", "protocol": "TCP", "port": port}] if port is not None else None
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": list(endpoints),
    } | more


@dataclass
class ScriptedKubernetes:
    """The slices that it serves, the requests that it saw, and how it fails.

    Attributes:
        forgotten: watches from versions below it are gone.
        page: slices in a page, at most.
        token: what requests must bear; None: nothing.
        status: of every answer, instead of what was asked for; None: as it should.
        gone_in_stream: whether a version that is gone is told by an event or by a status.
    """

    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    revision: int = 100
    forgotten: int = 0
    page: int = 500
    token: str | None = None
    status: int | None = None
    gone_in_stream: bool = True
    hung: bool = False
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    port: int = 0
    _server: Any = None
    lock: threading.Condition = field(default_factory=threading.Condition)

    def put(self, slice_: dict[str, Any]) -> None:
        """Add or change a slice."""
        with self.lock:
            name = slice_["metadata"]["name"]
            self._record("MODIFIED" if name in self.slices else "ADDED", slice_)
            self.slices[name] = self.history[-1][2]

    def delete(self, name: str) -> None:
        with self.lock:
            self._record("DELETED", self.slices.pop(name))

    def _record(self, kind: str, slice_: dict[str, Any]) -> None:
        self.revision += 1
        metadata = {**slice_["metadata"], "resourceVersion": str(self.revision)}
        self.history.append((self.revision, kind, {**slice_, "metadata": metadata}))
        self.lock.notify_all()

    def forget(self) -> None:
        """Compact the history, and end every watch."""
        with self.lock:
            self.revision += 1
            self.forgotten = self.revision
            self.lock.notify_all()

    def asked(self, kind: str) -> list[dict[str, str]]:
        """The queries of the lists or of the watches that it saw."""
        return [query for _, query in list(self.seen) if ("watch" in query) == (kind == "watch")]

    def start(self) -> None:
        server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """Close the listener and every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()

    def wait(self, after: int, seconds: float) -> list[tuple[int, str, dict[str, Any]]]:
        """What happened after a version; waits until something has."""
        with self.lock:
            self.lock.wait_for(lambda: self.revision > after and not self.hung, seconds)
            return [one for one in self.history if one[0] > after]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self.sockets: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        self.sockets.append(sock)
        return sock, address

    def cut(self) -> None:
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


def _handler(api: ScriptedKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            api.seen.append((self.headers.get("Authorization", ""), query))
            while api.hung:
                time.sleep(0.02)
            if api.token is not None and self.headers.get("Authorization") != f"Bearer {api.token}":
                self.fail(401, "Unauthorized")
            elif api.status is not None:
                self.fail(
                    api.status, 'endpointslices.discovery.k8s.io is forbidden: cannot list resource "endpointslices"'
                )
            elif parts.path != PATH or not query.get("labelSelector", "").startswith("kubernetes.io/service-name"):
                self.fail(404, f"nothing at {self.path}")
            elif query.get("watch") == "true":
                self.watch(query)
            else:
                self.list(query)

        def fail(self, status: int, message: str) -> None:
            self.reply(status, {"kind": "Status", "status": "Failure", "code": status, "message": message})

        def reply(self, status: int, found: Any) -> None:
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def list(self, query: dict[str, str]) -> None:
            begin = int(query.get("continue", "0"))
            page = min(api.page, int(query.get("limit", "500")))
            with api.lock:  # the version is that of what is listed
                names = sorted(api.slices)
                metadata = {"resourceVersion": str(api.revision)}
                items = [api.slices[name] for name in names[begin : begin + page]]
            if begin + page < len(names):
                metadata["continue"] = str(begin + page)
            self.reply(200, {"kind": "EndpointSliceList", "metadata": metadata, "items": items})

        def watch(self, query: dict[str, str]) -> None:
            at, end = int(query["resourceVersion"]), time.monotonic() + int(query["timeoutSeconds"])
            if at < api.forgotten and not api.gone_in_stream:
                self.fail(410, "too old resource version")
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while (left := end - time.monotonic()) > 0:
                if at < api.forgotten:
                    self.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
                    break
                happened = api.wait(at, min(left, 0.3))
                if at < api.forgotten:
                    continue
                for revision, kind, found in happened:
                    self.event(kind, found)
                    at = revision
                if query.get("allowWatchBookmarks") == "true":
                    self.event("BOOKMARK", {"metadata": {"resourceVersion": str(at)}})
            self.wfile.write(b"0\r\n\r\n")

        def event(self, kind: str, found: Any) -> None:
            data = json.dumps({"type": kind, "object": found}).encode() + b"\n"
            half = len(data) // 2
            for part in (data[:half], data[half:]):  # lines know nothing of chunks
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    return Handler
