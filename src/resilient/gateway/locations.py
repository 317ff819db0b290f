"""Redirects of an upstream that does not know its prefix."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from resilient.gateway.asgi import Header
from resilient.gateway.upstreams import Upstream


def moved(
    headers: Iterable[Header], upstream: Upstream, prefix: bytes, instance: tuple[str, int] | None
) -> list[Header]:
    """The headers with the prefix put back into Location.

    A path gets the prefix; so does a URL of the upstream itself, which becomes a path. Every other one stays.

    Args:
        headers: of the answer.
        upstream: who answered.
        prefix: what was taken away from the request's path.
        instance: (host, port) of the one that answered.
    """
    return [
        (name, _location(value, upstream, prefix, instance)) if name == b"location" else (name, value)
        for name, value in headers
    ]


def _location(value: bytes, upstream: Upstream, prefix: bytes, instance: tuple[str, int] | None) -> bytes:
    text = value.decode("latin-1")
    try:
        found = urlsplit(text)
        place = (found.hostname or "", found.port)
    except ValueError:
        return value
    if found.netloc:
        own = upstream.host.decode("ascii").lower()
        if found.netloc.lower() != own and (instance is None or place != instance):
            return value
    elif not found.path.startswith("/") or found.scheme:
        return value
    path = (found.path or "/").removeprefix(upstream.base_path.decode("ascii")) or "/"
    rest = f"?{found.query}" if found.query else ""
    rest += f"#{found.fragment}" if found.fragment else ""
    return prefix + f"{path}{rest}".encode("latin-1")
