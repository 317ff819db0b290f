"""httpx transports in which things go wrong by rule. Needs httpx."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import ConfigError
from resilient.testing.faults import Fault, Faults, Kind

_TIMEOUTS: dict[str, type[httpx.TimeoutException]] = {
    "connect": httpx.ConnectTimeout,
    "write": httpx.WriteTimeout,
    "read": httpx.ReadTimeout,
    "pool": httpx.PoolTimeout,
}


class _Faulty:
    """What both colours share: the faults, and who asked."""

    def __init__(self, faults: tuple[Fault, ...], rng: Callable[[], float] | None, clock: Clock | None) -> None:
        self._faults = Faults(faults, rng or random.random)
        self._clock = clock or SYSTEM_CLOCK
        self._requests: list[httpx.Request] = []

    @property
    def requests(self) -> tuple[httpx.Request, ...]:
        """Every request it has got, in order, whether it was sent on or not."""
        return tuple(self._requests)

    def add(self, fault: Fault) -> None:
        """Let one more thing go wrong from now on.

        Args:
            fault: looked at after the others: of several that match, the first hits.

        Raises:
            ConfigError: when it is no Fault.
        """
        self._faults.add(fault)

    def clear(self) -> None:
        """Let nothing go wrong from now on."""
        self._faults.clear()

    def hits(self, fault: Fault) -> int:
        """How many requests were hit by this fault, the object that was given."""
        return self._faults.hits(fault)

    def _choose(self, request: httpx.Request) -> tuple[float, Fault | None]:
        """(seconds to wait, what goes wrong then)."""
        self._requests.append(request)
        chosen = self._faults.choose(request.method, request.url.host, request.url.path)
        wait, wrong = 0.0, None
        for fault in chosen:
            if fault.kind is Kind.LATENCY:
                wait += fault.given["seconds"]
            else:
                wrong = fault
        if wrong is not None and wrong.kind is Kind.TIMEOUT:
            wait += wrong.given["after"]
        return wait, wrong


class FaultyTransport(_Faulty, httpx.BaseTransport):
    """An httpx transport in which things go wrong by rule; what does not goes on to another transport.

    Put it below what you test: what the `transport=` of a `ResilientTransport` makes, the transport of a client whose
    calls are guarded, or that of the client that your code makes.

    Args:
        inner: where requests go on to: an `httpx.MockTransport`, an `httpx.HTTPTransport` … It is closed with this one.
        faults: what goes wrong; of those that match a request the first hits, and every latency.
        rng: gives a float in [0, 1) for faults with a rate; default `random.random`.
        clock: on which it is slow; default that of the process, see `use_clock`.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads.

    Example:
        >>> import httpx
        >>> from resilient import CircuitBreaker
        >>> from resilient.testing import Fault, FaultyTransport
        >>> sunny = httpx.MockTransport(lambda request: httpx.Response(200, text="sunny"))
        >>> faulty = FaultyTransport(sunny, Fault.connect_error(path="/weather", count=1))
        >>> breaker = CircuitBreaker()
        >>> with httpx.Client(transport=faulty) as client:
        ...     try:
        ...         breaker.call(client.get, "http://api.example.org/weather")
        ...     except httpx.ConnectError as error:
        ...         print(error)
        ...     breaker.call(client.get, "http://api.example.org/weather").text
        connection refused
        'sunny'
        >>> breaker.snapshot().failures, len(faulty.requests)
        (1, 2)
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        *faults: Fault,
        rng: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(inner, httpx.BaseTransport):
            raise ConfigError(f"FaultyTransport: inner must be an httpx transport, not {inner!r}", path="inner")
        super().__init__(faults, rng, clock)
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Let it go wrong, or send it on."""
        wait, wrong = self._choose(request)
        if wait:
            self._clock.sleep(wait)
        instead = None if wrong is None else _instead(wrong, request)
        if instead is not None:
            return instead
        response = self._inner.handle_request(request)
        return response if wrong is None else _broken(response, wrong.given["after"], request)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class AsyncFaultyTransport(_Faulty, httpx.AsyncBaseTransport):
    """`FaultyTransport` for httpx.AsyncClient; arguments, faults and methods as there.

    Example:
        >>> import asyncio, httpx
        >>> from resilient.testing import AsyncFaultyTransport, Fault
        >>> sunny = httpx.MockTransport(lambda request: httpx.Response(200, text="sunny"))
        >>> faulty = AsyncFaultyTransport(sunny, Fault.status(503, headers={"Retry-After": "2"}, count=1))
        >>> async def main():
        ...     async with httpx.AsyncClient(transport=faulty) as client:
        ...         for _ in range(2):
        ...             print((await client.get("http://api.example.org/")).status_code)
        >>> asyncio.run(main())
        503
        200
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *faults: Fault,
        rng: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(inner, httpx.AsyncBaseTransport):
            raise ConfigError(
                f"AsyncFaultyTransport: inner must be an async httpx transport, not {inner!r}", path="inner"
            )
        super().__init__(faults, rng, clock)
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Let it go wrong, or send it on."""
        wait, wrong = self._choose(request)
        if wait:
            await self._clock.sleep_async(wait)
        instead = None if wrong is None else _instead(wrong, request)
        if instead is not None:
            return instead
        response = await self._inner.handle_async_request(request)
        return response if wrong is None else _broken(response, wrong.given["after"], request)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class _Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends too early, of either colour."""

    def __init__(self, inner: Any, after: int, request: httpx.Request) -> None:
        self._inner = inner
        self._after = after
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        left = self._after
        for chunk in self._inner:
            if len(chunk) >= left:
                break
            yield chunk
            left -= len(chunk)
        else:
            chunk = b""
        if chunk[:left]:
            yield chunk[:left]
        raise self._error()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._after
        async for chunk in self._inner:
            if len(chunk) >= left:
                break
            yield chunk
            left -= len(chunk)
        else:
            chunk = b""
        if chunk[:left]:
            yield chunk[:left]
        raise self._error()

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _error(self) -> httpx.ReadError:
        return httpx.ReadError(f"the connection broke after {self._after} bytes", request=self._request)


def _broken(response: httpx.Response, after: int, request: httpx.Request) -> httpx.Response:
    """The same answer anew: that of a MockTransport has been read already."""
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=_Broken(response.stream, after, request),
        extensions=response.extensions,
        request=request,
    )


def _instead(fault: Fault, request: httpx.Request) -> httpx.Response | None:
    """The answer instead of the real one, or its error; None: it is sent on."""
    given = fault.given
    if fault.kind is Kind.CONNECT_ERROR:
        raise httpx.ConnectError(given["message"], request=request)
    if fault.kind is Kind.TIMEOUT:
        raise _TIMEOUTS[given["phase"]](f"no answer ({given['phase']} timeout)", request=request)
    if fault.kind is Kind.STATUS:
        return httpx.Response(given["code"], headers=given["headers"], content=given["body"], request=request)
    return None
