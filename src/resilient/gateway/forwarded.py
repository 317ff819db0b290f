"""Who asked, for whom and how: X-Forwarded-* and Forwarded. What a caller says of itself is not believed."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from resilient.errors import ConfigError
from resilient.gateway.asgi import Header, Scope

Network: TypeAlias = IPv4Network | IPv6Network

_REMEMBERED: Final = 10_000  # callers' addresses; a crowd of more is looked up again
_PREFIX: Final = b"x-forwarded-"


class TrustedProxies:
    """Whose word about the caller is passed on.

    Args:
        given: addresses and networks, as in `10.0.0.0/8`.

    Raises:
        ConfigError: when one is neither.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._networks = tuple(network(one) for one in given)
        self._known: dict[str, bool] = {}

    def trusts(self, peer: str) -> bool:
        """Whether the other end of the connection is one of them."""
        if not self._networks:
            return False
        known = self._known.get(peer)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[peer] = self._look(peer)
        return known

    def _look(self, peer: str) -> bool:
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:  # a Unix socket, or a test's client
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks if network.version == address.version)


def network(given: object) -> Network:
    """Read an address or a network.

    Raises:
        ConfigError: when it is neither.
    """
    try:
        return ip_network(given if isinstance(given, str) else "")
    except ValueError:
        raise ConfigError(
            f"Gateway: trusted_proxies must be addresses or networks like '10.0.0.0/8', not {given!r}",
            path="trusted_proxies",
        ) from None


def forwarding_headers(
    scope: Scope, told: Iterable[Header], *, trusted: bool, host: bytes, prefix: bytes
) -> list[Header]:
    """What is said to the upstream about the caller.

    Args:
        scope: ASGI's.
        told: X-Forwarded-*, X-Real-IP and Forwarded of the request.
        trusted: whether they are believed: then they are continued, else replaced.
        host: what the caller asked for, b"" when it said nothing.
        prefix: of the path, if it is taken away, else b"".

    Source: RFC 7239; X-Forwarded-* as nginx and Spring Cloud Gateway send them.
    """
    client = scope.get("client")
    peer = client[0].encode("latin-1", "replace") if client else b"unknown"
    scheme = scope.get("scheme", "http").encode()
    before = dict[bytes, bytes]()
    if trusted:
        for name, value in told:
            before[name] = before[name] + b", " + value if name in before else value
    chain = before.pop(b"x-forwarded-for", b"")
    said = before.pop(b"forwarded", b"")
    above = before.pop(b"x-forwarded-prefix", b"").rstrip(b"/")
    found = [
        (b"x-forwarded-for", chain + b", " + peer if chain else peer),
        (b"x-forwarded-proto", before.pop(b"x-forwarded-proto", scheme)),
    ]
    asked = before.pop(b"x-forwarded-host", host)
    if asked:
        found.append((b"x-forwarded-host", asked))
    if above or prefix:
        found.append((b"x-forwarded-prefix", above + prefix))
    node = b'for="[%b]"' % peer if b":" in peer else b"for=" + peer
    element = node + (b';host="%b"' % host if host else b"") + b";proto=" + scheme
    found.append((b"forwarded", said + b", " + element if said else element))
    found.extend(before.items())
    return found


def speaks_of_caller(name: bytes) -> bool:
    """Whether a header says who asked; its name with dashes, in lower case."""
    return name.startswith(_PREFIX) or name in {b"forwarded", b"x-real-ip"}
