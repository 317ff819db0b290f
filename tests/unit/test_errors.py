"""Errors carry data, and carry it across borders."""

from __future__ import annotations

import copy
import pickle

import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConfigError,
    FailureInfo,
    NoInstanceError,
    RegistryUnavailableError,
    RejectedError,
    ResilienceError,
)


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("no", policy="p", retry_after=1.5),
        CircuitOpenError("open", policy="db", retry_after=3.2, last_failure=FailureInfo("OSError", "gone", 12.0)),
        BulkheadFullError("full", policy="b"),
        NoInstanceError("none", policy="producer"),
        CallTimeoutError("slow", policy="t", limit=1.0, elapsed=1.01, by_deadline=True),
        RegistryUnavailableError("gone"),
        ConfigError("bad", path="commands.weather.timeout"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_pickles_and_copies_with_its_data(error: ResilienceError) -> None:
    """What crosses a process or a queue arrives whole: type, text, data, notes."""
    error.add_note("seen by the gateway")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.__dict__ == error.__dict__


def test_builtin_relatives_catch_them() -> None:
    """A timeout is a TimeoutError, a bad setting a ValueError, a rejection our own."""
    assert issubclass(CallTimeoutError, TimeoutError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(CircuitOpenError, RejectedError)


def test_failure_info_is_short_text_even_of_an_error_that_can_not_be_shown() -> None:
    """200 characters at most, no frames, no second error."""

    class Unshowable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert len(FailureInfo.of(ValueError("x" * 1000), 1.0).message) == 200
    assert FailureInfo.of(Unshowable(), 2.0) == FailureInfo("Unshowable", "", 2.0)
