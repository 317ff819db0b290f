"""Who may ask: HTTP basic authentication, or everybody."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.requests import Request
from starlette.responses import Response

from resilient.registry_server.answers import refusal
from resilient.registry_server.credentials import checked_auth

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="resilient registry", charset="UTF-8"'}


class Access:
    """Lets in who knows the user and the password; everybody when there is none.

    Args:
        auth: user and password, or None.

    Raises:
        ConfigError: when they are not two texts that are not empty, or the user has a colon.
    """

    def __init__(self, auth: tuple[str, str] | None) -> None:
        self._expected = None if auth is None else ":".join(checked_auth(auth)).encode()

    def refuse(self, request: Request) -> Response | None:
        """The answer for whom is not let in, or None. Takes as long for a password that is nearly right."""
        if self._expected is None:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and hmac.compare_digest(_decoded(given), self._expected):
            return None
        return refusal(401, "this registry needs a user and a password", **_CHALLENGE)


def _decoded(given: str) -> bytes:
    try:
        return base64.b64decode(given.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""
