"""The target of a request: what a server behind the gateway might read in another way than the gateway is refused."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from resilient.gateway.asgi import Scope
from resilient.gateway.problems import RefusedError

_PLAIN: Final = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9_.~!$&'()*+,=:@-]*)+/?|/")
"""Nearly every path: no percent sign, and no segment that begins with a dot."""
_VISIBLE: Final = re.compile(rb"[!-~]*")
_CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f\\]")
_BROKEN: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DECODINGS: Final = 3  # a proxy, a framework and an application may each decode once


def target_of(scope: Scope, longest: int) -> tuple[bytes, bytes]:
    """(path as it was sent, query) of a request, looked at.

    Args:
        scope: ASGI's.
        longest: bytes that both may have.

    Raises:
        RefusedError: 400 for a target that is no plain path, or leads out of its route; 414 when it is too long.
    """
    raw: bytes | None = scope.get("raw_path")
    if raw is None:  # optional in ASGI
        raw = quote(scope["path"], safe="/:@!$&'()*+,;=~-._").encode()
    query: bytes = scope.get("query_string", b"")
    root = scope.get("root_path", "").encode()
    if root and raw.startswith(root):  # where this application is mounted
        raw = raw[len(root) :] or b"/"
    if len(raw) + len(query) > longest:
        raise RefusedError(414, f"The request's target is longer than {longest} bytes.")
    if _PLAIN.fullmatch(raw) is None:
        _check(raw)
    if query and (_VISIBLE.fullmatch(query) is None or b"#" in query):
        raise RefusedError(400, "The request's query has characters that must be percent-encoded.")
    return raw, query


def segments_of(path: bytes) -> tuple[bytes, ...]:
    """What stands between the slashes, as it was sent: `/a/b` has two segments, `/` and the empty text have none."""
    parts = tuple(path.split(b"/")[1:])
    return () if parts == (b"",) else parts


def decoded(segment: bytes) -> bytes:
    """A segment as it is meant; a slash that was encoded is a part of it."""
    return unquote_to_bytes(segment) if b"%" in segment else segment


def _check(raw: bytes) -> None:
    if not raw.startswith(b"/"):
        raise RefusedError(400, "The request's target must be a path: it is not for a proxy, a tunnel or a server.")
    if raw.startswith(b"//"):
        raise RefusedError(400, "The request's path begins with two slashes: what follows could be taken for a host.")
    if _VISIBLE.fullmatch(raw) is None or b"#" in raw:
        raise RefusedError(400, "The request's path has characters that must be percent-encoded.")
    if _BROKEN.search(raw):
        raise RefusedError(400, "The request's path has a percent sign that two hexadecimal digits do not follow.")
    text = raw
    for level in range(_DECODINGS + 1):
        if _CONTROLS.search(text):
            raise RefusedError(400, "The request's path has a backslash or a control character.")
        if any(segment.partition(b";")[0] in {b".", b".."} for segment in text.split(b"/")):
            raise RefusedError(400, "The request's path has a segment `.` or `..`: write where it leads.")
        before, text = text, unquote_to_bytes(text)
        if level == 0:
            _check_text(text)
        if text == before:
            return


def _check_text(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise RefusedError(400, "The request's path is not UTF-8.") from None
