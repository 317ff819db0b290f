"""Which requests go where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpx

from resilient import checks
from resilient.errors import ConfigError
from resilient.gateway.asgi import Scope
from resilient.gateway.headers import Heading
from resilient.gateway.paths import decoded, segments_of
from resilient.gateway.problems import RefusedError

OWNER: Final = "Route"
MAX_BODY: Final = 10_485_760  # bytes, 10 MiB, as the API gateways of the clouds
FAILURES: Final = (500, 502, 503, 504)

_PATH: Final = re.compile(r"/|(?:/[A-Za-z0-9_~!$&'()+,;=:@-][A-Za-z0-9._~!$&'()+,;=:@-]*)+/?")
_METHOD: Final = re.compile(r"[A-Z][A-Z-]*")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SERVICE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Route:
    """Which requests go where, and what is changed on the way; the keys of a route's table, checked when made.

    Attributes:
        path: prefix of whole segments: `/patient` is also `/patient/1`, and not `/patients`. Default all.
        service: the logical name of the upstream; or
        url: its URL, `http` or `https`, without a query; a path of its own comes before the request's.
        methods: default all.
        host: `api.example.org`, `*.example.org`, or a list; default all.
        headers: by name, the exact value, or True for any value.
        strip_prefix: True to take `path` away, or the number of segments to take away from the front; default False.
        preserve_host: True to pass on the caller's Host; default False: it is the service's name, or the URL's host.
        rewrite_location: True to put the stripped prefix back into a Location; default False.
        fallback: `forward:/path` of a handler that answers when the upstream does not.
        fallback_on: statuses of the upstream that the fallback answers for; default 500, 502, 503, 504.
        fallback_status: of what a function answers; default the failure's own.
        max_body: bytes of a request's body, default 10 MiB, beyond it 413.
        connect_timeout: seconds to connect to an instance, default 5.
        idle_timeout: seconds between two parts of an answer's body, default 60; None (in a file `false`): no limit.

    Raises:
        ConfigError: when one is wrong.

    Example:
        >>> from resilient.gateway import Route
        >>> Route(path="/patient", service="patient", strip_prefix=True).stripped
        1
    """

    path: str = "/"
    service: str | None = None
    url: str | None = None
    methods: Iterable[str] = ()
    host: str | Iterable[str] = ()
    headers: Mapping[str, str | bool] | None = None
    strip_prefix: bool | int = False
    preserve_host: bool = False
    rewrite_location: bool = False
    fallback: str | None = None
    fallback_on: Iterable[int] = FAILURES
    fallback_status: int | None = None
    max_body: int = MAX_BODY
    connect_timeout: float = 5.0
    idle_timeout: float | None = 60.0

    def __post_init__(self) -> None:
        for path in ("preserve_host", "rewrite_location"):
            if not isinstance(getattr(self, path), bool):
                raise ConfigError(f"{OWNER}: {path} must be true or false, not {getattr(self, path)!r}", path=path)
        _check_path(self.path)
        self.base  # noqa: B018  # made, it has checked itself
        _texts("methods", self.methods, _METHOD, "a list of methods like 'GET'")
        _texts(
            "host", self.host, _HOST, "a host like 'api.example.org' or '*.example.org', in lower case, without a port"
        )
        self._check_headers()
        self.stripped  # noqa: B018  # likewise
        if self.fallback is not None and not _is_forward(self.fallback):
            raise ConfigError(f"{OWNER}: fallback must be like 'forward:/path', not {self.fallback!r}", path="fallback")
        if not isinstance(self.fallback_on, (list, tuple)):
            raise ConfigError(
                f"{OWNER}: fallback_on must be a list of statuses, not {self.fallback_on!r}", path="fallback_on"
            )
        for status in self.fallback_on:
            checks.whole(OWNER, "fallback_on", status, least=400, most=599)
        if self.fallback_status is not None:
            checks.whole(OWNER, "fallback_status", self.fallback_status, least=200, most=599)
        checks.whole(OWNER, "max_body", self.max_body, least=0)
        checks.positive_seconds(OWNER, "connect_timeout", self.connect_timeout)
        if self.idle_timeout is not None and self.idle_timeout is not False:
            checks.positive_seconds(OWNER, "idle_timeout", self.idle_timeout)

    @property
    def base(self) -> str:
        """The URL before the request's path.

        Raises:
            ConfigError: when there is none, or no HTTP one.
        """
        service: object = self.service  # what a file may say
        url: object = self.url
        if (service is None) is (url is None):
            raise ConfigError(f"{OWNER}: service must name the upstream, or url; one of both", path="service")
        if service is not None:
            if not isinstance(service, str) or not _SERVICE.fullmatch(service) or service.lower() == "localhost":
                raise ConfigError(
                    f"{OWNER}: service must be a name of one label, like 'patient', not {service!r}", path="service"
                )
            return f"http://{service.lower()}"
        shape = f"{OWNER}: url must be like 'http://10.0.0.1:8080', not {url!r}"
        try:
            found = httpx.URL(url if isinstance(url, str) else "")
        except httpx.InvalidURL as error:
            raise ConfigError(f"{shape}: {error}", path="url") from error
        if found.scheme not in {"http", "https"} or not found.host or found.query or found.fragment or found.userinfo:
            raise ConfigError(shape, path="url")
        return str(found).rstrip("/")

    @property
    def segments(self) -> tuple[bytes, ...]:
        """Of the prefix."""
        return segments_of(self.path.rstrip("/").encode())

    @property
    def stripped(self) -> int:
        """How many segments are taken away.

        Raises:
            ConfigError: when those are more than the prefix has: another request's path may have fewer.
        """
        given = self.strip_prefix
        if isinstance(given, bool):
            return len(self.segments) if given else 0
        return checks.whole(OWNER, "strip_prefix", given, least=0, most=len(self.segments))

    def predicate(self) -> Callable[[Scope, Heading], bool] | None:
        """Whether a request with this prefix and method is meant; None: any is."""
        hosts = tuple(_listed(self.host))
        wanted = [(name.lower().encode(), value) for name, value in (self.headers or {}).items()]
        if not hosts and not wanted:
            return None

        def meant(scope: Scope, heading: Heading) -> bool:
            if hosts and not any(_is_host(heading.host, one) for one in hosts):
                return False
            given = scope["headers"]
            return all(
                any(name == one and (value is True or text.decode("latin-1") == value) for one, text in given)
                for name, value in wanted
            )

        return meant

    def _check_headers(self) -> None:
        if self.headers is None:
            return
        given: Any = self.headers
        if not isinstance(given, Mapping):
            raise ConfigError(f"{OWNER}: headers must be a table of names and values, not {given!r}", path="headers")
        for name, value in given.items():
            if not isinstance(name, str) or _HEADER.fullmatch(name) is None:
                raise ConfigError(f"{OWNER}: headers must have names of headers, not {name!r}", path="headers")
            if value is not True and not isinstance(value, str):
                raise ConfigError(
                    f"{OWNER}: headers must have a text for {name!r}, or true for any, not {value!r}", path="headers"
                )


def _check_path(path: Any) -> None:
    if not isinstance(path, str) or _PATH.fullmatch(path) is None:
        hint = ": it is a prefix, write it without a star" if isinstance(path, str) and "*" in path else ""
        raise ConfigError(
            f"{OWNER}: path must be like '/patient', decoded and without dots, not {path!r}{hint}", path="path"
        )


def _listed(given: Any) -> Iterable[Any]:
    return (given,) if isinstance(given, str) else given


def _texts(path: str, given: Any, shape: re.Pattern[str], wanted: str) -> None:
    found = _listed(given)
    if not isinstance(found, (list, tuple)) or any(
        not isinstance(one, str) or shape.fullmatch(one) is None for one in found
    ):
        raise ConfigError(f"{OWNER}: {path} must be {wanted}, not {given!r}", path=path)


def _is_forward(given: Any) -> bool:
    return isinstance(given, str) and given.startswith("forward:/") and not given.startswith("forward://")


def _is_host(given: bytes, wanted: str) -> bool:
    host = given.decode("latin-1").lower()
    if not host.endswith("]"):
        name, colon, port = host.rpartition(":")
        host = name if colon and not port.strip("0123456789") else host
    return host.endswith(wanted[1:]) and len(host) > len(wanted) - 1 if wanted.startswith("*.") else host == wanted


class _Entry(NamedTuple):
    methods: frozenset[str]
    predicate: Callable[[Scope, Heading], bool] | None
    found: Any


class Table:
    """All routes. The longest prefix wins; of the same prefix the first one whose conditions hold.

    Args:
        entries: route and what is found for it, in order.
    """

    def __init__(self, entries: Iterable[tuple[Route, Any]]) -> None:
        self._by_prefix: dict[tuple[bytes, ...], list[_Entry]] = {}
        for route, found in entries:
            entry = _Entry(frozenset(_listed(route.methods)), route.predicate(), found)
            self._by_prefix.setdefault(route.segments, []).append(entry)
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix}, reverse=True)
        self._deepest = max(self._lengths, default=0)

    def find(self, method: str, segments: tuple[bytes, ...], scope: Scope, heading: Heading) -> Any:
        """What belongs to a request.

        Args:
            method: of the request.
            segments: of its path, as they were sent.
            scope: ASGI's.
            heading: its headers.

        Raises:
            RefusedError: 404 when no route matches, 405 when only the method does not.
        """
        front = tuple(decoded(segment) for segment in segments[: self._deepest])
        others = set[str]()
        for length in self._lengths:
            if length > len(front):
                continue
            for methods, predicate, found in self._by_prefix.get(front[:length], ()):
                if predicate is not None and not predicate(scope, heading):
                    continue
                if not methods or method in methods or (method == "HEAD" and "GET" in methods):
                    return found
                others |= methods
        if others:
            allowed = ", ".join(sorted(others)).encode()
            raise RefusedError(405, "The route does not take this method.", close=False, headers=((b"allow", allowed),))
        raise RefusedError(404, "No route leads there.", close=False)
