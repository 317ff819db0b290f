"""The corners of a Collapser: what batch functions return, settings, decorating, and loops of their own."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from resilient import BulkheadFullError, ConfigError, Deadline, DeadlineExceededError
from resilient.policies import collapser as module
from resilient.policies.collapser import Collapser
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.waiting import wait_until


def same(keys: list[int]) -> list[int]:
    """A batch function that gives every key itself."""
    return keys


def test_values_in_order_are_enough() -> None:
    """A list, one value per key; None is a value."""

    def batch(keys: list[int]) -> list[int | None]:
        return [None if key == 2 else key for key in keys]

    collapser = Collapser(batch, max_size=1)
    assert [collapser(key) for key in (1, 2)] == [1, None]


def test_a_value_that_is_an_error_is_raised_for_its_key() -> None:
    """What `gather(return_exceptions=True)` returns can be returned as it is."""
    collapser: Any = Collapser(lambda keys: [ValueError("bad key")], max_size=1)
    with pytest.raises(ValueError, match="bad key"):
        collapser(1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [([1, 2], "2 values for 1 keys"), ("a", "not a str"), ({1}, "not a set"), (None, "not iterable")],
)
def test_a_batch_that_returns_something_else_fails_with_a_sentence(returned: Any, message: str) -> None:
    """Nobody is given another one's value."""
    with pytest.raises((TypeError, ValueError), match=message):
        made: Any = Collapser(lambda keys: returned, max_size=1)
        made(1)


def test_a_function_that_turns_out_to_be_async_is_named() -> None:
    """Its coroutine is closed, and the caller told what to do."""

    async def later(keys: list[int]) -> list[int]:
        return keys

    with pytest.raises(TypeError, match="awaitable"):
        made: Any = Collapser(lambda keys: later(keys), max_size=1)
        made(1)


def test_a_key_that_is_not_hashable_is_a_type_error() -> None:
    """It is refused to its caller, before it is in a batch."""
    collapser: Any = Collapser(same, max_size=1)
    with pytest.raises(TypeError, match="unhashable"):
        collapser([1])
    assert collapser.snapshot().calls == 0


async def test_no_delay_collects_one_turn_of_the_loop() -> None:
    """What is asked for before the loop goes on is one batch."""
    batches: list[list[int]] = []

    @Collapser.decorate(delay=0)
    async def double(numbers: list[int]) -> list[int]:
        batches.append(numbers)
        return [number * 2 for number in numbers]

    assert await asyncio.gather(*(double(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert batches == [[0, 1, 2, 3, 4]]


def test_each_loop_has_its_own_batches() -> None:
    """An async batch runs on the loop of those who wait for it; one object serves loop after loop."""

    @Collapser.decorate
    async def where(keys: list[int]) -> list[int]:
        return [id(asyncio.get_running_loop())] * len(keys)

    async def asked() -> bool:
        return set(await asyncio.gather(where(1), where(2))) == {id(asyncio.get_running_loop())}

    assert [asyncio.run(asked()) for _ in range(2)] == [True, True]


def test_a_deadline_that_has_passed_asks_for_nothing(clock: VirtualClock) -> None:
    """A rejection: the key is in no batch."""
    collapser = Collapser(same, max_size=1, clock=clock)
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            collapser(1)
    assert collapser.snapshot().batches == 0


def test_without_a_free_worker_the_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader with a deadline needs one; what it gets is told, and the next batch is open."""
    monkeypatch.setattr(module, "WORKERS", Workers(most=0))
    collapser = Collapser(same, max_size=1)
    with Deadline(10.0), pytest.raises(BulkheadFullError):
        collapser(1)
    assert collapser(2) == 2


def test_a_worker_that_is_interrupted_tells_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit in a batch function ends its callers, not only a thread that nobody sees."""

    def leave(keys: list[int]) -> list[int]:
        raise SystemExit(3)

    with Deadline(10.0), pytest.raises(SystemExit):
        Collapser(leave, max_size=1)(1)


def test_an_interrupted_wait_leaves_no_open_batch(clock: VirtualClock) -> None:
    """The next caller leads a batch of its own."""

    class Interrupted(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
            if timeout == 5.0:
                raise KeyboardInterrupt
            return super().wait(event, timeout)

    collapser = Collapser(same, delay=5.0, clock=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        collapser(1)
    collapser.take_settings(Collapser(same, max_size=1))
    assert collapser(2) == 2
    assert (collapser.snapshot().batches, collapser.snapshot().keys) == (1, 1)


def test_a_snapshot_is_plain_data() -> None:
    """It fits JSON."""
    collapser = Collapser(same, max_size=1, name="users")
    collapser(1)
    wanted = {"name": "users", "waiting": 0, "calls": 1, "batches": 1, "keys": 1}
    assert json.loads(json.dumps(collapser.snapshot().as_dict())) == wanted


def test_a_forked_child_has_no_open_batches(clock: VirtualClock) -> None:
    """Rule 28: the batches of the parent's threads are made there."""
    collapser = Collapser(same, clock=clock)
    thread = threading.Thread(target=collapser, args=(1,))
    thread.start()
    wait_until(lambda: clock.waiting == 1)
    collapser.after_fork_in_child()
    assert collapser.snapshot().waiting == 0
    collapser.take_settings(Collapser(same, max_size=1))
    assert collapser(2) == 2
    clock.advance(0.010)
    thread.join(10.0)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay": -1}, "0 or more"),
        ({"delay": "10ms"}, "must be a number"),
        ({"max_size": 0}, "at least 1"),
        ({"name": ""}, "name must be text"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(settings: dict[str, Any], message: str) -> None:
    """Each names itself and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Collapser(same, **settings)


def test_a_generator_is_no_batch_function() -> None:
    """It does its work after the call."""

    def batch(keys: list[int]) -> Any:
        yield from keys

    with pytest.raises(TypeError, match="generator"):
        Collapser(batch)
