"""Consul as a registry: blocking queries for whoever looks up, a check to renew for whoever is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.consul_lease import ConsulLease
from resilient.discovery.consul_watch import Agent, ConsulWatch
from resilient.discovery.following import FollowingDiscovery
from resilient.discovery.instance import Instance
from resilient.discovery.live import LiveRegistry
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Server
from resilient.discovery.url_parts import flag, one_of, read_url, seconds, text, wrong
from resilient.discovery.wire import http_wires

OPTIONS: Final[dict[str, Any]] = {
    "dc": (None, text),
    "tag": (None, text),
    "namespace": (None, text),
    "consistency": ("stale", one_of("stale", "default", "consistent")),
    "wait": (30.0, seconds(0.2, 600)),
    "ttl": (15.0, seconds(1, 3600)),
    "reap": (60.0, seconds(60)),
    "drain": (0.0, seconds(0, 600)),
    "tls": (False, flag),
}
_ATTEMPT = 5.0  # seconds for a request that is answered at once


class ConsulDiscovery(FollowingDiscovery, LiveRegistry):
    """Consul: who is there, and being known.

    Only instances whose checks all pass are usable. Each service that was looked up has a request at the agent that is
    answered when something changes; all of them wait in one thread, or in tasks. A list that lost half of its instances
    or more, as after a restart of the agent, is believed at the second look.

    A registration has a check that is renewed at a third of its time to live, and is registered again when the agent
    lost it. OUT_OF_SERVICE is Consul's maintenance, DOWN fails the check.

    Args:
        url: `consul://token@host:8500?dc=eu`, with the options `dc`, `tag` (asked for, and given), `namespace`,
            `consistency` (stale, default or consistent; default stale), `wait` (seconds that the agent holds a request,
            0.2 … 600, default 30), `ttl` (seconds for which a renewal is good, 1 … 3,600, default 15), `reap` (seconds
            after which the agent drops what was not renewed, at least and by default 60), `drain` (seconds of
            maintenance before an entry is taken out, 0 … 600, default 0) and `tls`.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong.

    Safe for threads and event loops. A fork keeps what is known, and registrations stay with the parent.

    Example:
        >>> from resilient.discovery.consul import ConsulDiscovery
        >>> ConsulDiscovery("consul://secret-token@localhost?dc=eu")
        <ConsulDiscovery consul://localhost:8500 0 instances of 0 services>
    """

    most = 150  # Consul takes 200 connections from one address
    watching = True

    def __init__(self, url: str = "consul://localhost:8500", *, clock: Clock = SYSTEM_CLOCK) -> None:
        where = read_url(url, OPTIONS, port=8500)
        if len(where.hosts) != 1:
            wrong("consul", "write one agent, best that of this machine: consul://localhost:8500")
        if where.password is not None:
            wrong("consul", "write consul://token@host:8500; ':' in a token is %3A")
        options = where.options
        if options["drain"] >= options["ttl"]:
            wrong("consul", "drain must be shorter than ttl: nothing is renewed meanwhile", option="drain")
        query = {"dc": options["dc"], "ns": options["namespace"]}
        reading = {} if options["consistency"] == "default" else {options["consistency"]: ""}
        self._agent = Agent(
            {"X-Consul-Token": where.user} if where.user else {},
            {key: value for key, value in query.items() if value},
            reading | ({"tag": options["tag"]} if options["tag"] else {}),
            options["wait"],
        )
        self._options = options
        path = f"/{where.path.strip('/')}" if where.path.strip("/") else ""
        server = Server(f"{'https' if options['tls'] else 'http'}://{where.hosts[0]}{path}")
        servers = Servers((server,), where.name, clock, _ATTEMPT)
        super().__init__(servers, clock, http_wires(tls=options["tls"]))

    def _source(self, service: str) -> ConsulWatch:
        return ConsulWatch(service, self._agent, self._servers, self._roster, self._clock)

    def _keep(self, instance: Instance, health: Callable[[], bool] | None) -> ConsulLease:
        return ConsulLease(
            instance,
            self._servers,
            self._agent,
            tag=self._options["tag"],
            ttl=self._options["ttl"],
            reap=self._options["reap"],
            drain=self._options["drain"],
            health=health,
            listed=lambda: None,  # whoever follows the service hears of it
            clock=self._clock,
        )
