"""Ctrl-C anywhere: after an interrupt at any place of a call nothing is held any more, and the next call works."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    Pipeline,
    Retry,
    RetryBudget,
    State,
    Timeout,
)
from resilient.places import held
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.collapser import Collapser
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.sweeping import Swept, sweep

_HANGS = 0.3  # seconds in which another thread answers, or never will


@dataclass
class Guarded:
    """A policy, a function under it, and how often that function is going to fail."""

    policy: Any
    failures: int = 0
    error: type[Exception] = ConnectionError

    def __post_init__(self) -> None:
        self.guarded: Callable[[], str] = self.policy(self.work)
        self.guarded()  # what is made on first use is made

    def work(self) -> str:
        if self.failures:
            self.failures -= 1
            raise self.error
        return "good"

    def run(self) -> None:
        with contextlib.suppress(self.error):
            self.guarded()


def left_behind() -> str:
    """What the interrupted call left in its thread or its context."""
    if held.places:
        held.places.clear()
        return "a place in the thread"
    return "a deadline in the context" if Deadline.current() is not None else ""


def after(state: Guarded) -> str:
    """What was left behind, else whether the next call does not work."""
    state.failures = 0
    left = left_behind()
    return left or ("" if state.guarded() == "good" else "no answer")


def elsewhere(call: Callable[[], object]) -> str:
    """Whether `call` does not come back from another thread, where it may have to wait for somebody."""
    told: list[object] = []
    threading.Thread(target=lambda: told.append(call()), daemon=True).start()
    return "" if soon(lambda: bool(told)) else "callers in other threads wait for ever"


def soon(condition: Callable[[], bool]) -> bool:
    """Whether `condition` comes true before somebody must be hanging."""
    end = time.monotonic() + _HANGS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


def fine(swept: Swept, places: int = 8) -> bool:
    """No problem at any of the places, which are at least so many: else nothing was tried."""
    assert swept.problems == []
    return swept.places >= places


# --- retry, timeout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2, 5], ids=["recovers", "recovers late", "gives up"])
def test_an_interrupted_retry_holds_no_budget_and_leaves_no_mark(failures: int) -> None:
    """The extra call's permit is back, and the next call in this context is repeated as if nothing had been."""

    def make() -> Guarded:
        made = Guarded(Retry(attempts=3, wait=0.0, on=ConnectionError))
        made.failures = failures
        return made

    def problem(state: Guarded) -> str:
        if in_flight := state.policy.budget.snapshot().in_flight:
            return f"{in_flight} extra calls in flight"
        if waiting := state.policy.snapshot().waiting:
            return f"{waiting} callers wait"
        state.failures = 1
        try:
            state.guarded()
        except ConnectionError:
            return "the next call is not repeated"
        return left_behind()

    assert fine(sweep(make, Guarded.run, problem), 30)


def test_an_interrupted_budget_has_all_its_places() -> None:
    """A permit that was being made when the interrupt came does not count as a call that never ends."""

    def run(budget: RetryBudget) -> None:
        budget.deposit()
        permit = budget.take()
        assert permit is not None
        permit.release()

    def problem(budget: RetryBudget) -> str:
        taken = [budget.take(), budget.take()]
        return "" if None not in taken else f"a place is lost: {budget.snapshot()}"

    made = sweep(lambda: RetryBudget(ratio=0.0, minimum_in_flight=2), run, problem)
    assert fine(made)


@pytest.mark.parametrize("thread", [True, False], ids=["in a worker", "in this thread"])
def test_an_interrupted_timeout_leaves_no_deadline(thread: bool) -> None:
    """What this thread does next has all the time that it wants."""
    assert fine(sweep(lambda: Guarded(Timeout(5.0, thread=thread)), Guarded.run, after))


def test_an_interrupt_while_a_job_is_handed_over_loses_no_worker() -> None:
    """The only thread there may be notices that no job came, and another one may be started."""

    def make() -> Workers:
        workers = Workers(most=1, keep=0.005)
        workers.start(int, policy="test")
        return workers

    def start(workers: Workers) -> bool:
        with contextlib.suppress(BulkheadFullError):
            workers.start(int, policy="test")
            return True
        return False

    def run(workers: Workers) -> None:
        assert soon(lambda: start(workers))

    def problem(workers: Workers) -> str:
        return "" if soon(lambda: start(workers)) else f"{workers.threads} threads, none of them works"

    assert fine(sweep(make, run, problem), 4)


