"""Eureka as a registry: full fetches, registrations, failover; one loop for all of it."""

from __future__ import annotations

from collections.abc import Callable

from resilient import checks
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.eureka_fetch import Fetch
from resilient.discovery.eureka_lease import EurekaLease
from resilient.discovery.eureka_url import DEFAULTS, EurekaUrl
from resilient.discovery.instance import Instance
from resilient.discovery.live import LiveRegistry
from resilient.discovery.servers import Servers
from resilient.discovery.wire import http_wires
from resilient.errors import ConfigError

_ATTEMPT = 5.0  # seconds in total for one request to one server


class EurekaDiscovery(LiveRegistry):
    """Eureka: who is there, and being known.

    Services are found by their application name, without regard to case; only instances that are UP are usable. What
    was known last stays known for ever while the registry is away; `age` says how old it is.

    A registry that restarts has forgotten everybody. So an answer that lists nobody, where somebody was known, is
    believed only after `lease` seconds of such answers, asked for every 5 s or sooner; one that lists half as many as
    before, or fewer, only when the next one, within 5 s, does too. Until then what is known stays, and `age` grows.

    Args:
        url: `eureka://user:pw@a:8761,b:8761/eureka` or `http(s)://host:port/eureka/`; user and password
            percent-encoded, for every server or for those up to the next that has its own; the options below may stand
            in its query. One server is kept to until it fails.
        fetch_interval: seconds between fetches, ± 10 %; default 30.
        renew_interval: seconds between renewals, ± 10 %, but at most a third of the lease; default 30.
        lease: seconds after which the registry may drop an instance that was not renewed, and an empty list of a
            registry that named instances before is believed; default 90.
        clock: where time comes from.

    Raises:
        ConfigError: when the URL or an option is wrong.

    Safe for threads and event loops. A fork keeps what is known, and registrations stay with the parent.

    Example:
        >>> from resilient.discovery.eureka import EurekaDiscovery
        >>> EurekaDiscovery("eureka://user:secret@localhost?fetch_interval=1")
        <EurekaDiscovery eureka://localhost:8761/eureka 0 instances of 0 services>
    """

    def __init__(
        self,
        url: str = "eureka://localhost:8761",
        *,
        fetch_interval: float | None = None,
        renew_interval: float | None = None,
        lease: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        where = EurekaUrl.parse(url)
        given = {"fetch_interval": fetch_interval, "renew_interval": renew_interval, "lease": lease}
        options = DEFAULTS | where.options | {key: value for key, value in given.items() if value is not None}
        interval, self._renew_interval, self._lease = (
            checks.positive_seconds("EurekaDiscovery", key, options[key]) for key in DEFAULTS
        )
        if self._lease <= self._renew_interval:
            raise ConfigError(
                f"EurekaDiscovery: lease ({self._lease:g} s) must be longer than renew_interval"
                f" ({self._renew_interval:g} s), best three times as long",
                path="lease",
            )
        # A hung server must not hold the loop so long that renewals at the others come too late.
        servers = Servers(where.servers, where.name, clock, min(_ATTEMPT, max(0.5, self._lease / 3)))
        tls = any(server.base.startswith("https:") for server in where.servers)
        super().__init__(servers, clock, http_wires(tls=tls))
        self._fetch = Fetch(self._servers, self._roster, interval, self._lease, clock)
        self._sources = (self._fetch,)

    @property
    def skipped(self) -> int:
        """How many instances in the last answer could not be read."""
        return self._fetch.skipped

    def _keep(self, instance: Instance, health: Callable[[], bool] | None) -> EurekaLease:
        return EurekaLease(
            instance,
            self._servers,
            renew_interval=self._renew_interval,
            lease=self._lease,
            health=health,
            listed=self._fetch.soon,
            clock=self._clock,
        )
