"""Being known: the faces of a registry that can be written, and of one entry in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resilient.discovery.base import Discovery, Runs
from resilient.discovery.instance import Instance


class Registration(Runs):
    """One entry in a registry: renewed until closed.

    Attributes:
        instance: what is registered. Its host and id stay empty until the registry was first reached, when the address
            that reaches it was to be found out.

    Safe for threads and event loops. `close` takes 5 s at most, and the registry's `drain`; it never raises.

    Example:
        >>> from resilient.discovery import Registry
        >>> from resilient.registry_server import RegistryServer
        >>> with RegistryServer(port=0) as server, Registry.from_url(server.url) as registry:
        ...     with registry.register("producer", port=8080, host="127.0.0.1") as registration:
        ...         found = registry.wait("producer")
        >>> found[0].port, registration.instance.host
        (8080, '127.0.0.1')
    """

    instance: Instance

    @property
    def registered(self) -> bool:
        """Whether the registry has confirmed it and, as far as is known, lists it now."""
        raise NotImplementedError

    def set_status(self, status: str, /) -> None:
        """UP, OUT_OF_SERVICE (drain) or DOWN; sent by the refresh loop at once, not waited for.

        Raises:
            ConfigError: when it is none of these.
        """
        raise NotImplementedError


class Registry(Discovery):
    """A discovery that can be written.

    Example:
        >>> from resilient.discovery import Registry
        >>> registry = Registry.from_url("eureka://localhost:8761")  # nothing is sent before something is asked for
        >>> registration = registry.register("producer", port=8080)  # `with registration:` makes it known
    """

    def register(
        self,
        service: str,
        /,
        *,
        port: int,
        host: str | None = None,
        id: str | None = None,  # noqa: A002  # the registries' own word
        secure: bool = False,
        zone: str | None = None,
        weight: float = 1.0,
        metadata: Mapping[str, str] | None = None,
        health: Callable[[], bool] | None = None,
        sigterm: bool = False,
    ) -> Registration:
        """Be found while the `with` or `async with` block of the returned object runs.

        Entering the block does not wait: the registry is told in the background, again and again until it answers.
        An interpreter that exits inside the block tells the registry too, within 2 s.

        Args:
            service: the logical name: letters, digits, `.`, `_`, `-`.
            port: where it listens, 1 … 65,535.
            host: an address, or a name that every caller can resolve; default: our own address on the connection
                that reaches the registry.
            id: default `host:service:port`; unique, and the same after a restart.
            secure: True when the port speaks TLS.
            zone: where it runs.
            weight: its share of the calls, more than 0, default 1.0.
            metadata: text by text, for whoever looks it up.
            health: asked before each renewal, in the refresh loop, so it must be quick. False, or an exception, makes
                the status DOWN until it is True again.
            sigterm: True installs a handler of SIGTERM that takes the entry out and then does what would have been
                done without it. Main thread only.

        Raises:
            ConfigError: when an argument is wrong.

        Example:
            >>> from resilient.discovery import Registry
            >>> registry = Registry.from_url("eureka://localhost:8761")
            >>> with registry.register("producer", port=8080):
            ...     pass  # serve
        """
        raise NotImplementedError
