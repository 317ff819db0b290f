"""Everything public that may cross a process or a queue does: every error, every snapshot, every event."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import (
    Bulkhead,
    Cache,
    Chaos,
    CircuitBreaker,
    Collapser,
    Command,
    ConcurrencyLimiter,
    Event,
    FailureInfo,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    ResilienceError,
    Retry,
    RetryBudget,
    State,
    ThreadPoolBulkhead,
    command,
)
from resilient.testing import VirtualClock
from tests.jumping import JumpingClock

# one of each type that the errors' and events' fields have
EXAMPLES: dict[str, Any] = {
    "str": "text",
    "float": 1.5,
    "int": 3,
    "bool": True,
    "float | None": None,
    "object": ("a", 1),
    "FailureInfo | None": FailureInfo("OSError", "gone", 12.0),
    "State": State.OPEN,
    "str | None": None,
    "Hashable": ("tenant", 1),
}


def public(kind: type) -> list[Any]:
    """The classes of a kind that `from resilient import ...` gives."""
    everything = (getattr(resilient, name) for name in resilient.__all__)
    return [found for found in everything if isinstance(found, type) and issubclass(found, kind)]


def twins(original: Any) -> list[Any]:
    """Through pickle, in every protocol, and through copy."""
    protocols = range(2, pickle.HIGHEST_PROTOCOL + 1)
    return [copy.copy(original), copy.deepcopy(original), *(pickle.loads(pickle.dumps(original, p)) for p in protocols)]


def filled(kind: type[Any]) -> Any:
    """An instance with a value in every field."""
    if not any("__init__" in vars(base) for base in kind.__mro__ if base.__module__.startswith("resilient")):
        return kind("text")
    arguments = {
        name: EXAMPLES[str(parameter.annotation)]
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not parameter.VAR_POSITIONAL and parameter.kind is not parameter.VAR_KEYWORD
    }
    message = arguments.pop("message", None)
    return kind(**arguments) if message is None else kind(message, **arguments)


@pytest.mark.parametrize("kind", public(ResilienceError))
def test_every_public_error_crosses_with_its_data(kind: type[ResilienceError]) -> None:
    """Whatever fields it has, and with its notes."""
    error = filled(kind)
    error.add_note("seen by the gateway")
    for twin in twins(error):
        assert type(twin) is kind
        assert (str(twin), twin.args, twin.__dict__) == (str(error), error.args, error.__dict__)


def test_a_group_of_them_crosses_too() -> None:
    """As task groups raise them."""
    group = ExceptionGroup("both", [filled(resilient.CircuitOpenError), filled(resilient.CallTimeoutError)])
    twin = pickle.loads(pickle.dumps(group))
    assert [type(leaf) for leaf in twin.exceptions] == [type(leaf) for leaf in group.exceptions]
    assert twin.exceptions[0].retry_after is None
    assert twin.exceptions[0].last_failure.message == "gone"


@pytest.mark.parametrize("kind", public(Event))
def test_every_public_event_crosses(kind: type[Event]) -> None:
    """It is plain data, and can not be changed by one listener for the next."""
    event = filled(kind)
    for twin in twins(event):
        assert twin == event
    with pytest.raises((AttributeError, TypeError)):
        event.name = "another"


def echo(keys: list[int]) -> list[int]:
    """A batch call."""
    return keys


def snapshots(clock: VirtualClock) -> Iterator[Any]:
    """One of each policy, after some calls."""
    breaker, retry, bulkhead = CircuitBreaker(clock=clock), Retry(wait=0.1, clock=clock), Bulkhead(clock=clock)
    limiter, adaptive, pool = RateLimiter(100, clock=clock), ConcurrencyLimiter(clock=clock), ThreadPoolBulkhead()
    cache, chaos, hedge = Cache(60.0), Chaos(error=ConnectionError), Hedge(clock=clock)
    collapser = Collapser(echo, delay=0.0)
    budget = RetryBudget(clock=clock)
    whole = command("whole", breaker=breaker, clock=clock)(int)
    guard = Pipeline(cache, retry, limiter, bulkhead, adaptive, pool, chaos)
    guard.call(len, "abc")
    collapser(1)
    whole()
    breaker.open(5.0)
    for policy in (breaker, retry, bulkhead, limiter, adaptive, pool, cache, chaos, hedge, collapser, budget):
        yield policy.snapshot()
    yield Command.of(whole).snapshot()
    keyed = Keyed(CircuitBreaker)
    keyed["a"].call(int)
    yield keyed["a"].snapshot()


def test_every_snapshot_crosses_and_is_json() -> None:
    """The kinds are all there; `as_dict()` goes through JSON and back."""
    seen = set()
    for snapshot in snapshots(JumpingClock()):
        seen.add(type(snapshot))
        for twin in twins(snapshot):
            assert twin == snapshot
        assert json.loads(json.dumps(snapshot.as_dict(), allow_nan=False))
    wanted = {getattr(resilient, name) for name in resilient.__all__ if name.endswith("Snapshot")}
    assert wanted <= seen
