"""The parts that registries' URLs share: hosts, user and password, a path, options that are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from resilient import checks
from resilient.errors import ConfigError

Read: TypeAlias = Callable[[str], Any]
"""The value of an option's text; ValueError says what it must be."""


@dataclass(frozen=True, slots=True)
class UrlParts:
    """What a URL says, checked.

    Attributes:
        hosts: `host` or `host:port` each, IPv6 in brackets.
        user: decoded; None when there is none.
        password: decoded; None when there is none.
        path: decoded, without the slash at its begin.
        options: the values of all options, the defaults among them.
    """

    scheme: str
    hosts: tuple[str, ...]
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    path: str
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The URL without credentials and options."""
        return f"{self.scheme}://{','.join(self.hosts)}" + (f"/{self.path}" if self.path else "")


def read_url(url: str, known: Mapping[str, tuple[Any, Read]], *, port: int | None = None) -> UrlParts:
    """Take `scheme://user:password@host:port,host:port/path?option=value` apart.

    Args:
        url: what somebody wrote.
        known: each option's default and how its text is read.
        port: of a host that names none; None: it stays without.

    Raises:
        ConfigError: when a host, port or option is wrong; nothing that may be a password is shown.
    """
    address, _, query = url.strip().partition("?")
    scheme, _, rest = address.partition("://")
    authority, _, path = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    if "@" in query or "@" in path or "@" in credentials:
        wrong(scheme, "a '@', '/', ',' or '?' in user or password must be percent-encoded (%40, %2F, %2C, %3F)")
    user, colon, password = credentials.partition(":")
    return UrlParts(
        scheme.lower(),
        tuple(host_port(scheme, host.strip(), port) for host in hosts.split(",") if host.strip()),
        unquote(user) if at else None,
        unquote(password) if colon else None,
        unquote(path),
        {key: default for key, (default, _) in known.items()} | given_options(scheme, query, known),
    )


def wrong(scheme: str, problem: str, *, option: str | None = None) -> NoReturn:
    """Refuse a URL in words."""
    raise ConfigError(f"{scheme}:// URL: {problem}", path=f"url.{option}" if option else "url")


def host_port(scheme: str, text: str, default: int | None) -> str:
    """`text` as `host` or `host:port`, the port of the default when it names none."""
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name = port = None
    stray = any(map(str.isspace, text)) or (
        name and text.lower().strip("[]").removesuffix(f":{port}").strip("[]") != name
    )
    if not name or port == 0 or stray:
        wrong(scheme, f"{text!r} is no host or host:port (port 1 to 65535)")
    if ":" in name:
        name = f"[{name}]"
    port = port or default
    return f"{name}:{port}" if port else name


def given_options(scheme: str, query: str, known: Mapping[str, tuple[Any, Read]]) -> dict[str, Any]:
    """The options that stand in `query`; ConfigError for those that are not known or not readable."""
    options: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            listed = ", ".join(known)
            wrong(scheme, f"unknown option {key!r}; known are {listed}{checks.did_you_mean(key, known)}", option=key)
        try:
            options[key] = known[key][1](text)
        except ValueError as error:
            wrong(scheme, f"{key} {error}, not {text!r}", option=key)
    return options


def seconds(least: float, most: float = math.inf) -> Read:
    """Seconds from `least` to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            allowed = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ValueError(f"must be {allowed} seconds")
        return value

    return read


def port_number(text: str) -> int:
    """1 … 65,535."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65_535):
        raise ValueError("must be a port from 1 to 65535")
    return int(text)


def flag(text: str) -> bool:
    """`true` or `false`."""
    if text.lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text.lower() == "true"


def text(value: str) -> str:
    """Any text that is not empty."""
    if not value.strip():
        raise ValueError("must be text that is not empty")
    return value


def one_of(*words: str) -> Read:
    """One of `words`."""

    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return value

    return read


def words(value: str) -> tuple[str, ...]:
    """Words by commas."""
    found = tuple(word.strip() for word in value.split(","))
    if not all(found):
        raise ValueError("must be words with commas between them")
    return found
