"""The serving end of a call, for WSGI applications."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from resilient.clock import Clock
from resilient.deadline import Deadline, Limit, current_limit, restore_limit
from resilient.transport.deadline_header import limited, seconds_left
from resilient.transport.serving import checked_deadline, refusal

__all__ = ["ResilientMiddleware"]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_PREFIX = "HTTP_"


class ResilientMiddleware:
    """The same for WSGI as `resilient.transport.asgi.ResilientMiddleware`.

    The deadline holds while the application runs and while its answer is read, also where that is a generator. An
    error of ours is answered as long as no byte of a body has been handed on.

    Args:
        app: the application: `flask_app.wsgi_app = ResilientMiddleware(flask_app.wsgi_app)`. Where the framework
            answers 500 to every error itself, as Flask and Django do, only the deadline is set; let the error through
            there, with Flask's `PROPAGATE_EXCEPTIONS` for instance.
        max_deadline: seconds of the longest deadline that is taken from a request, more than 0; default an hour.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `max_deadline` is not a positive number.

    Safe for threads: it keeps nothing.

    Example:
        >>> import httpx
        >>> from resilient import CircuitBreaker
        >>> from resilient.transport.wsgi import ResilientMiddleware
        >>> stock = CircuitBreaker("stock of the shop")
        >>> stock.open(30.0)
        >>> def app(environ, start_response):
        ...     with stock.calling():
        ...         start_response("200 OK", [])
        ...         return [b"3 left"]
        >>> transport = httpx.WSGITransport(app=ResilientMiddleware(app))
        >>> with httpx.Client(transport=transport, base_url="http://test") as client:
        ...     answer = client.get("/")
        >>> answer.status_code, answer.headers["Retry-After"]
        (503, '30')
    """

    def __init__(self, app: App, *, max_deadline: float | None = None, clock: Clock | None = None) -> None:
        self.app = app
        self._most = checked_deadline(max_deadline)
        self._clock = clock

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        seconds = seconds_left(
            {
                key[len(_PREFIX) :].replace("_", "-").lower(): value
                for key, value in environ.items()
                if key.startswith(_PREFIX)
            }
        )
        if seconds is None:
            return self._call(environ, _Start(start_response))
        with Deadline(limited(seconds, self._most), clock=self._clock):
            return self._call(environ, _Start(start_response))

    def _call(self, environ: Environ, start: _Start) -> Iterable[bytes]:
        try:
            found = self.app(environ, start)
        except Exception as error:
            body = start.refuse(error)
            if body is None:
                raise
            return [body]
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(found, (list, tuple)) or (isinstance(wrapper, type) and isinstance(found, wrapper)):
            return found  # nothing of the application runs any more, and servers look at the kind
        return _Body(found, start, current_limit.get())


class _Start:
    """The server's `start_response`; knows whether the answer has begun."""

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._called = False
        self.begun = False  # a byte of the body was handed on

    def __call__(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        write = self._start_response(status, headers, *exc_info)
        self._called = True

        def writing(data: bytes) -> object:
            self.begun = True
            return write(data)

        return writing

    def refuse(self, error: Exception) -> bytes | None:
        """Answer in the place of the application, and return the body; None when that can not or need not be."""
        answer = None if self.begun else refusal(error)
        if answer is None:
            return None
        info = (sys.exc_info(),) if self._called else ()  # the second time it takes back what was said before
        self._start_response(f"{answer.status} {answer.phrase}", list(answer.headers), *info)
        self.begun = True
        return answer.body


class _Body:
    """The answer of an application that is still running while it is read."""

    def __init__(self, found: Iterable[bytes], start: _Start, limit: Limit | None) -> None:
        self._found = found
        self._parts: Iterator[bytes] | None = None
        self._start = start
        self._limit = limit
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        token = current_limit.set(self._limit)
        try:
            if self._parts is None:
                self._parts = iter(self._found)
            part = next(self._parts)
        except StopIteration:
            raise
        except Exception as error:
            body = self._start.refuse(error)
            if body is None:
                raise
            self._over = True
            return body
        finally:
            restore_limit(token)
        self._start.begun = self._start.begun or bool(part)
        return part

    def close(self) -> None:
        """Tell the application that nobody reads on."""
        close = getattr(self._found, "close", None)
        if close is not None:
            close()
