"""httpx, or httpx2: one code for both. Their classes are unrelated, so each has subclasses of its own."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import Any

from resilient.errors import ResilienceError
from resilient.transport.client_errors import by_ours
from resilient.transport.httpx_bodies import AnswerBody, AsyncAnswerBody, SentBody
from resilient.transport.routing import Trouble


class Family:
    """What a transport needs of its client library.

    Args:
        http: the module `httpx` or `httpx2`.
        errors: the module of our errors that are its own, too.
    """

    def __init__(self, http: ModuleType, errors: ModuleType) -> None:
        self.http: Any = http
        self.kinds = by_ours(errors.KINDS)
        self.failed: Any = errors.FailedResponse
        self.late: type[ResilienceError] = errors.TransportTimeoutError
        self.full: Any = errors.TransportBulkheadFullError
        streams = (http.SyncByteStream, http.AsyncByteStream)
        self.sent: type[SentBody] = type("SentBody", (SentBody, *streams), {"family": self})
        self.body: type[AnswerBody] = type("AnswerBody", (AnswerBody, streams[0]), {"family": self})
        self.async_body: type[AsyncAnswerBody] = type("AnswerBody", (AsyncAnswerBody, streams[1]), {"family": self})
        self._unsent = (http.ConnectError, http.ConnectTimeout)
        self._nothing = (http.LocalProtocolError, http.UnsupportedProtocol, http.ProxyError, http.StreamError)
        self._broken = (http.TransportError, OSError)
        self._told = (http.HTTPError, OSError, ResilienceError)
        self._moved = _moved if _may_move(http) else None
        parts = ("scheme", "host", "port")  # of a URL, the host as it is sent where that can be had without decoding it
        read = parts if self._moved is None else [f"_uri_reference.{part}" for part in parts]
        self.place: Callable[[Any], tuple[str, str, int | None]] = attrgetter(*read)

    def trouble_of(self, error: BaseException) -> Trouble:
        """What an error says about the instance."""
        if isinstance(error, self.http.PoolTimeout):
            return Trouble.LOCAL
        if isinstance(error, self._unsent):
            return Trouble.UNSENT
        if isinstance(error, ResilienceError) and not isinstance(error, self.http.TransportError):
            return Trouble.OTHER  # our own, before anything was sent; CallTimeoutError is an OSError
        if self.says_nothing(error) or not isinstance(error, self._broken):
            return Trouble.OTHER
        return Trouble.BROKEN

    def says_nothing(self, error: BaseException) -> bool:
        """Whether an error says nothing about the dependency: a request that can not be sent, a body that raised."""
        return isinstance(error, self._nothing) or not isinstance(error, self._told)

    def address(self, url: Any, host: str, port: int) -> Any:
        """An address as the library reads it, to move URLs like this one to: once per instance, for that is slow.

        Raises:
            InvalidURL: the library's, when that is no host.
        """
        moved = url.copy_with(host=host, port=port)
        return (host, port) if self._moved is None else (moved._uri_reference.host, moved._uri_reference.port)

    def moved(self, url: Any, address: Any) -> Any:
        """The same URL at an address."""
        host, port = address
        if self._moved is None:
            return url.copy_with(host=host, port=port)
        return self._moved(self.http.URL, url, host, port)


_PARTS = ("scheme", "userinfo", "host", "port", "path", "query", "fragment")


def _moved(kind: Any, url: Any, host: str, port: int | None) -> Any:
    found, read = kind.__new__(kind), url._uri_reference
    # Its own constructor, and its `_replace`, cost three times as much.
    found._uri_reference = tuple.__new__(type(read), (read[0], read[1], host, port, read[4], read[5], read[6]))
    return found


def _may_move(http: ModuleType) -> bool:
    """Whether a URL can be put together from parts that were read before: not promised by any version, so tried."""
    url = http.URL("https://user@name/a%20b/c?d=e#f")
    move: Callable[..., Any] = _moved
    try:
        slow = url.copy_with(host="10.0.0.1", port=8080)
        if url._uri_reference._fields != _PARTS:
            return False
        fast = move(http.URL, url, slow._uri_reference.host, slow._uri_reference.port)
        return bool(fast == slow and str(fast) == str(slow) and fast.raw_path == slow.raw_path)
    except (AttributeError, TypeError, ValueError):
        return False
