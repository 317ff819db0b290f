"""A TCP proxy that can be slow, silent, narrow or gone, for tests over real sockets."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from resilient.checks import number, whole
from resilient.errors import ConfigError

if TYPE_CHECKING:
    from resilient.testing.proxy_loop import Engine

_OWNER = "TcpProxy"


class Direction:
    """One direction of a `TcpProxy`; each attribute may be changed at any time, from any thread.

    Attributes:
        latency: seconds by which bytes arrive later, default 0.0. Later, not slower: what was sent at once arrives at
            once.
        jitter: seconds of latency more, at most, by chance for each piece; default 0.0. Order stays.
        bandwidth: bytes per second at most, default None: no limit.
        black_hole: True: nothing arrives, and nobody is told. What was held back arrives when it is False again.
        reset_after: the connection is reset after so many bytes of it, default None: never. The last of them may be
            lost on the way.

    Raises:
        ConfigError: from an assignment out of range.

    Example:
        >>> from resilient.testing import TcpProxy
        >>> proxy = TcpProxy(("127.0.0.1", 5432))
        >>> proxy.to_server.black_hole = True
        >>> proxy.to_client.bandwidth = 100_000
    """

    latency: float
    jitter: float
    bandwidth: float | None
    black_hole: bool
    reset_after: int | None

    def __init__(self, rng: Callable[[], float]) -> None:
        vars(self).update(latency=0.0, jitter=0.0, bandwidth=None, black_hole=False, reset_after=None, _rng=rng)

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"latency", "jitter"}:
            if number(_OWNER, name, value) < 0:
                raise ConfigError(f"{_OWNER}: {name} must be 0 or more seconds, not {value!r}", path=name)
        elif name == "bandwidth":
            if value is not None and number(_OWNER, name, value) <= 0:
                raise ConfigError(f"{_OWNER}: bandwidth must be more than 0 bytes a second, not {value!r}", path=name)
        elif name == "reset_after":
            if value is not None:
                whole(_OWNER, name, value, least=0)
        elif name != "black_hole":
            raise AttributeError(f"a direction has no {name!r}")
        elif not isinstance(value, bool):
            raise ConfigError(f"{_OWNER}: black_hole must be True or False, not {value!r}", path=name)
        vars(self)[name] = value

    def delay(self) -> float:
        """Seconds that the next piece is under way."""
        jitter = self.jitter
        rng: Callable[[], float] = vars(self)["_rng"]
        return self.latency + (jitter * rng() if jitter else 0.0)

    def __repr__(self) -> str:
        return f"Direction({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if name[0] != '_')})"


class TcpProxy:
    """A TCP proxy on a free port of 127.0.0.1 between what you test and a real server; harm is switched at run time.

    Its event loop has a thread of its own, so that it serves sync and async tests alike. Real sockets, real time: for
    the last layer of tests, after those with a `VirtualClock`.

    Args:
        target: (host, port) of the server; connected to for each connection that comes.
        rng: gives a float in [0, 1) for jitter; default `random.random`.

    Attributes:
        to_server: the direction of requests.
        to_client: the direction of answers.

    Safe for threads. On leaving the block every connection is reset, and everything is closed.

    Example:
        >>> import socket
        >>> from resilient.testing import TcpProxy
        >>> with socket.create_server(("127.0.0.1", 0)) as server, TcpProxy(server.getsockname()) as proxy:
        ...     with socket.create_connection(proxy.address) as client, server.accept()[0] as accepted:
        ...         accepted.sendall(b"hello")
        ...         client.recv(5)
        ...     proxy.refuse = True
        ...     try:
        ...         socket.create_connection(proxy.address)
        ...     except ConnectionRefusedError:
        ...         print("refused")
        b'hello'
        refused
    """

    __slots__ = ("_engine", "_refuse", "_target", "to_client", "to_server")  # a switch that is misspelt is an error

    def __init__(self, target: tuple[str, int], *, rng: Callable[[], float] | None = None) -> None:
        given: object = target
        if not isinstance(given, tuple) or len(given) < 2 or not isinstance(given[0], str):
            raise ConfigError(f"{_OWNER}: target must be (host, port), not {target!r}", path="target")
        self._target = (target[0], whole(_OWNER, "port", target[1], most=65535))
        draw = rng or random.random
        self.to_server, self.to_client = Direction(draw), Direction(draw)
        self._refuse = False
        self._engine: Engine | None = None

    @property
    def port(self) -> int:
        """Where it listens.

        Raises:
            RuntimeError: outside its block.
        """
        return self._running().port

    @property
    def address(self) -> tuple[str, int]:
        """("127.0.0.1", port), for `socket.create_connection`.

        Raises:
            RuntimeError: outside its block.
        """
        return "127.0.0.1", self.port

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return len(self._running().links)

    @property
    def accepted(self) -> int:
        """How many connections it has taken since it started."""
        return self._running().accepted

    @property
    def latency(self) -> float:
        """Seconds by which answers come later: `to_client.latency`."""
        return self.to_client.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self.to_client.latency = seconds

    @property
    def jitter(self) -> float:
        """Seconds of latency more, at most, by chance: `to_client.jitter`."""
        return self.to_client.jitter

    @jitter.setter
    def jitter(self, seconds: float) -> None:
        self.to_client.jitter = seconds

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second of answers at most, None: no limit: `to_client.bandwidth`."""
        return self.to_client.bandwidth

    @bandwidth.setter
    def bandwidth(self, bytes_per_second: float | None) -> None:
        self.to_client.bandwidth = bytes_per_second

    @property
    def black_hole(self) -> bool:
        """Whether nothing arrives, in both directions. A connection can be made all the same."""
        return self.to_server.black_hole and self.to_client.black_hole

    @black_hole.setter
    def black_hole(self, on: bool) -> None:
        self.to_server.black_hole = self.to_client.black_hole = on

    @property
    def refuse(self) -> bool:
        """Whether new connections are refused, as by a host on which nothing listens; open ones go on."""
        return self._refuse

    @refuse.setter
    def refuse(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise ConfigError(f"{_OWNER}: refuse must be True or False, not {on!r}", path="refuse")
        self._refuse = on
        if self._engine is not None:
            self._engine.do(self._engine.listen if not on else self._engine.refuse)

    def reset(self) -> None:
        """Reset every connection that is open (RST, as by a process that is killed); new ones are taken."""
        engine = self._running()
        engine.do(engine.reset)

    def __enter__(self) -> Self:
        if self._engine is not None:
            raise RuntimeError("this TcpProxy runs already; make one per block")
        from resilient.testing.proxy_loop import Engine

        self._engine = Engine(self._target, self.to_server, self.to_client)
        try:
            self._engine.start(refuse=self._refuse)
        except BaseException:
            self._engine = None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this TcpProxy does not run: use it in a `with` block")
        return self._engine

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self.port}" if self._engine is not None else "not running"
        return f"<TcpProxy {where} to {self._target[0]}:{self._target[1]}>"
