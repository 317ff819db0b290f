"""Whether a program answers: its port, and its health by HTTP."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Sequence

_CONNECT = 0.5  # seconds; on this machine it takes none
_HEALTH = 2.0  # seconds in which a health check must be answered


def accepting(hosts: Sequence[str], port: int) -> str | None:
    """The first of `hosts` on which somebody accepts connections, or None."""
    for host in hosts:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_CONNECT):
            return host
    return None


def healthy(host: str, port: int, path: str, *, secure: bool) -> bool:
    """Whether GET `path` is answered with 2xx or 3xx in time. The certificate is our own program's: not checked."""
    if secure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=_HEALTH, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_HEALTH)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
