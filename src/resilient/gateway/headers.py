"""The headers of a request and of an answer: which go on, which end here, and which make a request be refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from resilient.gateway.asgi import Header, Scope
from resilient.gateway.forwarded import speaks_of_caller
from resilient.gateway.problems import RefusedError

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Of one connection, not of the message. RFC 9110, section 7.6.1."""

_OURS: Final = frozenset({b"host", b"content-length", b"expect", b"x-request-id", b"via"})
_REWRITERS: Final = frozenset({b"x-original-url", b"x-rewrite-url"})  # some frameworks serve what these name instead
_NOT_PASSED_ON: Final = HOP_BY_HOP | _OURS | _REWRITERS
_NAME: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_DEADLINES: Final = frozenset({b"x-request-timeout-ms", b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms"})


@dataclass(slots=True)
class Heading:
    """What the headers of one request say.

    Attributes:
        passed: what goes on as it is, without what the gateway writes itself.
        about_caller: X-Forwarded-* and their like.
        host: b"" when the caller gave none.
        length: of the body; None when it is not said.
        chunked: whether the body comes in chunks.
        expects: whether the caller waits for `100 Continue` before it sends the body.
        upgrade: what the caller wants to speak instead, in lower case.
        via: the proxies before.
        request_id: kept if it is a sane one, else made.
        deadlines: headers that say how long the answer is of use.
    """

    passed: list[Header] = field(default_factory=list)
    about_caller: list[Header] = field(default_factory=list)
    host: bytes = b""
    length: int | None = None
    chunked: bool = False
    expects: bool = False
    upgrade: bytes = b""
    via: bytes = b""
    request_id: bytes = b""
    deadlines: list[Header] = field(default_factory=list)

    @classmethod
    def of(cls, scope: Scope, *, most: int, most_bytes: int) -> Heading:
        """Read them.

        Args:
            scope: ASGI's.
            most: headers that there may be.
            most_bytes: that all of them together may have.

        Raises:
            RefusedError: 400 when two readers could understand them in two ways, 431 when they are too many.
        """
        headers: list[Header] = scope["headers"]
        if len(headers) > most:
            raise RefusedError(431, f"The request has more than {most} headers.")
        found, named, size = cls(), set[bytes](), 0
        for given, value in headers:
            size += len(given) + len(value)
            name = given.lower()
            if _BAD_VALUE.search(value) is not None or _NAME.fullmatch(name) is None:
                raise RefusedError(400, "A header of the request has a character that no header may have.")
            like = name.replace(b"_", b"-") if b"_" in name else name  # to CGI and WSGI they are the same
            if like in _NOT_PASSED_ON:
                if like == name:
                    found._note(name, value, named)
            elif speaks_of_caller(like):
                if like == name:
                    found.about_caller.append((name, value))
            else:
                if name in _DEADLINES:
                    found.deadlines.append((name, value))
                found.passed.append((name, value))
        if size > most_bytes:
            raise RefusedError(431, f"The headers of the request have more than {most_bytes} bytes.")
        if named:
            found.passed = [header for header in found.passed if header[0] not in named]
        found._check(scope)
        return found

    def _note(self, name: bytes, value: bytes, named: set[bytes]) -> None:
        if name == b"host":
            if self.host or _HOST.fullmatch(value) is None:
                raise RefusedError(400, "The request must have one Host, which is a name or an address.")
            self.host = value
        elif name == b"content-length":
            if self.length is not None or _LENGTH.fullmatch(value) is None:
                raise RefusedError(400, "The request must have one Content-Length, which is a number.")
            self.length = int(value)
        elif name == b"transfer-encoding":
            if self.chunked or value.strip().lower() != b"chunked":
                raise RefusedError(400, "The only Transfer-Encoding of a request that is understood is `chunked`.")
            self.chunked = True
        elif name == b"connection":
            named.update(_words(value))
        elif name == b"upgrade":
            self.upgrade = value.strip().lower()
        elif name == b"expect":
            if value.strip().lower() != b"100-continue":
                raise RefusedError(417, "The only expectation that is understood is `100-continue`.")
            self.expects = True
        elif name == b"via":
            self.via = self.via + b", " + value if self.via else value
        elif name == b"x-request-id" and not self.request_id and _REQUEST_ID.fullmatch(value) is not None:
            self.request_id = value

    def _check(self, scope: Scope) -> None:
        if self.chunked and self.length is not None:
            raise RefusedError(400, "The request has a Transfer-Encoding and a Content-Length: its end is unsure.")
        if self.chunked and scope.get("http_version") == "1.0":
            raise RefusedError(400, "HTTP/1.0 knows no Transfer-Encoding.")
        if not self.host and scope.get("http_version") == "1.1":
            raise RefusedError(400, "The request must have one Host, which is a name or an address.")
        if not self.request_id:
            self.request_id = new_request_id()


def new_request_id() -> bytes:
    """One that nobody can guess, and nobody else has."""
    return os.urandom(16).hex().encode()


def id_of(headers: Iterable[Header]) -> bytes:
    """The request id of a request that was refused before its headers were read to the end."""
    for name, value in headers:
        if name.lower() == b"x-request-id" and _REQUEST_ID.fullmatch(value) is not None:
            return value
    return new_request_id()


def answered(headers: Iterable[Header], request_id: bytes) -> list[Header]:
    """The headers of an upstream's answer that go on.

    Args:
        headers: as they came.
        request_id: replaces the upstream's own.
    """
    found, named, chunked = list[Header](), set[bytes](), False
    for given, value in headers:
        name = given.lower()
        if name in HOP_BY_HOP:
            if name == b"connection":
                named.update(_words(value))
            chunked = chunked or name == b"transfer-encoding"
        elif name != b"x-request-id":
            found.append((name, value))
    if named or chunked:
        named.discard(b"content-length")
        if chunked:  # its Content-Length was not the length
            named.add(b"content-length")
        found = [header for header in found if header[0] not in named]
    found.append((b"x-request-id", request_id))
    return found


def _words(value: bytes) -> Iterable[bytes]:
    return (word.strip().lower() for word in value.split(b","))
