"""Where a Eureka registry is: `eureka://user:pw@a:8761,b:8761/eureka?fetch_interval=30` and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from resilient.discovery.steps import Server
from resilient.discovery.url_parts import Read, flag, given_options, seconds, text, words
from resilient.errors import ConfigError

DEFAULT_PORT = 8761  # the convention that Spring Cloud set
DEFAULT_PATH = "/eureka"
OPTIONS: Final[Mapping[str, tuple[Any, Read]]] = {  # the intervals are Eureka's own
    "fetch_interval": (30.0, seconds(0.01, 86_400)),
    "renew_interval": (30.0, seconds(0.01, 86_400)),
    "lease": (90.0, seconds(0.01, 86_400)),
    "delta": (True, flag),
    "confirm": (True, flag),
    "zone": (None, text),
    "zones": ((), words),
    "drain": (0.0, seconds(0, 3600)),
    "ca": (None, text),
    "cert": (None, text),
    "key": (None, text),
}
_OWNER = "eureka:// URL"
_ENCODE = "a ',', '@', '/' or '?' in user or password must be percent-encoded (%2C, %40, %2F, %3F)"


@dataclass(frozen=True, slots=True)
class EurekaUrl:
    """What a URL says: the servers in the order they are asked, a name without credentials, and the options."""

    servers: tuple[Server, ...]
    name: str
    options: dict[str, Any]  # those that are given

    @classmethod
    def parse(cls, url: str) -> EurekaUrl:
        """Read `eureka://`, `http://` or `https://`; several servers by comma, whole URLs by comma as in Spring.

        A server without user and password has those of the one before it in the same URL.

        Raises:
            ConfigError: when a host, port or option is wrong; nothing before an '@' is shown.
        """
        address, _, query = url.strip().partition("?")
        if "@" in query:
            raise ConfigError(f"{_OWNER}: {_ENCODE}", path="url")
        servers: list[Server] = []
        shown: list[str] = []
        for part in _split(address):
            scheme, rest = part.split("://", 1)
            found, name = _servers(scheme.lower(), rest)
            servers += found
            shown.append(name)
        return cls(tuple(dict.fromkeys(servers)), ",".join(shown), given_options("eureka", query, OPTIONS))


def _split(address: str) -> list[str]:
    """`a://b,c,a://d` as [`a://b,c`, `a://d`]."""
    parts: list[str] = []
    for piece in address.split(","):
        if "://" in piece or not parts:
            parts.append(piece.strip())
        else:
            parts[-1] += f",{piece.strip()}"
    for part in parts:
        if part.partition("://")[0].lower() not in {"eureka", "http", "https"} or "://" not in part:
            raise ConfigError(
                f"{_OWNER}: {part.rpartition('@')[2]!r} must begin with eureka://, http:// or https://", path="url"
            )
    return parts


def _servers(scheme: str, rest: str) -> tuple[list[Server], str]:
    authority, _, path = rest.partition("/")
    auth: tuple[str, str] | None = None
    found: list[tuple[str, tuple[str, str] | None]] = []
    for piece in authority.split(","):
        credentials, at, host = piece.strip().rpartition("@")
        # One that comes after a server without any is, but for a strange cluster, the rest of a password with a comma.
        if "@" in credentials or "@" in path or (at and found and auth is None):
            raise ConfigError(f"{_OWNER}: {_ENCODE}", path="url")
        if at:
            user, _, password = credentials.partition(":")
            auth = unquote(user), unquote(password)
        found.append((host, auth))
    path = "/".join(part for part in path.split("/") if part)  # a double slash is 404 on real servers
    path = f"/{path}" if path else DEFAULT_PATH
    web = "http" if scheme == "eureka" else scheme
    addresses = [(_address(host, scheme), auth) for host, auth in found]
    shown = ",".join(host for host, _ in addresses)
    return [Server(f"{web}://{host}{path}", auth) for host, auth in addresses], f"{scheme}://{shown}{path}"


def _address(host: str, scheme: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name = port = None
    odd = any(map(str.isspace, host))
    if not name or odd or port == 0 or (port is None and not host.lower().strip("[]").endswith(name.strip("[]"))):
        raise ConfigError(f"{_OWNER}: {host!r} is no host or host:port (port 1 to 65535)", path="url")
    if ":" in name:
        name = f"[{name}]"
    if port is None:
        port = DEFAULT_PORT if scheme == "eureka" else None
    return name if port is None else f"{name}:{port}"