# --- gates ----------------------------------------------------------------------------------------------------------


def in_block(state: Guarded) -> None:
    """The call in a `calling()` block."""
    with contextlib.suppress(ConnectionError), state.policy.calling():
        state.work()


@pytest.mark.parametrize("failures", [0, 1], ids=["good", "failed"])
@pytest.mark.parametrize("run", [Guarded.run, in_block], ids=["call", "block"])
@pytest.mark.parametrize(
    "policy",
    [lambda: ConcurrencyLimiter(), lambda: Bulkhead(1), lambda: Bulkhead(1, max_wait=0.05)],
    ids=["concurrency limiter", "bulkhead", "bulkhead that waits"],
)
def test_an_interrupted_call_gives_its_place_back(
    policy: Callable[[], Any], run: Callable[[Guarded], None], failures: int
) -> None:
    """Nothing is in flight, whatever the layer was about: to admit, to call, to judge, to settle."""

    def make() -> Guarded:
        made = Guarded(policy())
        made.failures = failures
        return made

    def problem(state: Guarded) -> str:
        in_flight = state.policy.snapshot().in_flight
        return f"{in_flight} in flight" if in_flight else after(state)

    assert fine(sweep(make, run, problem))


def test_an_interrupt_in_the_line_leaves_the_line() -> None:
    """Who waits for a place and is interrupted is not waiting; the place passes to who comes next."""

    @dataclass
    class Full:
        bulkhead: Bulkhead

        def __post_init__(self) -> None:
            self.run()
            self.permit: Any = self.bulkhead.acquire()

        def run(self) -> None:
            with contextlib.suppress(BulkheadFullError):
                self.bulkhead.call(int)

    def problem(state: Full) -> str:
        state.run()  # who was interrupted before it parked leaves when its time is over
        if state.bulkhead.snapshot().waiting:
            return "it still waits"
        state.permit.success()
        state.bulkhead.call(int)
        return f"{n} in flight" if (n := state.bulkhead.snapshot().in_flight) else left_behind()

    assert fine(sweep(lambda: Full(Bulkhead(1, max_wait=0.001)), Full.run, problem), 20)


def test_an_interrupted_rate_limiter_counts_the_call_or_does_not() -> None:
    """A period later the whole rate is there again."""
    clock = VirtualClock()

    def problem(state: Guarded) -> str:
        clock.advance(1.0)
        told = state.policy.snapshot()
        return after(state) if (told.available, told.waiting) == (2, 0) else repr(told)

    assert fine(sweep(lambda: Guarded(RateLimiter(2, max_wait=0.5, clock=clock)), Guarded.run, problem))


@pytest.mark.parametrize("failures", [0, 1], ids=["good", "failed"])
@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN])
def test_an_interrupted_call_does_not_keep_the_probes_place(state: State, failures: int) -> None:
    """A circuit that probes goes on to probe, and closes; one that is closed stays so."""
    clock = VirtualClock()

    def make() -> Guarded:
        made = Guarded(CircuitBreaker(clock=clock, open_duration=1.0))
        if state is State.HALF_OPEN:
            made.policy.open(1.0)
            clock.advance(1.0)
        made.failures = failures
        return made

    def problem(made: Guarded) -> str:
        if made.policy.state is State.OPEN:  # the probe had failed
            clock.advance(2.0)
        made.failures = 0
        try:
            for _ in range(3):
                made.guarded()
        except CircuitOpenError as error:
            return f"refused: {error}"
        return left_behind() or ("" if made.policy.state is State.CLOSED else repr(made.policy))

    assert fine(sweep(make, Guarded.run, problem), 5)


def test_an_interrupted_refusal_leaves_the_circuit_open() -> None:
    """Until its time has come, and not longer."""
    clock = VirtualClock()

    def make() -> Guarded:
        made = Guarded(CircuitBreaker(clock=clock), error=CircuitOpenError)
        made.policy.open(5.0)
        return made

    def problem(made: Guarded) -> str:
        if made.policy.state is not State.OPEN:
            return repr(made.policy)
        clock.advance(5.0)
        return after(made)

    assert fine(sweep(make, Guarded.run, problem), 4)


