"""Eureka as a registry: who is there, registrations, failover; one loop for all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.eureka_fetch import Fetch
from resilient.discovery.eureka_lease import EurekaLease
from resilient.discovery.eureka_options import EurekaOptions, with_auth
from resilient.discovery.eureka_override import override
from resilient.discovery.eureka_url import EurekaUrl
from resilient.discovery.instance import Instance
from resilient.discovery.live import LiveRegistry
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Auth
from resilient.discovery.wire import http_wires

if TYPE_CHECKING:
    import ssl

_ATTEMPT = 5.0  # seconds in total for one request to one server


class EurekaDiscovery(LiveRegistry):
    """Eureka: who is there, and being known.

    Services are found by their application name, without regard to case; only instances that are UP are usable. What
    was known last stays known for ever while the registry is away; `age` says how old it is.

    A registry that restarts has forgotten everybody, and learns of them one by one. So an answer that lists nobody, or
    after the registry was away fewer than are known, is believed only after `lease` seconds of such answers, asked for
    every 5 s or sooner; one that lists half as many as before, or fewer, only when the next one, within 5 s, does too.
    Until then what is known stays, and `age` grows.

    Args:
        url: `eureka://user:pw@a:8761,b:8761/eureka` or `http(s)://host:port/eureka/`; user and password
            percent-encoded, for every server or for those up to the next that has its own; the options below, but for
            `auth`, `tls` and `clock`, may stand in its query. One server is kept to until it fails; it is then left
            alone for 30 s, unless two thirds of them have failed.
        fetch_interval: seconds between fetches, ± 10 %; default 30.
        renew_interval: seconds between renewals, ± 10 %, but at most a third of the lease; default 30.
        lease: seconds after which the registry may drop an instance that was not renewed, and the shorter list of a
            registry that may have restarted is believed; default 90.
        delta: whether to fetch what changed, checked by the registry's hash, instead of everything; default True.
        confirm: False believes an answer that lists half as many as before, or nobody, at once; default True.
        zone: where this process runs: told of its registrations that name none, and used with `zones`.
        zones: the zone of each server in turn. Those of our `zone` are asked first, as they are given, then the others,
            in an order of each client's own.
        drain: seconds between telling the registry that an instance is DOWN and taking it out, so that callers learn
            it while it still serves; default 0: it is taken out at once. Must be shorter than the lease.
        ca: a file of the certificate authorities that an https registry is checked by; default: the machine's own.
        cert: a file of the certificate by which the registry knows us (mutual TLS).
        key: the file of its key, when that is not in the same file.
        tls: a context, instead of these three.
        auth: `(user, password)`; or a function that gives the headers of a request, called before each one in the
            refresh loop, so it must be quick: `lambda: {"Authorization": f"Bearer {token()}"}`; or an httpx.Auth.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong.

    Safe for threads and event loops. A fork keeps what is known, and registrations stay with the parent; one that is
    entered again in the child is another one, with an id that ends in the child's process id.

    Example:
        >>> from resilient.discovery.eureka import EurekaDiscovery
        >>> EurekaDiscovery("eureka://user:secret@localhost?fetch_interval=1", zone="eu-1")
        <EurekaDiscovery eureka://localhost:8761/eureka 0 instances of 0 services>
    """

    def __init__(
        self,
        url: str = "eureka://localhost:8761",
        *,
        fetch_interval: float | None = None,
        renew_interval: float | None = None,
        lease: float | None = None,
        delta: bool | None = None,
        confirm: bool | None = None,
        zone: str | None = None,
        zones: Sequence[str] | None = None,
        drain: float | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        auth: Auth | Callable[[], Mapping[str, str]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        where = EurekaUrl.parse(url)
        given = {
            "fetch_interval": fetch_interval, "renew_interval": renew_interval, "lease": lease, "delta": delta,
            "confirm": confirm, "zone": zone, "zones": None if zones is None else tuple(zones), "drain": drain,
            "ca": ca, "cert": cert, "key": key,
        }  # fmt: skip
        options = self._options = EurekaOptions.of(where, given)
        # A hung server must not hold the loop so long that renewals at the others come too late.
        attempt = min(_ATTEMPT, max(0.5, options.lease / 3))
        servers = Servers(options.ordered(with_auth(where.servers, auth)), where.name, clock, attempt)
        super().__init__(servers, clock, http_wires(tls=options.tls(where.servers, tls)))
        self._fetch = Fetch(
            self._servers,
            self._roster,
            options.fetch_interval,
            options.lease,
            clock,
            delta=options.delta,
            confirm=options.confirm,
        )
        self._sources = (self._fetch,)

    @property
    def skipped(self) -> int:
        """How many instances of those listed can not be read; the log names them."""
        return self._fetch.skipped

    def override_status(self, instance: Instance, status: str | None, /) -> None:
        """Put a status over the one that an instance gives itself: taken out by an operator, it stays out.

        It outlives the instance's registrations until it is taken away again, the instance leaves, or the registry
        restarts. To drain an instance of one's own, `Registration.set_status` is enough.

        Args:
            instance: any that the registry lists, of any status.
            status: OUT_OF_SERVICE, DOWN or UP; None takes the override away.

        Raises:
            ConfigError: when there is no such status.
            DiscoveryError: when the registry does not list it, refuses us (RegistryAuthError), or does not answer
                (RegistryUnavailableError).
        """
        self._refresh.do(override(self._servers, instance, status))
        self.refresh_soon()

    async def override_status_async(self, instance: Instance, status: str | None, /) -> None:
        """The same for an event loop."""
        await self._refresh.ado(override(self._servers, instance, status))
        self.refresh_soon()

    def _keep(self, instance: Instance, health: Callable[[], bool] | None) -> EurekaLease:
        options = self._options
        lease = EurekaLease(
            instance if instance.zone else dataclasses.replace(instance, zone=options.zone),
            self._servers,
            renew_interval=options.renew_interval,
            lease=options.lease,
            health=health,
            listed=self._fetch.soon,
            clock=self._clock,
        )
        lease.drain = options.drain
        return lease
