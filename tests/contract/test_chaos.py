"""What Chaos promises: nothing while it is off, and real faults, further in than everything, while it is on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient import CallTimeoutError, CircuitBreaker, CircuitOpenError, Fallback, Pipeline, Timeout, listen
from resilient.policies.chaos import Chaos, ChaosInjected
from resilient.testing import VirtualClock
from tests.drive import Drive


@pytest.fixture
def told() -> Iterator[list[ChaosInjected]]:
    """What is heard of it."""
    heard: list[ChaosInjected] = []
    stop = listen(heard.append, ChaosInjected)
    yield heard
    stop()


def test_it_is_off_until_it_is_switched_on(drive: Drive, told: list[ChaosInjected]) -> None:
    """Neither a rate of 1 nor an environment variable switches it on."""
    chaos = Chaos(rate=1.0, error=ConnectionError)
    assert [drive(chaos, lambda: "fine") for _ in range(20)] == ["fine"] * 20
    assert (chaos.on, chaos.snapshot().injected, told) == (False, 0, [])


def test_no_environment_variable_switches_it_on(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting left behind on a production machine breaks nothing."""
    monkeypatch.setenv("RESILIENT_CHAOS", "1")
    assert drive(Chaos(rate=1.0, error=ConnectionError), lambda: "fine") == "fine"


def test_an_injected_error_is_a_real_one_to_what_is_outside(drive: Drive) -> None:
    """The breaker counts it and opens, the fallback answers."""
    breaker = CircuitBreaker("victim", consecutive_failures=3)
    chaos = Chaos(rate=1.0, error=lambda: ConnectionError("chaos"), enabled=True)
    guard = Pipeline(breaker, chaos)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="chaos"):
            drive(guard, lambda: "fine")
    with pytest.raises(CircuitOpenError):
        drive(guard, lambda: "fine")
    assert drive(Pipeline(Fallback(value="instead"), chaos), lambda: "fine") == "instead"


def test_it_breaks_the_given_part_of_the_calls(drive: Drive) -> None:
    """Drawn from `rng`, call by call."""
    chaos = Chaos(rate=0.25, result=lambda: "broken", enabled=True, rng=random.Random(7).random)
    results = [drive(chaos, lambda: "fine") for _ in range(400)]
    assert 70 <= results.count("broken") <= 130
    assert results.count("broken") == chaos.snapshot().injected


def test_the_call_itself_is_not_made_where_something_else_is_injected(drive: Drive) -> None:
    """An error or a result stands for the call; latency alone lets it go on."""
    calls: list[str] = []
    for chaos in (
        Chaos(rate=1.0, error=ConnectionError, enabled=True),
        Chaos(rate=1.0, result=lambda: None, enabled=True),
        Chaos(rate=1.0, latency=lambda: 0.0, enabled=True),
    ):
        drive(Pipeline(Fallback(value=None), chaos), calls.append, chaos.describe())
    assert len(calls) == 1


async def test_latency_comes_first_and_is_virtual_in_tests(told: list[ChaosInjected]) -> None:
    """It is slept on the policy's clock, then the error is raised; the event says both."""
    clock = VirtualClock()
    chaos = Chaos(rate=1.0, latency=30.0, error=ConnectionError, enabled=True, clock=clock, name="slow")

    async def fine() -> str:
        return "fine"

    task = asyncio.create_task(chaos.acall(fine))
    await clock.advance_async(29.0)
    assert not task.done()
    await clock.advance_async(1.0)
    with pytest.raises(ConnectionError):
        await task
    assert [(event.name, event.latency, event.fault) for event in told] == [("slow", 30.0, "ConnectionError")]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_ends_an_injected_latency(colour: str) -> None:
    """It is injected where the call is made, as if the dependency were slow."""
    chaos = Chaos(rate=1.0, latency=5.0, enabled=True)
    guard = Pipeline(Timeout(0.05), chaos)

    async def fine() -> str:
        return "fine"

    with pytest.raises(CallTimeoutError):
        guard.call(lambda: "fine") if colour == "sync" else asyncio.run(guard.acall(fine))


async def test_a_cancelled_caller_leaves_nothing_pending() -> None:
    """Cancelled in the injected latency, the call ends there."""
    clock = VirtualClock()
    chaos = Chaos(rate=1.0, latency=30.0, enabled=True, clock=clock)
    task = asyncio.create_task(chaos.acall(asyncio.sleep, 0))
    await clock.advance_async(1.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (clock.waiting, asyncio.all_tasks()) == (0, {asyncio.current_task()})


def test_on_for_a_block(drive: Drive) -> None:
    """For everybody while the block lasts; overlapping blocks end one by one."""
    chaos = Chaos(rate=1.0, result=lambda: "broken")
    first, second = chaos.enabled(), chaos.enabled()
    with first:
        assert drive(chaos, lambda: "fine") == "broken"
        second.__enter__()
    assert drive(chaos, lambda: "fine") == "broken"
    second.__exit__(None, None, None)
    assert drive(chaos, lambda: "fine") == "fine"


def test_disable_ends_it_for_everybody(drive: Drive) -> None:
    """The emergency switch wins over a block that is open, and enable() switches on again."""
    chaos = Chaos(rate=1.0, result=lambda: "broken")
    with chaos.enabled():
        chaos.disable()
        assert drive(chaos, lambda: "fine") == "fine"
        chaos.enable()
    assert drive(chaos, lambda: "fine") == "broken"


def test_many_threads_are_counted_exactly() -> None:
    """Each injection counts once."""
    chaos = Chaos(rate=1.0, result=lambda: 0, enabled=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [chaos.call(lambda: 1) for _ in range(200)], range(8)))
    assert chaos.snapshot().injected == 1600
