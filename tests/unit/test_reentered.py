"""A signal handler that uses the policy which it interrupts: it gets its answer, and so does the call.

Each scenario runs in an interpreter of its own: a handler that waits for the thread that it interrupts waits for ever.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient import Timeout
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.collapser import Collapser
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.sweeping import Swept, sweep
from tests.waiting import wait_until

_SECONDS = 10.0  # for one that takes a tenth of a second
_SCRIPT = "from tests.unit import test_reentered as scenarios; scenarios.check(scenarios.{})"


class Twice:
    """A function under a policy; the handler calls it, too, with an argument of its own."""

    def __init__(self, policy: Callable[[Callable[[str], str]], Any], same: bool = False) -> None:
        self.call: Callable[[str], str] = policy(lambda word: word)
        self.told: list[str] = []
        self.word = "main" if same else "handler"
        self.call("warm")

    def run(self) -> None:
        self.told.append(self.call("main"))

    def handle(self) -> None:
        self.told.append(self.call(self.word))

    def problem(self) -> str:
        return "" if sorted(self.told) == sorted(["main", self.word]) else f"answers: {self.told}"


def of(policy: Callable[[], Any], same: bool = False) -> Swept:
    """What is wrong when the handler makes a call through the same policy."""
    return sweep(lambda: Twice(policy(), same), Twice.run, Twice.problem, handler=Twice.handle)


def in_a_timeout() -> Swept:
    """Both calls run in worker threads, which the process shares."""
    return of(lambda: Timeout(60.0))


def in_workers() -> Swept:
    """Both hand a job to the same few threads, none of which is idle, or only one."""

    class Jobs:
        def __init__(self) -> None:
            self.workers = Workers(most=8)
            self.done: list[int] = []
            self.start(0)
            wait_until(lambda: self.workers._idle)

        def start(self, number: int) -> None:
            self.workers.start(lambda: self.done.append(number), policy="test")

        def problem(self) -> str:
            self.start(3)
            return "" if self.workers.threads <= 4 else f"{self.workers.threads} threads"

    return sweep(Jobs, lambda jobs: jobs.start(1), Jobs.problem, handler=lambda jobs: jobs.start(2))


def collapsed(single: Callable[[str], str]) -> Collapser[str, str]:
    def batch(keys: list[str]) -> list[str]:
        return [single(key) for key in keys]

    return Collapser(batch, delay=0.001)


def in_a_collapser() -> Swept:
    """The interrupted thread is about to make the batch call: the handler must not wait for that."""
    return of(lambda: collapsed)


def in_a_collapser_for_the_same_key() -> Swept:
    """The same, for the key that the interrupted thread asks for."""
    return of(lambda: collapsed, same=True)


def in_a_bulkhead() -> Swept:
    """A place each."""
    return of(lambda: Bulkhead(2, max_wait=60.0))


def in_a_rate_limiter() -> Swept:
    """A call each."""
    return of(lambda: RateLimiter(10, max_wait=60.0))


def in_a_cache() -> Swept:
    """A call each."""
    return of(lambda: Cache(60.0))


def in_a_cache_for_the_same_call() -> Swept:
    """The handler can not wait for the call that it interrupts: it makes it again."""
    return of(lambda: Cache(60.0), same=True)


def at_the_counts_of_a_hedge() -> Swept:
    """Who looks at the counts while they change."""

    class Hedged:
        def __init__(self) -> None:
            self.hedge = Hedge(60.0)
            self.looked: list[int] = []

        def run(self) -> None:
            async def fast() -> int:
                return 1

            assert asyncio.run(self.hedge.acall(fast)) == 1

        def handle(self) -> None:
            self.looked.append(self.hedge.snapshot().calls)

        def problem(self) -> str:
            return "" if self.looked in ([0], [1]) else f"saw {self.looked}"

    return sweep(Hedged, Hedged.run, Hedged.problem, handler=Hedged.handle)


def at_the_place_that_a_task_waits_for() -> Swept:
    """The handler frees it, also just before the task parks: no clock moves, so a wake that is lost is lost."""

    class Waiting:
        def __init__(self) -> None:
            self.bulkhead = Bulkhead(1, max_wait=60.0, clock=VirtualClock())
            self.permits = [self.bulkhead.acquire()]
            self.entered = False

        async def enter(self) -> None:
            asyncio.get_running_loop().call_later(0.001, self.free)  # for handlers that come after the task has parked
            async with self.bulkhead.calling():
                self.entered = True

        def run(self) -> None:
            async def bounded() -> None:
                await asyncio.wait_for(self.enter(), 0.2)

            loop.run_until_complete(bounded())

        def free(self) -> None:
            if self.permits:
                self.permits.pop().success()

        def problem(self) -> str:
            return "" if self.entered and not self.bulkhead.snapshot().in_flight else repr(self.bulkhead.snapshot())

    loop = asyncio.new_event_loop()
    try:
        return sweep(Waiting, Waiting.run, Waiting.problem, handler=Waiting.free)
    finally:
        loop.close()


def check(scenario: Callable[[], Swept]) -> None:
    """What each interpreter does."""
    swept = scenario()
    print(swept.places, *swept.problems, sep="\n")


@pytest.mark.parametrize(
    "scenario",
    [
        in_a_timeout,
        in_workers,
        in_a_collapser,
        in_a_collapser_for_the_same_key,
        in_a_bulkhead,
        in_a_rate_limiter,
        in_a_cache,
        in_a_cache_for_the_same_call,
        at_the_counts_of_a_hedge,
        at_the_place_that_a_task_waits_for,
    ],
    ids=lambda scenario: scenario.__name__.replace("_", " "),
)
def test_a_handler_may_use_what_it_interrupts(scenario: Callable[[], Swept]) -> None:
    """At each place where one may run; nobody waits for somebody who can not go on."""
    command = [sys.executable, "-W", "error", "-c", _SCRIPT.format(scenario.__name__)]
    try:
        ended = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"a handler {scenario.__name__.replace('_', ' ')} waits for ever")
    assert ended.returncode == 0, ended.stderr
    places, *problems = ended.stdout.splitlines()
    assert problems == []
    assert int(places) >= 3
