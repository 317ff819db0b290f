"""Headers that a function gives, as what httpx takes for authentication."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

import httpx


class HeaderAuth(httpx.Auth):
    """Adds the headers that `headers` gives, asked before each request: tokens rotate."""

    def __init__(self, headers: Callable[[], Mapping[str, str]]) -> None:
        self._headers = headers

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The one request, with them."""
        request.headers.update(self._headers())
        yield request
