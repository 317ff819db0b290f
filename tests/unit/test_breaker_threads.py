"""One breaker, many threads and tasks: one probe, one opening, every event once and in order, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, CircuitStateChanged, CircuitThresholdReached, Permit, State
from resilient.testing import VirtualClock
from tests.waiting import wait_until


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run `work(0) … work(count - 1)` at once; what one raises is raised here."""
    ready, errors = threading.Barrier(count), list[BaseException]()

    def run(number: int) -> None:
        try:
            ready.wait(10.0)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive(), "a thread is stuck"
    if errors:
        raise errors[0]


def run_script(script: str) -> str:
    """Run it in an interpreter of its own: signals and forks need a main thread."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30.0, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- half-open ----------------------------------------------------------------------------------------------------


def test_64_threads_at_the_end_of_the_open_time_send_one_probe(clock: VirtualClock) -> None:
    """Case 5: one is admitted and 63 are refused, a hundred times in a row."""
    breaker = CircuitBreaker(open_duration=lambda _attempt: 5.0, clock=clock)
    rounds, threads = 100, 64
    go, done = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    admitted: list[Permit] = []

    def work() -> None:
        for _ in range(rounds):
            go.wait(20.0)
            with contextlib.suppress(CircuitOpenError):
                admitted.append(breaker.acquire())
            done.wait(20.0)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    breaker.open()
    for number in range(rounds):
        clock.advance(6.0)
        go.wait(20.0)
        done.wait(20.0)
        assert len(admitted) == 1
        assert breaker.snapshot().rejected == 63 * (number + 1)
        admitted.pop().failure()
        assert breaker.state is State.OPEN
    for worker in workers:
        worker.join(10.0)


def test_64_tasks_on_each_of_4_loops_send_one_probe(clock: VirtualClock) -> None:
    """Case 5 for event loops: the probe hangs until everybody else was refused."""
    breaker = CircuitBreaker(open_duration=lambda _attempt: 5.0, clock=clock)
    refused, probes = list[int](), list[int]()

    async def probe() -> None:
        probes.append(1)
        while len(refused) < 4 * 64 - 1:  # noqa: ASYNC110  # the others are on four loops: no asyncio.Event reaches them
            await asyncio.sleep(0)

    async def call() -> None:
        try:
            await breaker.acall(probe)
        except CircuitOpenError:
            refused.append(1)

    async def all_at_once() -> None:
        await asyncio.gather(*(call() for _ in range(64)))

    for _ in range(5):
        breaker.open()
        clock.advance(6.0)
        refused.clear()
        probes.clear()
        in_threads(4, lambda _: asyncio.run(all_at_once()))
        assert (len(probes), len(refused)) == (1, 255)
        breaker.reset()


def test_a_dropped_probe_frees_its_place_while_the_lock_is_taken(clock: VirtualClock) -> None:
    """Rule 8: `__del__` may run inside any allocation, with the lock held anywhere: it takes none."""
    breaker = CircuitBreaker(clock=clock)
    breaker.open(1.0)
    clock.advance(1.0)
    held = [breaker.acquire()]
    dropped = threading.Thread(target=held.clear, daemon=True)
    with breaker.lock:
        dropped.start()
        dropped.join(10.0)
        assert not dropped.is_alive()
    breaker.acquire().success()
    assert breaker.snapshot().successes == 1


# --- opening ------------------------------------------------------------------------------------------------------


def test_160_failures_at_once_open_once(hectic: None, clock: VirtualClock) -> None:
    """The first five in a row open it; the others are late, and none is lost."""
    heard: list[Any] = []
    breaker = CircuitBreaker(clock=clock, listeners=[heard.append])
    permits = [breaker.acquire() for _ in range(160)]

    def fail(number: int) -> None:
        for permit in permits[number::16]:
            permit.failure()

    in_threads(16, fail)
    assert [type(event) for event in heard] == [CircuitThresholdReached, CircuitStateChanged]
    snapshot = breaker.snapshot()
    assert (snapshot.failed, snapshot.late, snapshot.calls) == (5, 155, 5)


def test_a_permit_settled_by_many_threads_counts_once(hectic: None, clock: VirtualClock) -> None:
    """The first settlement counts, whoever makes it."""
    breaker = CircuitBreaker(clock=clock)
    breaker.metrics_only()
    permits = [breaker.acquire() for _ in range(200)]

    def settle(number: int) -> None:
        for permit in permits:
            (permit.failure if number % 2 else permit.success)()

    in_threads(4, settle)
    snapshot = breaker.snapshot()
    assert snapshot.calls == snapshot.successes + snapshot.failed == 200


def test_every_call_is_counted_once_whatever_the_state(hectic: None, clock: VirtualClock) -> None:
    """Rule 11: attempts = successes + failures + ignored + late, while the circuit opens, probes and closes."""
    breaker = CircuitBreaker(clock=clock, open_duration=0.001, half_open_successes=1, consecutive_failures=3)
    attempts = [0] * 16

    def work(number: int) -> None:
        rng = random.Random(number)
        held: list[Permit] = []
        for _ in range(300):
            try:
                held.append(breaker.acquire())
            except CircuitOpenError:
                clock.advance(0.001)
            if held and rng.random() < 0.7:
                attempts[number] += 1
                permit = held.pop(rng.randrange(len(held)))
                rng.choice([permit.success, permit.failure, permit.ignored])()
        for permit in held:
            permit.unused()

    in_threads(16, work)
    snapshot = breaker.snapshot()
    assert snapshot.successes + snapshot.failed + snapshot.ignored + snapshot.late == sum(attempts)
    assert min(snapshot.successes, snapshot.failed, snapshot.ignored, snapshot.late, snapshot.rejected) > 0


@pytest.mark.parametrize("read", [repr, CircuitBreaker.snapshot], ids=["repr", "snapshot"])
def test_a_reader_waits_for_the_lock(clock: VirtualClock, read: Callable[[CircuitBreaker], object]) -> None:
    """Reading rolls the window: two that roll it at once would push calls out early."""
    breaker = CircuitBreaker(clock=clock)
    reader = threading.Thread(target=read, args=(breaker,), daemon=True)
    with breaker.lock:
        reader.start()
        reader.join(0.05)
        assert reader.is_alive()
    reader.join(10.0)
    assert not reader.is_alive()


def test_a_success_does_not_wait_for_the_lock(clock: VirtualClock) -> None:
    """Threads that are busy succeeding never queue behind one of them, or behind a reader."""
    breaker = CircuitBreaker(clock=clock)
    permits = [breaker.acquire() for _ in range(3)]
    with breaker.lock:
        in_threads(3, lambda number: permits[number].success())
    assert breaker.snapshot().successes == 3


@pytest.mark.parametrize("outcome", ["failure", "ignored"])
def test_a_record_waits_for_the_lock(clock: VirtualClock, outcome: str) -> None:
    """Counting is exact because of the lock, not because of the interpreter's own."""
    breaker = CircuitBreaker(clock=clock)
    settled = threading.Thread(target=getattr(breaker.acquire(), outcome), daemon=True)
    with breaker.lock:
        settled.start()
        settled.join(0.05)
        assert settled.is_alive()
    settled.join(10.0)
    snapshot = breaker.snapshot()
    assert snapshot.successes + snapshot.failed + snapshot.ignored == 1


