"""DNS as a registry: `dns://` for addresses with a known port, `srv://` for SRV records."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.dns_wire import AsyncDnsWire, DnsWire
from resilient.discovery.following import FollowingDiscovery
from resilient.discovery.resolv_conf import ResolvConf
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Server
from resilient.discovery.url_parts import UrlParts, flag, host_port, one_of, read_url, seconds, text, wrong
from resilient.errors import ConfigError

if TYPE_CHECKING:
    from resilient.discovery.dns_look import DnsLook

_COMMON: Final[dict[str, Any]] = {
    "service": (None, text),
    "nameserver": (None, text),
    "timeout": (2.0, seconds(0.05, 30)),
    "family": ("any", one_of("4", "6", "any")),
    "secure": (False, flag),
}
DNS_OPTIONS: Final = _COMMON
SRV_OPTIONS: Final = _COMMON | {"priorities": ("lowest", one_of("lowest", "all"))}
_PLACE: Final = "{service}"
_LABELS: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


class DnsDiscovery(FollowingDiscovery):
    """A name's addresses as instances of a service.

    Read again when their time to live ends, but after 1 to 30 seconds. A name that does not exist, or has no address,
    is a service without instances (after a second look, when it had some); a nameserver that fails or is silent
    changes nothing that is known. The addresses of the first family that has any are taken, so a host with both is one
    instance.

    Args:
        url: `dns://producer.internal:8080`, or `dns://tasks.{service}:8080` for every service that is looked up, with
            the options `nameserver` (addresses, by comma; default: those of /etc/resolv.conf), `timeout` (seconds for
            each question, 0.05 … 30, default 2), `family` (4, 6 or any), `secure` and `service`; `srv://` has
            `priorities` too.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong, or dnspython is not installed.

    Safe for threads and event loops.

    Example:
        >>> from resilient.discovery.dns import DnsDiscovery
        >>> DnsDiscovery("dns://tasks.{service}:8080?nameserver=127.0.0.11")
        <DnsDiscovery dns://tasks.{service}:8080 0 instances of 0 services>
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        where = read_url(url, SRV_OPTIONS if url.lower().startswith("srv:") else DNS_OPTIONS)
        _check(where)
        self._where = where
        self._resolver = ResolvConf.read()
        given = where.options["nameserver"]
        addresses = [host_port(where.scheme, each, 53) for each in given.split(",")] if given else [
            f"[{each}]:53" if ":" in each else f"{each}:53" for each in self._resolver.nameservers
        ]  # fmt: skip
        servers = Servers(
            tuple(Server(f"udp://{each}") for each in addresses), where.name, clock, where.options["timeout"]
        )
        self._names = {_service(where, host): host for host in where.hosts if _PLACE not in host}
        self._template = next((host for host in where.hosts if _PLACE in host), None)
        _look()  # whether dnspython is there
        super().__init__(servers, clock, (DnsWire, AsyncDnsWire), tuple(self._names))

    def _source(self, service: str) -> DnsLook | None:
        host = self._names.get(service)
        if host is None and self._template is not None and _LABELS.fullmatch(service):
            host = self._template.replace(_PLACE, service)
        if host is None:
            return None
        module = _look()
        name, _, port = host.partition(":")
        families = {"4": ("A",), "6": ("AAAA",), "any": ("A", "AAAA")}[self._where.options["family"]]
        question = module.Question(
            service,
            self._resolver.names(name),
            int(port) if port else None,
            tuple(module.RdataType[family] for family in families),
            self._where.options.get("priorities") == "all",
            self._where.options["secure"],
        )
        found: DnsLook = module.DnsLook(question, self._servers, self._roster, self._clock)
        return found


def _look() -> Any:
    try:
        from resilient.discovery import dns_look
    except ImportError as error:
        raise ConfigError(
            "dns:// and srv:// need dnspython: pip install 'resilient-patterns[dns]'", path="url"
        ) from error
    return dns_look


def _check(where: UrlParts) -> None:
    scheme = where.scheme
    example = "srv://_{service}._tcp.example.org" if scheme == "srv" else "dns://tasks.{service}:8080"
    if not where.hosts or where.path or where.user is not None:
        wrong(scheme, f"write a name, or one with {_PLACE} in it: {example}")
    for host in where.hosts:
        name, _, port = host.partition(":")
        if not _LABELS.fullmatch(name.replace(_PLACE, "x").removesuffix(".")):
            wrong(scheme, f"{name!r} is no name that DNS could know; write {example}")
        if scheme == "dns" and not port:
            wrong(scheme, f"{host!r} names no port, and an address record has none: write dns://{host}:8080")
        if scheme == "srv" and port:
            wrong(scheme, f"{host!r} names a port, but SRV records bring their own: write srv://{name}")
    templates = sum(_PLACE in host for host in where.hosts)
    if templates > 1:
        wrong(scheme, f"only one name may have {_PLACE} in it")
    if where.options["service"] and (templates or len(where.hosts) > 1):
        wrong(scheme, "service names the service of a single name", option="service")


def _service(where: UrlParts, host: str) -> str:
    """`_web._tcp.example.org` is web; every other name is a service of that name."""
    name = host.partition(":")[0].removesuffix(".")
    given: str = where.options["service"] or (name.partition(".")[0][1:] if name.startswith("_") else name)
    return given.lower()
