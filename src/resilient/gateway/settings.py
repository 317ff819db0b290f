"""What holds for the whole gateway, whatever the route."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from resilient import checks
from resilient.errors import ConfigError
from resilient.gateway.forwarded import network

OWNER: Final = "Gateway"

_VIA: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class GatewaySettings:
    """The keys of the table `[gateway]`, checked when made.

    Attributes:
        via: how the gateway calls itself in the header Via; default "gateway".
        trusted_proxies: whose X-Forwarded-* and Forwarded are believed and continued, default nobody's.
        max_target: bytes of path and query, default 8,192 (nginx, Apache), beyond it 414.
        max_headers: how many headers a request may have, default 100 (Apache), beyond it 431.
        max_header_bytes: of all of them together, default 32,768 (nginx), beyond it 431.
        max_connections: to one instance, for one route; default 100.
        drain: seconds that requests under way have when the gateway stops, default 10.

    Raises:
        ConfigError: when one is wrong.

    Example:
        >>> from resilient.gateway import GatewaySettings
        >>> GatewaySettings(trusted_proxies=["10.0.0.0/8"]).max_headers
        100
    """

    via: str = "gateway"
    trusted_proxies: Iterable[str] = ()
    max_target: int = 8_192
    max_headers: int = 100
    max_header_bytes: int = 32_768
    max_connections: int = 100
    drain: float = 10.0

    def __post_init__(self) -> None:
        via: object = self.via  # what a file may say
        if not isinstance(via, str) or _VIA.fullmatch(via) is None:
            raise ConfigError(f"{OWNER}: via must be one word, not {via!r}", path="via")
        if not isinstance(self.trusted_proxies, (list, tuple)):
            raise ConfigError(
                f"{OWNER}: trusted_proxies must be a list like ['10.0.0.0/8'], not {self.trusted_proxies!r}",
                path="trusted_proxies",
            )
        for one in self.trusted_proxies:
            network(one)
        for path in ("max_target", "max_headers", "max_header_bytes", "max_connections"):
            checks.whole(OWNER, path, getattr(self, path))
        checks.positive_seconds(OWNER, "drain", self.drain)
