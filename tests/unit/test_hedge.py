"""Hedging at its edges: losers that do not go, answers nobody gets, contexts, colours, arguments."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import json
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CallTimeoutError, CircuitBreaker, ConfigError, Pipeline, Timeout
from resilient.budget import RetryBudget
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.hedge import Hedge
from resilient.policies.hedge_latency import Latencies
from resilient.testing import VirtualClock


def generous(clock: VirtualClock) -> RetryBudget:
    """A budget that is not in the way."""
    return RetryBudget(1.0, minimum_in_flight=100, clock=clock)


def racing(clock: VirtualClock, **options: Any) -> Hedge:
    """Two calls at once."""
    return Hedge(0, budget=generous(clock), clock=clock, **options)


class Response:
    """What an async client gives."""

    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        """Takes a round of the loop."""
        await asyncio.sleep(0)
        self.closed += 1


class SyncResponse(Response):
    """What another client gives."""

    aclose = None  # type: ignore[assignment]  # it has none

    def close(self) -> None:
        """At once."""
        self.closed += 1


class BrokenResponse(Response):
    """Its end raises."""

    async def aclose(self) -> None:
        """A bug."""
        self.closed += 1
        raise OSError("already gone")


def one_after_the_other(clock: VirtualClock, *steps: Callable[[], Any]) -> Callable[[], Any]:
    """An async function whose n-th call does the n-th step."""
    left = list(steps)

    async def fetch() -> Any:
        return await left.pop(0)()

    return fetch


async def hang() -> None:
    """Until cancelled."""
    await asyncio.Event().wait()


def background() -> set[asyncio.Task[Any]]:
    """Tasks besides this one."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def test_sync_functions_are_refused_at_decoration() -> None:
    """With the reason and what to do instead; a pipeline with a Hedge in it refuses them too."""

    def fetch() -> None: ...

    for policy in (Hedge(0.1), Pipeline(Hedge(0.1))):
        with pytest.raises(ConfigError, match=r"async functions only.*can not be cancelled.*Retry"):
            policy(fetch)
        with pytest.raises(ConfigError, match="async functions only"):
            policy.call(fetch)


@pytest.mark.parametrize("kind", [Response, SyncResponse, BrokenResponse])
async def test_the_answer_of_a_loser_is_closed(clock: VirtualClock, kind: type[Response]) -> None:
    """One that came in the same moment, and one that came in spite of the cancellation; the winner's is not."""
    winner, same_moment, late = kind(), kind(), kind()

    async def stubborn() -> Response:
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return late

    async def now(answer: Response) -> Response:
        return answer

    fetch = one_after_the_other(clock, lambda: now(winner), lambda: now(same_moment), stubborn)
    assert await racing(clock, extra=2).acall(fetch) is winner
    assert (winner.closed, same_moment.closed, late.closed) == (0, 1, 1)
    assert background() == set()


async def test_an_answer_that_two_calls_share_is_not_closed(clock: VirtualClock) -> None:
    """A cache further in may give both the same object."""
    shared = Response()

    async def fetch() -> Response:
        return shared

    assert await racing(clock).acall(fetch) is shared
    assert shared.closed == 0


async def test_a_bad_answer_that_was_passed_over_is_closed(clock: VirtualClock) -> None:
    """`on_result` disliked the first; when all are disliked the last is returned, open."""
    first, second = Response(), Response()

    async def give(answer: Response) -> Response:
        return answer

    hedge = Hedge(1.0, on_result=lambda answer: answer is first, clock=clock)
    fetch = one_after_the_other(clock, lambda: give(first), lambda: give(second))
    assert await hedge.acall(fetch) is second
    assert (first.closed, second.closed) == (1, 0)

    hedge = Hedge(1.0, on_result=lambda _: True, clock=clock)
    fetch = one_after_the_other(clock, lambda: give(first), lambda: give(second))
    assert await hedge.acall(fetch) is second
    assert (first.closed, second.closed) == (2, 0)


async def test_a_loser_that_does_not_go_is_left_behind(clock: VirtualClock) -> None:
    """Rule 25: waited for 50 ms, then held until it ends; its error is swallowed."""
    go = asyncio.Event()

    async def deaf() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        raise OSError("too late for anybody")

    async def quick() -> str:
        await clock.sleep_async(0.01)
        return "fine"

    task = asyncio.ensure_future(racing(clock).acall(one_after_the_other(clock, deaf, quick)))
    await clock.advance_async(0.01)
    await clock.advance_async(0.049)
    assert not task.done()
    await clock.advance_async(0.002)
    assert await task == "fine"
    gc.collect()
    assert len(background()) == 2  # the call, and who waits for its end
    go.set()
    await clock.advance_async(0.0)
    assert (background(), clock.waiting) == (set(), 0)


