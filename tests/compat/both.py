"""What the tests of the drop-in share: functions to guard, listeners and storages that note what happens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from resilient.compat.pybreaker import CircuitBreaker, CircuitBreakerError


def good() -> str:
    return "fine"


def bad() -> str:
    raise ConnectionError("down")


class Recorder(pybreaker.CircuitBreakerListener):
    """Notes what it is told, in one list with the storage that it shares."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace

    def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.trace.append("before_call")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.trace.append("failure")

    def success(self, cb: Any) -> None:
        self.trace.append("success")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.trace.append(f"{old_state.name}->{new_state.name}")


class TracedStorage(pybreaker.CircuitMemoryStorage):
    """Memory that notes each access."""

    trace: list[str]

    def __getattribute__(self, name: str) -> Any:
        get = super().__getattribute__
        if name in {"state", "counter", "success_counter", "opened_at"}:
            get("trace").append(f"get {name}")
        elif name.startswith(("increment", "reset")):
            get("trace").append(name)
        return get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"state", "opened_at"}:
            self.trace.append(f"set {name}")
        super().__setattr__(name, value)


def traced(lib: Any, state: str = "closed", **options: Any) -> tuple[Any, list[str]]:
    """A breaker, and the list of everything that it asks and tells."""
    trace: list[str] = []
    storage = TracedStorage.__new__(TracedStorage)
    storage.trace = trace
    TracedStorage.__init__(storage, state)
    breaker = lib.CircuitBreaker(state_storage=storage, listeners=[Recorder(trace)], **options)
    return breaker, trace


def traced_call(lib: Any, breaker: Any, trace: list[str], func: Callable[[], Any]) -> str:
    """What one call does, in order."""
    trace.clear()

    def noted() -> Any:
        trace.append("<func>")
        return func()

    try:
        breaker.call(noted)
    except (ConnectionError, lib.CircuitBreakerError):
        trace.append("raise")
    return " | ".join(trace)


def expired(breaker: Any) -> None:
    """Open, and its time is over."""
    breaker.open()
    breaker._state_storage.opened_at = datetime.now(UTC) - timedelta(seconds=breaker.reset_timeout + 1)


def tripped(lib: Any, breaker: Any) -> Any:
    """Fail until it trips; the error of the call that did it."""
    for _ in range(breaker.fail_max - 1):
        with pytest.raises(ConnectionError):
            breaker.call(bad)
    with pytest.raises(lib.CircuitBreakerError) as caught:
        breaker.call(bad)
    return caught.value


def refused(breaker: CircuitBreaker) -> CircuitBreakerError:
    """The error of a call that is not made."""
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.call(pytest.fail, "called")
    return caught.value


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Started; the errors that these tests make end it quietly."""

    def quietly() -> None:
        with contextlib.suppress(CircuitBreakerError, ConnectionError):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


class HeldTrial:
    """A trial in another thread, inside the guarded function until it is told to end."""

    def __init__(self, breaker: CircuitBreaker, error: Exception | None = None) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.error = error
        self.thread = in_thread(lambda: breaker.call(self.work))
        assert self.entered.wait(5)

    def work(self) -> None:
        self.entered.set()
        assert self.leave.wait(5)
        if self.error:
            raise self.error

    def end(self) -> None:
        self.leave.set()
        self.thread.join(5)
