"""etcd as a registry: keys below a prefix, each bound to the lease of whoever put it there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.etcd_calls import EtcdCalls
from resilient.discovery.etcd_lease import EtcdLease
from resilient.discovery.etcd_watch import EtcdWatch
from resilient.discovery.instance import Instance
from resilient.discovery.live import LiveRegistry
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Server
from resilient.discovery.url_parts import flag, read_url, seconds, wrong
from resilient.discovery.wire import AsyncWire, HttpWire

OPTIONS: Final[dict[str, Any]] = {
    "ttl": (15.0, seconds(2, 3600)),
    "watch": (60.0, seconds(1, 3600)),
    "drain": (0.0, seconds(0, 600)),
    "tls": (False, flag),
}
_ATTEMPT = 5.0  # seconds for a request that is answered at once
_PREFIX = "services"


class EtcdDiscovery(LiveRegistry):
    """etcd: who is there, and being known.

    A key `/services/producer/ID` holds an instance as JSON, or `host:port`. The keys are read once and then watched,
    through the JSON gateway that etcd has since 3.4. A registration's key is bound to a lease, so that it goes when its
    process does; a status that is not UP, and a health check that fails, take the key away.

    Args:
        url: `etcd://user:password@a:2379,b:2379/services`; options: `ttl` (seconds for which a renewal is good, 2 …
            3,600, default 15), `watch` (seconds of silence after which the watch is begun anew, 1 … 3,600, default 60),
            `drain` (seconds between taking the key away and the end, 0 … 600, default 0), `tls`.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong.

    Safe for threads and event loops. A fork keeps what is known, and registrations stay with the parent.

    Example:
        >>> from resilient.discovery.etcd import EtcdDiscovery
        >>> EtcdDiscovery("etcd://root:secret@localhost/live")
        <EtcdDiscovery etcd://localhost:2379/live 0 instances of 0 services>
    """

    watching = True

    def __init__(self, url: str = "etcd://localhost:2379", *, clock: Clock = SYSTEM_CLOCK) -> None:
        where = read_url(url, OPTIONS, port=2379)
        if not where.hosts:
            wrong("etcd", "write the members' addresses: etcd://a:2379,b:2379/services")
        if (where.user is None) != (where.password is None):
            wrong("etcd", "write user and password: etcd://user:password@host:2379")
        options = where.options
        if options["drain"] >= options["ttl"]:
            wrong("etcd", "drain must be shorter than ttl: nothing is renewed meanwhile", option="drain")
        self._options = options
        self._prefix = f"/{where.path.strip('/') or _PREFIX}/"
        scheme = "https" if options["tls"] else "http"
        servers = Servers(tuple(Server(f"{scheme}://{host}") for host in where.hosts), where.name, clock, _ATTEMPT)
        super().__init__(servers, clock, (partial(HttpWire, tls=options["tls"]), partial(_wire, tls=options["tls"])))
        user = (where.user, where.password) if where.user is not None and where.password is not None else None
        self._calls = EtcdCalls(servers, user)
        self._sources = (EtcdWatch(self._prefix, self._calls, self._roster, options["watch"], clock),)

    def _keep(self, instance: Instance, health: Callable[[], bool] | None) -> EtcdLease:
        return EtcdLease(
            instance,
            self._prefix,
            self._calls,
            ttl=self._options["ttl"],
            drain=self._options["drain"],
            health=health,
            clock=self._clock,
        )


def _wire(*, tls: bool) -> AsyncWire:
    from resilient.discovery.etcd_wire import EtcdWire

    return EtcdWire(tls=tls)