async def test_a_caller_who_leaves_while_losers_are_waited_for_leaks_no_answer(clock: VirtualClock) -> None:
    """The winner's answer reaches nobody any more: it is closed."""
    answer, go = Response(), asyncio.Event()

    async def deaf() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async def quick() -> Response:
        return answer

    task = asyncio.ensure_future(racing(clock).acall(one_after_the_other(clock, deaf, quick)))
    await clock.advance_async(0.01)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await clock.advance_async(0.0)
    assert (answer.closed, background(), clock.waiting) == (1, set(), 0)


async def test_each_call_has_a_context_of_its_own(clock: VirtualClock) -> None:
    """It sees the caller's variables; what it sets is seen by nobody else."""
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word")
    word.set("caller")
    seen: list[str] = []

    async def fetch() -> None:
        seen.append(word.get())
        word.set("call")
        await asyncio.sleep(0)
        raise ConnectionError("again")

    with pytest.raises(ConnectionError):
        await racing(clock, extra=2).acall(fetch)
    assert seen == ["caller"] * 3
    assert word.get() == "caller"


async def test_each_call_takes_its_own_permits(clock: VirtualClock) -> None:
    """Gates further in see every call: the loser is cancelled, no verdict, and gives its place back."""
    breaker, limiter = CircuitBreaker("inside", clock=clock), ConcurrencyLimiter(name="inside", clock=clock)
    guard = Pipeline(racing(clock), breaker, limiter)

    async def quick() -> str:
        await clock.sleep_async(0.01)
        return "fine"

    task = asyncio.ensure_future(guard.acall(one_after_the_other(clock, hang, quick)))
    await clock.advance_async(0.0)
    assert limiter.in_flight == 2
    await clock.advance_async(0.01)
    assert await task == "fine"
    assert (breaker.snapshot().successes, breaker.snapshot().ignored) == (1, 1)
    found = limiter.snapshot()
    assert (found.in_flight, found.accepted, found.ignored) == (0, 2, 1)


async def test_a_timeout_further_in_ends_each_call(clock: VirtualClock) -> None:
    """Each has the whole time of an attempt; the last error leaves."""
    guard = Pipeline(Hedge(5.0, budget=generous(clock), clock=clock), Timeout(1.0, clock=clock))
    task = asyncio.ensure_future(guard.acall(hang))
    await clock.advance_async(1.0)
    assert not task.done()
    await clock.advance_async(1.0)
    with pytest.raises(CallTimeoutError):
        await task
    assert (background(), clock.waiting) == (set(), 0)


async def test_a_timeout_further_out_ends_all_of_them(clock: VirtualClock) -> None:
    """One limit for all; of another decorator, or of the same pipeline."""
    hedge = Hedge(0.4, budget=generous(clock), clock=clock)
    timeout = Timeout(1.0, clock=clock)
    for guarded in (Pipeline(timeout, hedge)(hang), timeout(hedge(hang))):
        task = asyncio.ensure_future(guarded())
        for _ in range(10):
            await clock.advance_async(0.1)
        with pytest.raises(CallTimeoutError):
            await task
        assert (background(), clock.waiting) == (set(), 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
async def test_what_is_no_exception_leaves_at_once(clock: VirtualClock, error: BaseException) -> None:
    """A call that cancels itself, or ends by an interrupt, is not repeated."""
    calls = 0

    async def fetch() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)):
        await Hedge(1.0, clock=clock).acall(fetch)
    assert calls == 1


async def test_a_function_that_is_not_async_is_a_type_error(clock: VirtualClock) -> None:
    """As with every policy, at the first call."""

    def fetch() -> str:
        return "plain"

    with pytest.raises(TypeError, match="not async"):
        await Hedge(1.0, clock=clock).acall(fetch)  # type: ignore[arg-type]  # the mistake


def test_nothing_is_pending_when_the_loop_closes(clock: VirtualClock) -> None:
    """In the loop's debug mode, with a collection after: no task, no warning, no error that nobody asked for."""

    async def fail() -> None:
        raise ConnectionError("down")

    async def quick() -> str:
        return "fine"

    async def main() -> None:
        for steps in ((hang, quick), (fail, quick), (quick, fail), (fail, fail)):
            try:
                await racing(clock).acall(one_after_the_other(clock, *steps))
            except ConnectionError:
                assert steps == (fail, fail)
        assert background() == set()

    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(debug=True) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())
        gc.collect()
    gc.collect()
    assert complaints == []