def test_64_calls_are_inside_at_once(clock: VirtualClock) -> None:
    """No lock is held while a call runs: 64 threads meet inside the guarded function."""
    breaker = CircuitBreaker(clock=clock)
    meeting = threading.Barrier(64)

    @breaker
    def meet() -> int:
        return meeting.wait(10.0)

    in_threads(64, lambda _: meet())
    assert breaker.snapshot().successes == 64


# --- listeners ----------------------------------------------------------------------------------------------------


def test_events_of_16_threads_arrive_in_the_order_of_the_changes(hectic: None, clock: VirtualClock) -> None:
    """Rule 15: each event begins where the one before ended: none is lost, doubled or overtaken."""
    heard: list[CircuitStateChanged] = []
    breaker = CircuitBreaker(clock=clock, listeners=[heard.append])

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(200):
            rng.choice([breaker.force_open, breaker.disable, breaker.metrics_only, breaker.reset])()

    in_threads(16, work)
    wait_until(lambda: heard[-1].new is breaker.state, what="the last event")
    assert heard[0].old is State.CLOSED
    assert [event.old for event in heard[1:]] == [event.new for event in heard[:-1]]
    assert len(heard) > 100


def test_a_listener_may_use_the_breaker(clock: VirtualClock) -> None:
    """A listener that reads, calls and changes the breaker meets no lock; what it causes is told after it."""
    heard: list[tuple[str, State, State]] = []

    def first(event: Any) -> None:
        if isinstance(event, CircuitStateChanged):
            heard.append(("first", event.old, event.new))
            if event.new is State.OPEN:
                assert breaker.snapshot().state is State.OPEN
                assert "OPEN" in repr(breaker)
                breaker.reset()
                breaker.acquire().success()

    def second(event: Any) -> None:
        if isinstance(event, CircuitStateChanged):
            heard.append(("second", event.old, event.new))

    breaker = CircuitBreaker(clock=clock, consecutive_failures=1, listeners=[first, second])
    breaker.acquire().failure()
    assert breaker.state is State.CLOSED
    assert heard == [
        ("first", State.CLOSED, State.OPEN),
        ("second", State.CLOSED, State.OPEN),
        ("first", State.OPEN, State.CLOSED),
        ("second", State.OPEN, State.CLOSED),
    ]


