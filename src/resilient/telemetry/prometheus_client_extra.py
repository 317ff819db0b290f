"""The optional package prometheus_client, and the applications that serve what it collects."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

from resilient.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[str, str]]


def require_client(owner: str) -> None:
    """Say which extra is missing.

    Raises:
        ConfigError: when prometheus_client is not installed.
    """
    try:
        import prometheus_client  # noqa: F401  # whether it is there
    except ImportError:
        raise ConfigError(
            f"{owner} needs the package prometheus_client: pip install 'resilient-patterns[prometheus]'",
            path="prometheus",
        ) from None


def registry_or_default(owner: str, registry: CollectorRegistry | None) -> CollectorRegistry:
    """`registry`, by default the one of the process.

    Raises:
        ConfigError: when it is no registry, or prometheus_client is not installed.
    """
    require_client(owner)
    from prometheus_client import REGISTRY, CollectorRegistry

    if registry is None:
        return REGISTRY
    if not isinstance(registry, CollectorRegistry):
        raise ConfigError(f"{owner}: registry must be a CollectorRegistry or None, not {registry!r}", path="registry")
    return registry


class AsgiMetrics:
    """Serves a registry. An object, no function: a router takes it as an application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scrape; collecting runs in a thread, so that the loop goes on."""
        import asyncio

        if scope["type"] != "http":
            raise ValueError(f"metrics are read by HTTP, not by {scope['type']}")
        asked = {"accept": "", "accept-encoding": ""}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            if name in asked:
                asked[name] = f"{asked[name]},{value.decode('latin-1')}".strip(",")
        status, headers, body = await asyncio.to_thread(
            answer,
            self._registry,
            scope["method"],
            asked["accept"],
            asked["accept-encoding"],
            scope.get("query_string", b"").decode("latin-1"),
        )
        raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw_headers})
        await send({"type": "http.response.body", "body": body})


class WsgiMetrics:
    """The same for WSGI."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object], /) -> Iterable[bytes]:
        """Answer one scrape."""
        status, headers, body = answer(
            self._registry,
            environ["REQUEST_METHOD"],
            environ.get("HTTP_ACCEPT", ""),
            environ.get("HTTP_ACCEPT_ENCODING", ""),
            environ.get("QUERY_STRING", ""),
        )
        start_response(status, headers)
        return [body]


def answer(
    registry: CollectorRegistry, method: str, accept: str, accept_encoding: str, query: str
) -> tuple[str, Headers, bytes]:
    """(status, headers, body) of a scrape, in the format that the scraper prefers."""
    from prometheus_client.exposition import choose_encoder

    if method not in {"GET", "HEAD"}:
        return "405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")], b""
    encode, content_type = choose_encoder(accept)
    only = parse_qs(query).get("name[]")
    body = encode(registry if only is None else registry.restricted_registry(only))
    headers = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
    if any(part.partition(";")[0].strip().lower() == "gzip" for part in accept_encoding.split(",")):
        body = gzip.compress(body, 1)
        headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(body))))
    return "200 OK", headers, b"" if method == "HEAD" else body