def test_an_interrupted_call_to_a_pool_loses_no_thread() -> None:
    """A pool of one thread has one afterwards, as soon as what was handed over has ended."""

    def make() -> Guarded:
        made = Guarded(ThreadPoolBulkhead(1))
        assert soon(lambda: not made.policy.snapshot().active)
        return made

    def works(state: Guarded) -> bool:
        with contextlib.suppress(BulkheadFullError):
            return state.guarded() == "good"
        return False

    def problem(state: Guarded) -> str:
        return left_behind() if soon(lambda: works(state)) else repr(state.policy.snapshot())

    assert fine(sweep(make, Guarded.run, problem), 20)


def test_an_interrupt_anywhere_in_a_pipeline_leaves_it_whole() -> None:
    """Several policies around one call are each as they were."""

    def make() -> Guarded:
        bulkhead = Bulkhead(1, max_wait=0.05)
        made = Guarded(
            Pipeline(Retry(attempts=2, wait=0.0), ConcurrencyLimiter(), bulkhead, Timeout(5.0, thread=False))
        )
        made.failures = 1
        return made

    assert fine(sweep(make, Guarded.run, after), 60)


# --- calls that are shared ------------------------------------------------------------------------------------------


@dataclass
class Shared:
    """A cache, or a collapser: everybody asks for the same."""

    ask: Callable[[int], int]

    def __post_init__(self) -> None:
        self.ask(0)

    def run(self) -> None:
        assert self.ask(1) == 1

    def run_with_deadline(self) -> None:
        assert Timeout(5.0, thread=False).call(self.ask, 1) == 1


@pytest.mark.parametrize("run", [Shared.run, Shared.run_with_deadline], ids=["in this thread", "in a worker"])
def test_an_interrupted_call_of_a_cache_is_not_waited_for(run: Callable[[Shared], None]) -> None:
    """Whoever asks for it next makes it; nobody waits for a call that nobody makes."""
    swept = sweep(
        lambda: Shared(Cache(60.0)(lambda number: number)),
        run,
        lambda state: left_behind() or elsewhere(lambda: state.ask(1)) or elsewhere(lambda: state.ask(2)),
    )
    assert fine(swept, 20)


@pytest.mark.parametrize("run", [Shared.run, Shared.run_with_deadline], ids=["in this thread", "in a worker"])
def test_an_interrupted_batch_is_not_waited_for(run: Callable[[Shared], None]) -> None:
    """Nobody joins a batch that nobody is going to make."""

    def same(keys: list[int]) -> list[int]:
        return keys

    def make() -> Shared:
        return Shared(Collapser(same, delay=0.0))

    def problem(state: Shared) -> str:
        hangs = left_behind() or elsewhere(lambda: state.ask(1))
        collapser: Any = state.ask
        return hangs or ("" if soon(lambda: not collapser.snapshot().waiting) else repr(collapser.snapshot()))

    assert fine(sweep(make, run, problem), 30)


def test_those_who_share_the_batch_of_an_interrupted_caller_are_told() -> None:
    """Wherever the interrupt comes, also while the answers are handed out, the others get theirs."""

    class Call:
        def __init__(self) -> None:
            self.ask: Collapser[int, int] = Collapser(lambda keys: keys, delay=0.02, max_size=3)
            self.told: list[int] = []
            self.gone = False
            self.threads = [threading.Thread(target=self.join, args=(number,), daemon=True) for number in (2, 3)]

        def join(self, number: int) -> None:
            while not self.ask.snapshot().waiting and not self.gone:
                time.sleep(0.0001)
            self.told.append(self.ask(number))

        def run(self) -> None:
            for thread in self.threads:
                thread.start()
            try:
                self.ask(1)
            finally:
                self.gone = True

        def problem(self) -> str:
            self.gone = True
            return "" if soon(lambda: len(self.told) == 2) else f"only {self.told} of 2, 3 were told"

    assert fine(sweep(Call, Call.run, Call.problem), 30)