def test_a_slow_listener_delays_one_caller(clock: VirtualClock) -> None:
    """Rule 15: while one thread is in a listener the others call and change on; it delivers what they caused."""
    entered, release = threading.Event(), threading.Event()
    heard: list[CircuitStateChanged] = []

    def slow(event: CircuitStateChanged) -> None:
        entered.set()
        release.wait(10.0)
        heard.append(event)

    breaker = CircuitBreaker(clock=clock, listeners=[slow])
    delayed = threading.Thread(target=breaker.disable, daemon=True)
    delayed.start()
    assert entered.wait(10.0)
    assert breaker.call(lambda: "not delayed") == "not delayed"
    breaker.metrics_only()
    breaker.reset()
    assert (breaker.state, heard) == (State.CLOSED, [])
    release.set()
    delayed.join(10.0)
    assert [event.new for event in heard] == [State.DISABLED, State.METRICS_ONLY, State.CLOSED]


# --- signals and forks --------------------------------------------------------------------------------------------

INTERRUPTED = """
import random, signal, sys, threading
from resilient import CircuitBreaker

class Stop(BaseException):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGALRM, stop)
breaker = CircuitBreaker("interrupted")
guarded = breaker(lambda: None)
sys.setswitchinterval(1e-5)
done = False

def contend():
    while not done:
        guarded()

threading.Thread(target=contend, daemon=True).start()
for _ in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 1e-4))
        while True:
            guarded()
    except Stop:
        pass
done = True
other = threading.Thread(target=guarded, daemon=True)
other.start()
other.join(5.0)
print("stuck" if other.is_alive() else "usable")
"""


def test_a_signal_handler_that_raises_leaves_the_lock_free() -> None:
    """Ctrl-C, a soft time limit or an alarm may strike between any two steps of a call; other threads go on."""
    assert run_script(INTERRUPTED) == "usable"


REENTERED = """
import faulthandler, random, signal
from resilient import CircuitBreaker

faulthandler.dump_traceback_later(20.0, exit=True)
breaker = CircuitBreaker("reentered")
breaker.acquire().failure()  # with something bad in the window each call is judged, in more steps under the lock
guarded = breaker(lambda: None)
calls = handled = 0

def handle(*_):
    global handled
    guarded()
    handled += 1

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
while handled < 400:
    guarded()
    calls += 1
signal.setitimer(signal.ITIMER_REAL, 0.0)
print("counted" if abs(breaker.snapshot().successes - calls - handled) <= 1 else "lost")
"""


def test_a_signal_handler_may_call_through_the_breaker_it_interrupts() -> None:
    """The same holds for a `__del__` run by the collector: the lock is reentrant."""
    assert run_script(REENTERED) == "counted"


FORKED = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from resilient import CircuitBreaker, CircuitOpenError
from resilient.testing import VirtualClock

clock = VirtualClock()
breaker = CircuitBreaker("forked", consecutive_failures=1, clock=clock)
half_open = CircuitBreaker("half-open", clock=clock)
half_open.open(1.0)
clock.advance(1.0)
probe = half_open.acquire()
taken, release = threading.Event(), threading.Event()

def hold():
    with breaker.lock, half_open.lock:
        taken.set()
        release.wait(20.0)

threading.Thread(target=hold, daemon=True).start()
taken.wait(5.0)
reader, writer = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        breaker.call(lambda: None)
        half_open.acquire().success()  # the parent's probe takes no place here
        breaker.acquire().failure()
        try:
            breaker.acquire()
        except CircuitOpenError as error:
            os.write(writer, f"{error.retry_after!r}\\n".encode())
        os._exit(0)
codes = {os.wait()[1] for _ in range(3)}
release.set()
times = os.read(reader, 1000).split()
print(codes, len(times), len(set(times)))
"""


def test_a_forked_child_is_free_of_its_parents_threads() -> None:
    """Rule 28: locks and probes of the parent's threads do not exist in it; each child draws its own chance."""
    assert run_script(FORKED) == "{0} 3 3"
