"""What goes wrong with requests, and with which; needs no client."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Self

from resilient.checks import number, ratio, whole
from resilient.errors import ConfigError


class Kind(enum.Enum):
    """What a fault does."""

    CONNECT_ERROR = "connect_error"
    TIMEOUT = "timeout"
    STATUS = "status"
    LATENCY = "latency"
    BROKEN_BODY = "broken_body"


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """What goes wrong, and with which requests; for `FaultyTransport` and `AsyncFaultyTransport`.

    Make it with a class method. All of them take the keyword arguments that say with which requests:

    Args:
        host: of the URL, or a pattern such as `*.example.org`; default every host.
        path: of the URL, or a pattern such as `/orders/*`; default every path.
        method: of the request, default every method.
        count: how many requests it hits at most; default None: every one that matches.
        rate: the part of the matching requests that it hits, more than 0, at most 1 (the default).

    Raises:
        ConfigError: when an argument is out of range.

    Example:
        >>> from resilient.testing import Fault
        >>> Fault.status(503, path="/weather", count=2)
        Fault.status(503, path='/weather', count=2)
    """

    kind: Kind
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    host: str = "*"
    path: str = "*"
    method: str = "*"
    count: int | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("host", "path", "method"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"Fault: {name} must be text or a pattern such as '*', not {value!r}", path=name)
        if self.count is not None:
            whole("Fault", "count", self.count)
        ratio("Fault", "rate", self.rate)

    @classmethod
    def connect_error(cls, message: str = "connection refused", **which: Any) -> Self:
        """No connection: nothing was sent.

        Args:
            message: of the error.
            which: host, path, method, count, rate.
        """
        return cls._made(Kind.CONNECT_ERROR, which, message=message)

    @classmethod
    def timeout(cls, after: float = 0.0, *, phase: str = "read", **which: Any) -> Self:
        """No answer in time.

        Args:
            after: seconds until the error, of the transport's clock, default at once.
            phase: which of the client's timeouts: "connect", "write", "read" (the default) or "pool". The request is
                not sent on in any.
            which: host, path, method, count, rate.
        """
        if phase not in {"connect", "write", "read", "pool"}:
            raise ConfigError(f"Fault: phase must be connect, write, read or pool, not {phase!r}", path="phase")
        return cls._made(Kind.TIMEOUT, which, after=_seconds("after", after), phase=phase)

    @classmethod
    def status(cls, code: int, *, headers: Mapping[str, str] | None = None, body: bytes = b"", **which: Any) -> Self:
        """An answer with this status; the request is not sent on.

        Args:
            code: 100 to 599.
            headers: of the answer, such as `{"Retry-After": "2"}`.
            body: of the answer, default empty.
            which: host, path, method, count, rate.
        """
        whole("Fault", "code", code, least=100, most=599)
        return cls._made(Kind.STATUS, which, code=code, headers=dict(headers or {}), body=body)

    @classmethod
    def latency(cls, seconds: float, **which: Any) -> Self:
        """The request waits before it is sent on. Several that match add up, and other faults come after.

        Args:
            seconds: of the transport's clock, 0 or more.
            which: host, path, method, count, rate.
        """
        return cls._made(Kind.LATENCY, which, seconds=_seconds("seconds", seconds))

    @classmethod
    def broken_body(cls, after: int = 0, **which: Any) -> Self:
        """The connection breaks while the answer's body is read.

        Args:
            after: bytes that arrive before, default none.
            which: host, path, method, count, rate.
        """
        return cls._made(Kind.BROKEN_BODY, which, after=whole("Fault", "after", after, least=0))

    @classmethod
    def _made(cls, kind: Kind, which: Mapping[str, Any], **given: Any) -> Self:
        unknown = set(which) - {"host", "path", "method", "count", "rate"}
        if unknown:
            word = min(unknown)
            raise ConfigError(
                f"Fault.{kind.value}: there is no {word!r}; requests are told by host, path, method, count and rate",
                path=word,
            )
        return cls(kind, given, **which)

    def matches(self, method: str, host: str, path: str) -> bool:
        """Whether such a request may be hit."""
        return (
            fnmatchcase(host, self.host.lower())
            and fnmatchcase(path, self.path)
            and fnmatchcase(method, self.method.upper())
        )

    def __repr__(self) -> str:
        said = [repr(self.given["code"])] if "code" in self.given else []
        said += [f"{name}={value!r}" for name, value in self.given.items() if name != "code" and value]
        said += [f"{name}={value!r}" for name in ("host", "path", "method") if (value := getattr(self, name)) != "*"]
        said += [] if self.count is None else [f"count={self.count}"]
        said += [] if self.rate == 1.0 else [f"rate={self.rate:g}"]
        return f"Fault.{self.kind.value}({', '.join(said)})"


@dataclass(slots=True)
class _Entry:
    fault: Fault
    hits: int = 0


class Faults:
    """The faults of a transport, and how often each has hit. Safe for threads."""

    def __init__(self, faults: tuple[Fault, ...], rng: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._rng = rng
        self._faults: list[_Entry] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """One more, looked at after the others."""
        if not isinstance(fault, Fault):
            raise ConfigError(f"a fault is made by Fault.status(...) and its like, not {fault!r}", path="faults")
        with self._lock:
            self._faults.append(_Entry(fault))

    def clear(self) -> None:
        """None from now on."""
        with self._lock:
            self._faults = []

    def hits(self, fault: Fault) -> int:
        """How many requests it has hit."""
        with self._lock:
            return sum(entry.hits for entry in self._faults if entry.fault is fault)

    def choose(self, method: str, host: str, path: str) -> list[Fault]:
        """Those that hit this request: every latency, and the first of the others."""
        chosen: list[Fault] = []
        done = False
        with self._lock:
            matching = [entry for entry in self._faults if entry.fault.matches(method, host, path)]
        for entry in matching:
            fault = entry.fault
            if done and fault.kind is not Kind.LATENCY:
                continue
            if fault.rate < 1.0 and self._rng() >= fault.rate:  # the user's function: not under the lock
                continue
            with self._lock:
                if fault.count is not None and entry.hits >= fault.count:
                    continue
                entry.hits += 1
            chosen.append(fault)
            done = done or fault.kind is not Kind.LATENCY
        return chosen


def _seconds(path: str, value: object) -> float:
    seconds = number("Fault", path, value)
    if seconds < 0:
        raise ConfigError(f"Fault: {path} must be 0 or more seconds, not {value!r}", path=path)
    return seconds
