"""Worker threads and background work: what they inherit, what they leave behind, and that exit never waits for them."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import (
    BulkheadFullError,
    Cache,
    CallTimeoutError,
    Collapser,
    Deadline,
    Hedge,
    Pipeline,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilient.deadline import current_limit, current_scope
from resilient.testing import VirtualClock
from resilient.workers import WORKERS, Workers
from tests.waiting import wait_until

EXIT = """
import threading
from resilient import Cache, CallTimeoutError, Deadline, RejectedError, ThreadPoolBulkhead, Timeout
hang = threading.Event().wait
for policy in (Timeout(0.05), ThreadPoolBulkhead(1), Cache(60.0)):
    try:
        with Deadline(0.05):
            policy.call(hang, 3600)
    except CallTimeoutError:
        print("left behind")
"""


def test_the_interpreter_does_not_wait_for_what_was_left_behind() -> None:
    """Rule 18: three calls hang for an hour in worker threads, of a timeout, a pool and a cache; the program ends."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left behind\n" * 3, "")
    assert time.monotonic() - started < 30


def test_a_late_error_is_neither_raised_nor_printed(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 10: nobody waits for it; one DEBUG line, no traceback, no exception in a thread."""
    caplog.set_level(logging.DEBUG, "resilient")
    timeout, release, found = Timeout(1.0, clock=clock), threading.Event(), list[Exception]()

    def late() -> None:
        release.wait(30)
        raise ConnectionError("too late")

    def caller() -> None:
        with pytest.raises(CallTimeoutError) as caught:
            timeout.call(late)
        found.append(caught.value)

    thread = threading.Thread(target=caller)
    thread.start()
    wait_until(lambda: clock.waiting == 1)
    clock.advance(1.0)
    thread.join(10)
    release.set()
    wait_until(lambda: timeout.abandoned == 0)
    wait_until(lambda: any("too late" in record.message for record in caplog.records))
    gc.collect()
    assert len(found) == 1
    assert all(record.levelno == logging.DEBUG and record.exc_info is None for record in caplog.records)
    assert capsys.readouterr() == ("", "")


async def test_a_late_error_of_a_task_is_retrieved(clock: VirtualClock) -> None:
    """Case 10 for event loops: a hedged call that lost, a shared call whose caller has left."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    calls = 0

    async def late() -> str:
        nonlocal calls
        calls += 1
        if calls == 2:
            return "won"
        try:
            await clock.sleep_async(10.0)
        except asyncio.CancelledError:
            raise ConnectionError("too late") from None
        raise ConnectionError("too late")

    hedged = asyncio.ensure_future(Hedge(1.0, clock=clock).acall(late))
    await clock.advance_async(1.0)
    assert await hedged == "won"

    async def impatient() -> str:
        with Deadline(1.0, clock=clock):
            return await Cache(60.0, clock=clock).acall(late)

    shared = asyncio.ensure_future(impatient())
    await clock.advance_async(1.0)
    with pytest.raises(CallTimeoutError):
        await shared
    await clock.advance_async(10.0)
    del hedged, shared
    gc.collect()
    await asyncio.sleep(0)
    assert (problems, calls) == ([], 3)


def test_a_pool_of_threads_does_not_leave_more_than_it_has() -> None:
    """Rule 18: threads at most, never a queue of its own: beyond that a call is refused at once."""
    workers, release = Workers(most=2, keep=0.05), threading.Event()
    for _ in range(2):
        workers.start(lambda: release.wait(30), policy="slow")
    with pytest.raises(BulkheadFullError) as caught:
        workers.start(lambda: None, policy="slow")
    assert (caught.value.policy, workers.threads) == ("slow", 2)
    release.set()
    wait_until(lambda: workers.threads == 0)


def test_the_library_has_as_many_as_it_says() -> None:
    """Rule 18: 256 threads per process, a minute each."""
    assert (WORKERS._most, WORKERS._keep) == (256, 60.0)
    assert Timeout(1.0).settings.max_abandoned == 64


# --- what outlives its caller ---------------------------------------------------------------------------------------

user: ContextVar[str] = ContextVar("user", default="nobody")


def seen() -> tuple[str, bool, bool]:
    """Whose context this is; whether it has a deadline, and a timeout around it."""
    return user.get(), current_limit.get() is not None, current_scope.get() is not None


def test_shared_calls_have_their_callers_context_without_its_deadline() -> None:
    """Rule 20: what a cache or a batch starts goes on after its caller, for others: sync, in worker threads."""

    def batch(keys: list[int]) -> list[tuple[str, bool, bool]]:
        return [seen() for _ in keys]

    token = user.set("ann")
    try:
        with Deadline(30.0):
            assert Cache(60.0).call(seen) == ("ann", False, False)
            assert Collapser(batch, delay=0.0)(1) == ("ann", False, False)
            assert Timeout(60.0).call(seen) == ("ann", True, False)
            assert ThreadPoolBulkhead(1).call(seen) == ("ann", True, False)
    finally:
        user.reset(token)


async def test_shared_tasks_have_their_callers_context_without_its_deadline() -> None:
    """Rule 20, for tasks; a hedge is its caller's own and keeps the deadline."""

    async def aseen() -> tuple[str, bool, bool]:
        return seen()

    async def batch(keys: list[int]) -> list[tuple[str, bool, bool]]:
        return [seen() for _ in keys]

    token = user.set("ann")
    try:
        with Deadline(30.0):
            assert await Pipeline(Timeout(20.0), Cache(60.0)).acall(aseen) == ("ann", False, False)
            assert await Collapser(batch, delay=0.0)(1) == ("ann", False, False)
            assert await Hedge(10.0).acall(aseen) == ("ann", True, False)
            with Deadline.none():
                assert await asyncio.create_task(aseen()) == ("ann", False, False)
    finally:
        user.reset(token)


def test_worker_threads_are_born_without_anybodys_context() -> None:
    """Rule 20: the thread that the first caller starts does not keep that caller's variables for the next."""
    token = user.set("ann")
    workers, found, done = Workers(most=1), list[str](), threading.Event()

    def look() -> None:
        found.append(user.get())
        done.set()

    try:
        workers.start(look, policy="p")
    finally:
        user.reset(token)
    assert done.wait(10)
    assert found == ["nobody"]


def test_a_sync_retry_around_an_attempt_timeout_repeats_what_still_runs() -> None:
    """Rule 23: CallTimeoutError is an OSError, so `on=OSError` repeats it; `explain()` warns."""
    timeout, release, starts = Timeout(0.02), threading.Event(), list[int]()
    guard = Pipeline(Retry(attempts=2, wait=0.0, on=OSError), timeout)

    def hangs() -> None:
        starts.append(1)
        release.wait(30)

    with pytest.raises(CallTimeoutError):
        guard.call(hangs)
    assert (len(starts), timeout.abandoned) == (2, 2)
    release.set()
    wait_until(lambda: timeout.abandoned == 0)
    assert any("goes on in its thread while it is repeated" in warning for warning in guard.explain().warnings)


def test_policies_read_no_clock_but_theirs() -> None:
    """Rule 19: no policy, and nothing that it is made of, sleeps or reads the time of the machine by itself."""
    room = Path(resilient.__file__).parent
    own = {"clock.py", "http_answers.py"}  # an HTTP date is of the wall clock
    rooms = [*room.glob("*.py"), *(room / "policies").glob("*.py")]
    assert len(rooms) > 50
    reads = re.compile(
        r"\btime\.(monotonic|time|sleep|perf_counter)\b|asyncio\.(sleep|wait_for|timeout)\b|import time\b"
    )
    found = {
        path.name: sorted({match.group() for match in reads.finditer(path.read_text())})
        for path in rooms
        if path.name not in own and reads.search(re.sub(r'"""[\s\S]*?"""', "", path.read_text()))
    }
    assert found == {}
