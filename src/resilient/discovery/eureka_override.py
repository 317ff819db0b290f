"""Overriding the status of any instance, as an operator does. Decides only; sends nothing itself."""

from __future__ import annotations

from resilient.discovery.condition import check_status
from resilient.discovery.eureka_lease import path_of
from resilient.discovery.instance import Instance
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Exchange, Send
from resilient.errors import DiscoveryError, RegistryAuthError, RegistryUnavailableError


def override(servers: Servers, instance: Instance, status: str | None) -> Exchange[None]:
    """Ask the servers in turn to put `status` over the instance's own, or to take away what was put there.

    Raises:
        ConfigError: when there is no such status.
        DiscoveryError: when the registry does not list it, refuses us, or does not answer.
    """
    if status is not None:
        check_status(status)
    # Without a value the status would be UNKNOWN until the instance renews.
    method, value = ("DELETE", "UP") if status is None else ("PUT", status)
    answer = Answer()
    for server in servers.order():
        answer = yield Send(server, method, f"{path_of(instance)}/status?value={value}", servers.timeout)
        if answer.good:
            return
        if answer.status == 404:
            raise DiscoveryError(f"{servers.name} does not list {instance.id!r} of {instance.service!r}")
        if answer.refused:
            raise RegistryAuthError(f"{servers.name} refuses to override a status: {answer}")
    raise RegistryUnavailableError(f"{servers.name} does not override the status of {instance.id!r}: {answer}")
