"""`use_clock`, `disabled` and `reset`: for policies made before and meanwhile, in both colours, in every thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Command,
    ConfigError,
    Deadline,
    Fallback,
    Keyed,
    Pipeline,
    Policy,
    StaleCache,
    State,
    Timeout,
    names,
)
from resilient.clock import REAL_CLOCK, SYSTEM_CLOCK
from resilient.testing import (
    FaultyTransport,
    ScriptedDependency,
    Step,
    VirtualClock,
    disabled,
    fail,
    ok,
    reset,
    use_clock,
)
from resilient.transport import ResilientTransport
from tests.drive import Drive

Make = Callable[[CircuitBreaker, Callable[..., Any]], Callable[..., Any]]


def alone(breaker: CircuitBreaker, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The breaker as the only decorator."""
    return breaker(fn)


def in_a_pipeline(breaker: CircuitBreaker, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The breaker in a chain of layers."""
    return Pipeline(Timeout(60.0, thread=False), breaker)(fn)


def called(breaker: CircuitBreaker, fn: Callable[..., Any]) -> Callable[..., Any]:
    """No decorator."""
    return lambda *args: breaker.call(fn, *args)


def asynchronous(make: Make) -> Make:
    """The same with an async function, run on a loop of its own."""

    def made(breaker: CircuitBreaker, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def afn(*args: Any) -> Any:
            return fn(*args)

        guarded = make(breaker, afn)
        return lambda *args: asyncio.run(guarded(*args))

    return made


def plays(*steps: Step) -> Callable[[], str]:
    """A function that answers by script."""
    return ScriptedDependency(*steps).__call__


WAYS = [alone, in_a_pipeline, called, asynchronous(alone), asynchronous(in_a_pipeline)]
IDS = ["alone", "pipeline", "call", "alone async", "pipeline async"]


def fails(times: int, guarded: Callable[..., Any]) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            guarded()


# --- use_clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", WAYS, ids=IDS)
def test_a_guarded_function_from_before_runs_on_the_clock_in_use(make: Make) -> None:
    """Open for 5 s of virtual time, half-open after it, and no real second passes."""
    breaker = CircuitBreaker(consecutive_failures=2, open_duration=5.0, rng=lambda: 0.0)
    guarded = make(breaker, plays(fail(times=2), ok("well")))
    with use_clock(VirtualClock()) as clock:
        fails(2, guarded)
        with pytest.raises(CircuitOpenError) as caught:
            guarded()
        assert caught.value.retry_after == 5.0
        clock.advance(5.0)
        assert guarded() == "well"
        assert breaker.state is State.HALF_OPEN


@pytest.mark.parametrize("make", WAYS, ids=IDS)
def test_what_a_call_takes_is_measured_on_the_clock_in_use(make: Make) -> None:
    """A call during which the virtual clock moves 2 s is slow, whatever real time it took."""
    breaker = CircuitBreaker(slow_call_duration=1.0)
    with use_clock(VirtualClock()) as clock:
        make(breaker, lambda: clock.advance(2.0))()
        assert breaker.snapshot().slow == 1
    make(breaker, lambda: None)()
    assert breaker.snapshot().slow == 0


def test_a_policy_made_meanwhile_goes_back_to_real_time_afterwards() -> None:
    """Nothing stays behind on a clock that nobody advances any more."""
    with use_clock(VirtualClock()):
        breaker = CircuitBreaker()
        assert breaker.now() == 1000.0
    before = time.monotonic()
    assert before <= breaker.now() <= time.monotonic()
    assert breaker(time.monotonic)() >= before
    assert before <= breaker.snapshot().at


def test_a_policy_with_a_clock_of_its_own_keeps_it(clock: VirtualClock) -> None:
    """It was told; its state stays as well, even when its clock is the one in use."""
    mine = CircuitBreaker("mine", clock=clock)
    same = CircuitBreaker("same", clock=(other := VirtualClock(7.0)))
    mine.force_open()
    same.force_open()
    with use_clock(other):
        assert (mine.now(), same.now()) == (1000.0, 7.0)
    assert (mine.now(), same.now()) == (1000.0, 7.0)
    assert (mine.state, same.state) == (State.FORCED_OPEN, State.FORCED_OPEN)


def test_blocks_nest_and_the_innermost_clock_counts() -> None:
    """Leaving the inner block brings the outer clock back."""
    breaker = CircuitBreaker()
    with use_clock(VirtualClock(1.0)):
        with use_clock(VirtualClock(2.0)):
            assert breaker.now() == SYSTEM_CLOCK.monotonic() == 2.0
        assert breaker.now() == SYSTEM_CLOCK.monotonic() == 1.0
    assert SYSTEM_CLOCK.monotonic is time.monotonic
    assert breaker.now is time.monotonic


def test_whatever_changes_its_clock_begins_as_new() -> None:
    """A moment of one clock means nothing on another: circuits close, caches are empty, both ways."""
    breaker, cache = CircuitBreaker(), StaleCache(max_age=60.0)
    remembered = cache(plays(ok("sunny")))
    remembered()
    breaker.open()
    with use_clock(VirtualClock()):
        assert (breaker.state, len(cache)) == (State.CLOSED, 0)
        remembered()
        breaker.open()
    assert (breaker.state, len(cache)) == (State.CLOSED, 0)


def test_a_stale_cache_from_before_ages_by_the_clock_in_use() -> None:
    """Its answers are too old when the virtual clock says so."""
    weather = Pipeline(StaleCache(max_age=60.0))(plays(ok("sunny"), fail()))
    with use_clock(VirtualClock()) as clock:
        weather()
        clock.advance(59.0)
        assert weather() == "sunny"
        clock.advance(2.0)
        with pytest.raises(ConnectionError):
            weather()


async def test_an_async_timeout_from_before_fires_by_the_clock_in_use() -> None:
    """Commands, timeouts and deadlines read one clock."""

    @resilient.command("slow", timeout=2.0)
    async def slow() -> None:
        await asyncio.Event().wait()

    with use_clock(VirtualClock()) as clock, Deadline(3.0) as deadline:
        call = asyncio.ensure_future(slow())
        await clock.advance_async(1.9)
        assert not call.done()
        await clock.advance_async(0.2)
        with pytest.raises(resilient.CallTimeoutError):
            await call
        assert deadline.remaining == pytest.approx(0.9)


def test_what_waits_for_sockets_stays_in_real_time() -> None:
    """A test's clock does not reach them."""
    with use_clock(VirtualClock()):
        assert REAL_CLOCK.monotonic is time.monotonic


def test_no_clock_is_refused() -> None:
    """The error says what is missing."""
    with pytest.raises(ConfigError, match="has no monotonic"), use_clock(object()):  # type: ignore[type-var]
        pass
    assert SYSTEM_CLOCK.monotonic is time.monotonic


# --- disabled -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", WAYS, ids=IDS)
def test_a_guarded_function_is_called_as_if_undecorated(make: Make) -> None:
    """Nothing is refused and nothing counted; afterwards the policy is where it was."""
    breaker = CircuitBreaker(consecutive_failures=2)
    dependency = ScriptedDependency(fail())
    guarded = make(breaker, dependency.__call__)
    fails(2, guarded)
    with disabled():
        fails(50, guarded)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().failed == 2
    with pytest.raises(CircuitOpenError):
        guarded()
    assert len(dependency.calls) == 52


@pytest.mark.parametrize("make", WAYS, ids=IDS)
def test_what_is_decorated_meanwhile_is_guarded_afterwards(make: Make) -> None:
    """An application that is imported inside the block is whole after it."""
    breaker = CircuitBreaker(consecutive_failures=2)
    with disabled():
        guarded = make(breaker, plays(fail()))
        fails(3, guarded)
    fails(2, guarded)
    with pytest.raises(CircuitOpenError):
        guarded()


def test_a_policy_that_can_not_guard_a_function_says_so_all_the_same() -> None:
    """A mistake at decoration does not wait for the end of the block."""

    async def instead() -> int:
        return 1

    def fn() -> int:
        return 2

    with disabled(), pytest.raises(ConfigError):
        Pipeline(Fallback(instead))(fn)


def test_predicates_are_not_asked() -> None:
    """Nothing judges a result that nobody counts."""
    asked: list[int] = []

    def judged(result: int) -> bool:
        asked.append(result)
        return False

    @CircuitBreaker(on_result=judged)
    def guarded() -> int:
        return 5

    with disabled():
        assert (guarded(), asked) == (5, [])
    assert (guarded(), asked) == (5, [5])


def test_fallbacks_timeouts_and_caches_are_transparent(drive: Drive) -> None:
    """The error of the call leaves as it is."""
    guard: Policy[Any] = Pipeline(Fallback(value="instead"), StaleCache(max_age=1.0), Timeout(5.0))
    with disabled():
        with pytest.raises(ConnectionError):
            drive(guard, plays(fail()))
        assert drive(guard, threading.get_ident) == threading.get_ident()
    assert drive(guard, plays(fail())) == "instead"


async def test_blocks_and_permits_are_free() -> None:
    """A gate that is forced open lets everybody in, and counts nobody."""
    breaker = CircuitBreaker()
    breaker.force_open()
    with disabled():
        permit = breaker.acquire()
        for settle in (permit.success, permit.failure, permit.ignored, permit.unused):
            settle()
        with breaker.calling() as permit, permit:
            permit.failure(ValueError())
        async with breaker.calling() as permit:
            permit.success()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    assert (breaker.snapshot().calls, breaker.snapshot().rejected) == (0, 1)


def test_blocks_of_disabled_nest_and_cross_with_clocks() -> None:
    """The last one to leave switches the policies on, on the clock that is in use then."""
    breaker = CircuitBreaker(consecutive_failures=1)
    guarded = breaker(plays(fail()))
    with use_clock(VirtualClock()) as clock:
        with disabled():
            with disabled():
                fails(2, guarded)
            fails(2, guarded)
        fails(1, guarded)
        assert breaker.snapshot().since == clock.monotonic()
        with pytest.raises(CircuitOpenError):
            guarded()


def test_every_thread_is_reached() -> None:
    """The switch is the process's, not the thread's."""
    breaker = CircuitBreaker()
    breaker.force_open()
    guarded = breaker(threading.get_ident)
    found: list[int] = []
    with disabled():
        thread = threading.Thread(target=lambda: found.append(guarded()))
        thread.start()
        thread.join()
    assert found == [thread.ident]


def test_a_transport_is_transparent_too() -> None:
    """Its balancing goes on, its circuits do not count."""
    down = FaultyTransport(httpx.MockTransport(lambda request: httpx.Response(500)))
    transport = ResilientTransport("static://producer=127.0.0.1:1", transport=lambda _: down)
    with httpx.Client(transport=transport) as client:
        with disabled():
            assert {client.get("http://producer/").status_code for _ in range(30)} == {500}
        breaker = transport.pipeline("producer").policies[0]
        assert isinstance(breaker, CircuitBreaker)
        assert breaker.snapshot().failed == 0
        client.get("http://producer/")
        assert breaker.snapshot().failed == 1


def test_the_guarded_function_is_the_same_object_and_keeps_its_face() -> None:
    """References that the application handed out are reached; signature and command stay."""

    @resilient.command("face")
    def face(number: int) -> int:
        """Doc."""
        return number

    kept, breaker = face, Command.of(face).breaker
    assert breaker is not None
    with disabled():
        assert (kept(3), face.__doc__, Command.of(face).name) == (3, "Doc.", "face")
    assert breaker.snapshot().calls == 0
    assert face(4) == 4
    assert breaker.snapshot().calls == 1


# --- reset ----------------------------------------------------------------------------------------------------------


def test_every_policy_is_as_new() -> None:
    """States set by hand, counts, totals, caches, values of a Keyed; with a clock of their own or not."""
    breaker, other = CircuitBreaker("one"), CircuitBreaker("other", clock=VirtualClock())
    keyed: Keyed[str, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(f"of.{key}"))
    cache = StaleCache(max_age=60.0)
    cache(plays(ok("sunny")))()
    for one in (breaker, keyed["a"]):
        fails(5, partial(one.call, plays(fail())))
        with pytest.raises(CircuitOpenError):
            one.call(plays(fail()))
    other.force_open()
    reset()
    for one in (breaker, other, keyed["a"]):
        snapshot = one.snapshot()
        assert (snapshot.state, snapshot.calls, snapshot.rejected, snapshot.failed) == (State.CLOSED, 0, 0, 0)
    assert len(cache) == 0


def test_names_are_free_although_their_holders_live() -> None:
    """A test may make a breaker of the name that an earlier test's has, without a number."""
    first = CircuitBreaker("db")
    reset()
    second = CircuitBreaker("db")
    assert (first.name, second.name) == ("db", "db")


def test_a_policy_from_before_a_reset_is_still_reached() -> None:
    """The application's own breakers live as long as the process: each reset and each switch finds them."""
    breaker = CircuitBreaker("of the application")
    reset()
    breaker.force_open()
    reset()
    assert breaker.state is State.CLOSED
    with use_clock(VirtualClock(3.0)):
        assert breaker.now() == 3.0
    assert breaker in names.living()


def test_the_first_fallback_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """What is told once per kind of error is told once per test."""
    guarded = Fallback(value="instead")(plays(fail()))
    for _ in range(2):
        guarded()
        guarded()
        reset()
    assert len([record for record in caplog.records if "its fallback answers" in record.message]) == 2
