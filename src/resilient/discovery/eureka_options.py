"""The options of a Eureka client, wherever they were given, checked together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from resilient import checks
from resilient.discovery.eureka_url import OPTIONS, EurekaUrl
from resilient.discovery.steps import Auth, Server
from resilient.errors import ConfigError

if TYPE_CHECKING:
    import ssl

_OWNER = "EurekaDiscovery"


@dataclass(frozen=True, slots=True)
class EurekaOptions:
    """The keywords of `EurekaDiscovery`, which documents them; those in the URL give way to those in the call."""

    fetch_interval: float
    renew_interval: float
    lease: float
    delta: bool
    confirm: bool
    zone: str | None
    zones: tuple[str, ...]
    drain: float
    ca: str | None
    cert: str | None
    key: str | None = field(repr=False)

    @classmethod
    def of(cls, where: EurekaUrl, given: dict[str, Any]) -> EurekaOptions:
        """Take the URL's options and those of the call together.

        Raises:
            ConfigError: when one is wrong, or two do not go together.
        """
        defaults = {key: default for key, (default, _) in OPTIONS.items()}
        options = cls(**defaults | where.options | {key: value for key, value in given.items() if value is not None})
        for key in ("delta", "confirm"):
            if not isinstance(getattr(options, key), bool):
                problem = f"must be True or False, not {getattr(options, key)!r}"
                raise ConfigError(f"{_OWNER}: {key} {problem}", path=key)
        for key in ("zone", "ca", "cert", "key"):
            value = getattr(options, key)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"{_OWNER}: {key} must be text that is not empty, not {value!r}", path=key)
        for key in ("fetch_interval", "renew_interval", "lease"):
            checks.positive_seconds(_OWNER, key, getattr(options, key))
        if checks.number(_OWNER, "drain", options.drain) < 0:
            raise ConfigError(f"{_OWNER}: drain must be 0 or more seconds, not {options.drain!r}", path="drain")
        if options.lease <= options.renew_interval:
            raise ConfigError(
                f"{_OWNER}: lease ({options.lease:g} s) must be longer than renew_interval"
                f" ({options.renew_interval:g} s), best three times as long",
                path="lease",
            )
        if options.drain >= options.lease:
            raise ConfigError(
                f"{_OWNER}: drain ({options.drain:g} s) must be shorter than lease ({options.lease:g} s): nothing is"
                " renewed meanwhile",
                path="drain",
            )
        options._check_zones(len(where.servers))
        return options

    def _check_zones(self, servers: int) -> None:
        if self.zones and len(self.zones) != servers:
            raise ConfigError(
                f"{_OWNER}: zones must name the zone of each server in turn, {servers} in all, not"
                f" {', '.join(self.zones)}",
                path="zones",
            )
        if self.zones and self.zone is None:
            raise ConfigError(f"{_OWNER}: zones says where the servers are, but zone not where we are", path="zone")

    def ordered(
        self, servers: tuple[Server, ...], shuffle: Callable[[list[Server]], object] = random.shuffle
    ) -> tuple[Server, ...]:
        """The servers of our zone as they are given, then the others, in an order of each client's own.

        All clients that lose their zone at once must not meet at one server.
        """
        if not self.zones:
            return servers
        near = [server for server, zone in zip(servers, self.zones, strict=True) if zone == self.zone]
        far = [server for server in servers if server not in near]
        shuffle(far)
        return (*near, *far)

    def tls(self, servers: tuple[Server, ...], given: ssl.SSLContext | None) -> bool | ssl.SSLContext:
        """Whether TLS is spoken, and by which context if not by the machine's own authorities.

        Raises:
            ConfigError: when a file can not be used, or nothing is asked by https.
        """
        secure = any(server.base.startswith("https:") for server in servers)
        files = {key: value for key in ("ca", "cert", "key") if (value := getattr(self, key)) is not None}
        if given is None and not files:
            return secure
        first = next(iter(files), "tls")
        if not secure:
            raise ConfigError(
                f"{_OWNER}: {first} is for https:// registries, and none is asked by it; write"
                " https://host:8761/eureka",
                path=first,
            )
        if given is not None and files:
            raise ConfigError(f"{_OWNER}: give either tls or {', '.join(files)}", path="tls")
        return given or self._context()

    def _context(self) -> ssl.SSLContext:
        import ssl

        if self.key is not None and self.cert is None:
            raise ConfigError(f"{_OWNER}: key is of no use without cert", path="key")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(f"{_OWNER}: ca {self.ca!r} is no file of certificates: {error}", path="ca") from error
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as error:
                both = f"cert {self.cert!r}" + (f" and key {self.key!r}" if self.key else "")
                raise ConfigError(f"{_OWNER}: {both} can not be used: {error}", path="cert") from error
        return context


def with_auth(servers: tuple[Server, ...], auth: Auth | Callable[[], Mapping[str, str]] | None) -> tuple[Server, ...]:
    """The servers, known to them by `auth`.

    Raises:
        ConfigError: when the URL has credentials too, or `auth` is nothing that can be sent.
    """
    if auth is None:
        return servers
    if any(server.auth for server in servers):
        raise ConfigError(f"{_OWNER}: give either auth or a user in the URL", path="auth")
    return tuple(Server(server.base, _sendable(auth)) for server in servers)


def _sendable(auth: Auth | Callable[[], Mapping[str, str]]) -> Auth:
    if isinstance(auth, tuple) and [type(part) for part in auth] == [str, str]:
        return auth
    if not isinstance(auth, tuple):
        if hasattr(auth, "sync_auth_flow"):  # httpx.Auth, without loading httpx for nothing
            return cast("Auth", auth)
        if callable(auth):
            from resilient.discovery.header_auth import HeaderAuth

            return HeaderAuth(auth)
    raise ConfigError(
        f"{_OWNER}: auth must be (user, password), a function that gives headers, or an httpx.Auth, not a"
        f" {type(auth).__name__}",
        path="auth",
    )
