"""The registry as a running server: in a thread of its own, for tests and for the command."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from resilient.checks import positive_seconds, whole
from resilient.errors import ConfigError
from resilient.registry_server.store import RegistryStore

if TYPE_CHECKING:
    import uvicorn

_START_TIMEOUT = 10.0  # seconds; it takes 20 ms
_KEEP_ALIVE = 75  # seconds: longer than the usual 30 s between heartbeats, so that clients keep their connection
_LOOK = 0.2  # seconds: a signal that arrives just before the main thread waits is handled only when the wait ends
_GRACE = 2  # seconds that answers under way have at a stop


class RegistryServer:
    """A registry that speaks Eureka's protocol, in a daemon thread of this process; in memory, empty at each start.

    Leases end exactly after their duration, changes are visible at once: made for development, tests and small fleets.

    Args:
        host: the address to listen on, default `127.0.0.1`: only this machine. There is no authentication.
        port: default 0, any free port; it is kept by a stop and a new start.
        eviction_interval: seconds between two looks for leases that have ended, default 2.0.
        max_instances: registrations beyond are refused with 507; default 100,000.
        head_timeout: seconds after which a connection that sent no whole request is closed, default 10.0.

    Raises:
        ConfigError: when a value is out of range.
        ImportError: at the start, when the extra `server` is not installed.
        OSError: at the start, when the port is in use or the host is not ours.
        RuntimeError: at the start, when it runs already or does not come up.

    Safe for threads, except that one thread at a time starts and stops it.

    Example:
        >>> from resilient.registry_server import RegistryServer
        >>> with RegistryServer() as registry:
        ...     len(registry.store)
        0
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        eviction_interval: float = 2.0,
        max_instances: int = 100_000,
        head_timeout: float = 10.0,
    ) -> None:
        self.host = _address(host)
        self.port = whole("RegistryServer", "port", port, least=0, most=65_535)
        self._interval = positive_seconds("RegistryServer", "eviction_interval", eviction_interval)
        self._max = whole("RegistryServer", "max_instances", max_instances)
        self._head_timeout = positive_seconds("RegistryServer", "head_timeout", head_timeout)
        self.store = RegistryStore(max_instances=self._max)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def http(self) -> str:
        """`http://host:port`, where the status page is."""
        return f"http://{self._authority}"

    @property
    def url(self) -> str:
        """`eureka://host:port`, for `Discovery.from_url` and `Registry.from_url`."""
        return f"eureka://{self._authority}"

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Listen; returns once it answers.

        Raises:
            RuntimeError: when it runs already.
        """
        if self.running:
            raise RuntimeError(f"{self!r} runs already")
        try:
            import uvicorn

            from resilient.registry_server.app import RegistryApp
            from resilient.registry_server.patience import with_patience
        except ImportError as error:
            raise ImportError(
                f"the registry server needs {error.name}: pip install 'resilient-patterns[server]'", name=error.name
            ) from error
        self.store = RegistryStore(max_instances=self._max)
        app = RegistryApp(self.store, eviction_interval=self._interval)
        answers = threading.Event()

        async def announce() -> None:  # uvicorn awaits it, first when it accepts connections
            answers.set()

        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,  # the process belongs to somebody else: its logging is left as it is
                access_log=False,
                server_header=False,
                http=with_patience(self._head_timeout),
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE,
                callback_notify=announce,
            )
        )
        self._thread = threading.Thread(
            target=_run, args=(self._server, listener, answers), name=f"registry-{self.port}", daemon=True
        )
        self._thread.start()
        answers.wait(_START_TIMEOUT)
        if not self._server.started:
            self.stop()
            raise RuntimeError(f"the registry did not start within {_START_TIMEOUT:g} s on {self.http}")
        return self

    def stop(self) -> None:
        """Stop answering and wait until the port is free; doing it twice does nothing."""
        self.ask_to_stop()
        self.join()

    def ask_to_stop(self) -> None:
        """Begin to stop, without waiting; may be called by a signal handler."""
        if self._server is not None:
            self._server.should_exit = True

    def join(self) -> None:
        """Wait until it has stopped, whoever asked for it."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_LOOK)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<RegistryServer {self.http} {'running' if self.running else 'stopped'}, {len(self.store)} instances>"

    @property
    def _authority(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # named, not bound
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def _address(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"RegistryServer: host must be an address or a name, not {value!r}", path="host")
    return value


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _run(server: uvicorn.Server, listener: socket.socket, answers: threading.Event) -> None:
    try:
        server.run(sockets=[listener])
    finally:
        answers.set()
        listener.close()
