"""The registry as a running server: in a thread of its own, for tests and for the command."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from resilient.checks import positive_seconds, whole
from resilient.errors import ConfigError
from resilient.registry_server.credentials import checked_auth
from resilient.registry_server.store import MAX_BYTES, MAX_INSTANCES, RegistryStore

if TYPE_CHECKING:
    import uvicorn

_START_TIMEOUT = 10.0  # seconds; it takes 20 ms
_KEEP_ALIVE = 75  # seconds: longer than the usual 30 s between heartbeats, so that clients keep their connection
_LOOK = 0.2  # seconds: a signal that arrives just before the main thread waits is handled only when the wait ends
_OTHER_FILES = 64  # that the process has open beside its connections
_GRACE = 2  # seconds that answers under way have at a stop


class RegistryServer:
    """A registry that speaks Eureka's protocol, in a daemon thread of this process; in memory, empty at each start.

    Leases end exactly after their duration, changes are visible at once: made for development, tests and small fleets.

    Args:
        host: the address to listen on, default `127.0.0.1`: only this machine.
        port: default 0, any free port; it is kept by a stop and a new start.
        eviction_interval: seconds between two looks for leases that have ended, default 2.0.
        self_preservation: keep every instance while more than 15 % of them have not renewed in time; default False.
        auth: user and password that every request needs, the page's too; default None, everybody may ask. They travel
            readable: put TLS in front of it outside of networks that are your own.
        max_instances: registrations beyond are refused with 507; default 20,000.
        max_bytes: how large the JSON list of all instances may become, default 32 MiB, beyond it 507 as well.
        max_connections: default 4,096, or what the process may open; beyond, the longest idle one is closed.
        head_timeout: seconds in which a request's head must have arrived, default 10.0.
        answer_timeout: seconds in which a client must have taken an answer that did not fit the socket, default 30.0.

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
        self_preservation: bool = False,
        auth: tuple[str, str] | None = None,
        max_instances: int = MAX_INSTANCES,
        max_bytes: int = MAX_BYTES,
        max_connections: int = 4096,
        head_timeout: float = 10.0,
        answer_timeout: float = 30.0,
    ) -> None:
        self.host = _address(host)
        self.port = whole("RegistryServer", "port", port, least=0, most=65_535)
        self._interval = positive_seconds("RegistryServer", "eviction_interval", eviction_interval)
        self._auth = None if auth is None else checked_auth(auth)
        self._max_instances = whole("RegistryServer", "max_instances", max_instances)
        self._max_bytes = whole("RegistryServer", "max_bytes", max_bytes)
        self._self_preservation = self_preservation
        self._connections = whole("RegistryServer", "max_connections", max_connections)
        self._head_timeout = positive_seconds("RegistryServer", "head_timeout", head_timeout)
        self._answer_timeout = positive_seconds("RegistryServer", "answer_timeout", answer_timeout)
        self.store = self._new_store()
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
            from resilient.registry_server.connections import MAX_HEAD, with_limits
        except ImportError as error:
            raise ImportError(
                f"the registry server needs {error.name}: pip install 'resilient-patterns[server]'", name=error.name
            ) from error
        self.store = self._new_store()
        app = RegistryApp(self.store, eviction_interval=self._interval, auth=self._auth)
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
                http=with_limits(
                    head_timeout=self._head_timeout,
                    answer_timeout=self._answer_timeout,
                    max_connections=min(self._connections, max(open_files() - _OTHER_FILES, 16)),
                ),
                h11_max_incomplete_event_size=MAX_HEAD,
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

    def _new_store(self) -> RegistryStore:
        return RegistryStore(
            max_instances=self._max_instances, max_bytes=self._max_bytes, self_preservation=self._self_preservation
        )

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


def open_files() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return 1 << 20
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit


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