def test_errors_keep_nothing_alive(clock: VirtualClock) -> None:
    """An error that left holds no task, and needs no collection to go."""

    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)

    async def fail(_argument: Large) -> None:
        raise ConnectionError("down")

    async def main(argument: Large) -> None:
        with contextlib.suppress(ConnectionError):
            await racing(clock).acall(fail, argument)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main(large))
        del large
        assert gone() is None
    finally:
        gc.enable()


def test_one_hedge_serves_many_loops(clock: VirtualClock) -> None:
    """Threads with a loop each; the counts are exact."""
    hedge = racing(clock)

    async def fetch() -> str:
        await asyncio.sleep(0)
        return "fine"

    async def many() -> None:
        for _ in range(50):
            assert await hedge.acall(fetch) == "fine"

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (hedge.snapshot().calls, hedge.snapshot().hedges) == (200, 200)


def test_the_learned_delay_follows_the_last_calls() -> None:
    """Of 256, looked at each 16; what was before is forgotten. A forked child goes on with what was learned."""
    latencies = Latencies()
    for seconds, late, usual in ((1.0, 1.0, 1.0), (0.1, 0.1, 0.1), (0.00001, 0.001, 0.00001)):
        for _ in range(256 + 16):
            latencies.add(seconds)
        assert (latencies.late, latencies.usual) == (late, usual)
    latencies.after_fork_in_child()
    assert latencies.late == 0.001


async def test_new_settings_are_taken_while_it_runs(clock: VirtualClock) -> None:
    """A call in flight keeps what it read; counts stay."""
    hedge = Hedge(1.0, clock=clock)
    task = asyncio.ensure_future(hedge.acall(hang))
    await clock.advance_async(0.0)
    hedge.take_settings(Hedge(5.0, extra=2, clock=clock))
    await clock.advance_async(1.0)
    assert hedge.snapshot().hedges == 1
    assert (hedge.delay, hedge.settings.extra, hedge.snapshot().calls) == (5.0, 2, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delay": -1}, "delay must be 0 or more seconds, inf or None, not -1"),
        ({"delay": float("nan")}, "delay must be finite"),
        ({"delay": True}, "delay must be a number"),
        ({"delay": "p95"}, "delay must be a number"),
        ({"extra": 0}, "extra must be from 1 to 100, not 0"),
        ({"extra": 1.5}, "extra must be a whole number"),
        ({"budget": 0.1}, "budget must be a RetryBudget, not 0.1"),
        ({"on": BaseException}, "on must hold exception types"),
        ({"name": ""}, "name must be text"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """At construction, with the value and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Hedge(**arguments)


def test_listeners_are_checked() -> None:
    """An async one would never be awaited."""

    async def listener(_event: object) -> None: ...

    with pytest.raises(TypeError, match="async"):
        Hedge(listeners=[listener])


def test_it_explains_itself() -> None:
    """When, how often, what it costs at worst, and what bites."""
    found = Pipeline(Hedge(0.1, extra=2, name="tail"), Timeout(1.0, name="attempt")).explain()
    assert "2 more calls after 0.1 s each, for 10% of the calls at most; async only" in found.layers[0]
    assert found.worst_case_calls == 3
    assert found.worst_case_wait == pytest.approx(1.25)
    assert any("sent twice" in warning for warning in found.warnings)
    assert "95th percentile" in Hedge().describe()
    assert "when one failed" in Hedge(float("inf")).describe()
    assert "at once" in Hedge(0).describe()
    assert Hedge().worst_case(1.0, 1) == (2.05, 2)
    assert Hedge(0.1).granted(1.0) == pytest.approx(2.05)
    assert (repr(Hedge()), repr(Hedge(0.25, extra=2))) == ("Hedge()", "Hedge(0.25, extra=2)")


def test_a_retry_beside_it_is_warned_about() -> None:
    """They multiply."""

    class Again(Timeout):
        kind = "retry"

    assert any("multiply" in warning for warning in Pipeline(Hedge(0.1), Again(1.0)).explain().warnings)


def test_a_snapshot_is_plain_data() -> None:
    """For JSON; an infinite delay is none."""
    assert json.loads(json.dumps(Hedge(float("inf"), name="tail").snapshot().as_dict())) == {
        "name": "tail",
        "calls": 0,
        "hedges": 0,
        "won": 0,
        "refused": 0,
        "delay": None,
    }


async def test_reset_forgets_what_was_learned(clock: VirtualClock) -> None:
    """No delay is known, nothing is counted."""
    hedge = Hedge(clock=clock)

    async def quick() -> int:
        return 1

    for _ in range(60):
        await hedge.acall(quick)
    assert hedge.delay is not None
    hedge.reset()
    assert hedge.delay is None
    assert hedge.snapshot().calls == 0
