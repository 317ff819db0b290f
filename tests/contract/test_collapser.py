"""What a Collapser promises: many calls, one batch, and everybody gets what is theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import CallTimeoutError, Deadline, MissingResultError
from resilient.policies.collapser import Collapser
from resilient.testing import VirtualClock
from tests.waiting import wait_until


class Squares:
    """A batch function in both colours; what it was asked for, and under which deadline."""

    def __init__(self, *missing: int) -> None:
        self.batches: list[list[int]] = []
        self.deadlines: list[Deadline | None] = []
        self.missing = missing
        self.error: Exception | None = None

    def __call__(self, numbers: list[int]) -> dict[int, int]:
        self.batches.append(sorted(numbers))
        self.deadlines.append(Deadline.current())
        if self.error is not None:
            raise self.error
        return {number: number * number for number in numbers if number not in self.missing}

    async def task(self, numbers: list[int]) -> dict[int, int]:
        await asyncio.sleep(0)
        return self(numbers)


async def gathered(collapser: Callable[[int], Any], keys: list[int], clock: VirtualClock) -> list[Any]:
    """What tasks that ask for `keys` at once get, errors as values, and no task left behind."""
    tasks = [asyncio.create_task(collapser(key)) for key in keys]
    await clock.advance_async(0.010)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return found


def pooled(collapser: Callable[[int], int], keys: list[int], clock: VirtualClock) -> list[Any]:
    """The same with a thread for each key; time moves once all of them wait."""

    def ask(key: int) -> Any:
        try:
            return collapser(key)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(keys)) as pool:
        answers = [pool.submit(ask, key) for key in keys]
        made = collapser
        assert isinstance(made, Collapser)
        wait_until(lambda: made.snapshot().calls == len(keys))
        wait_until(lambda: clock.waiting >= 1 or all(answer.done() for answer in answers))
        clock.advance(0.010)
        return [answer.result(10.0) for answer in answers]


def collapsed(colour: str, squares: Squares, keys: list[int], **settings: Any) -> list[Any]:
    """What those who ask for `keys` at once get."""
    clock = VirtualClock()
    if colour == "async":
        return asyncio.run(gathered(Collapser(squares.task, clock=clock, **settings), keys, clock))
    return pooled(Collapser(squares, clock=clock, **settings), keys, clock)


both = pytest.mark.parametrize("colour", ["sync", "async"])


@both
def test_calls_within_the_delay_are_one_batch(colour: str) -> None:
    """Case 4: five calls in 10 ms, one batch of five."""
    squares = Squares()
    assert collapsed(colour, squares, [1, 2, 3, 4, 5]) == [1, 4, 9, 16, 25]
    assert squares.batches == [[1, 2, 3, 4, 5]]


@both
def test_a_full_batch_starts_at_once(colour: str) -> None:
    """Case 4: at most two keys each: three batches for five calls."""
    squares = Squares()
    assert collapsed(colour, squares, [1, 2, 3, 4, 5], max_size=2) == [1, 4, 9, 16, 25]
    assert sorted(len(batch) for batch in squares.batches) == [1, 2, 2]


@both
def test_callers_of_one_key_share_it(colour: str) -> None:
    """A batch gets distinct keys."""
    squares = Squares()
    assert collapsed(colour, squares, [3, 3, 3, 2]) == [9, 9, 9, 4]
    assert squares.batches == [[2, 3]]


@both
def test_a_missing_result_fails_its_caller_alone(colour: str) -> None:
    """Case 4: a KeyError that says which key; the others have their answers."""
    found = collapsed(colour, Squares(2), [1, 2, 3])
    assert [found[0], found[2]] == [1, 9]
    assert isinstance(found[1], MissingResultError)
    assert isinstance(found[1], KeyError)
    assert (found[1].key, "returned nothing for the key 2" in str(found[1])) == (2, True)


@both
def test_an_error_of_the_batch_fails_every_call_in_it(colour: str) -> None:
    """Case 4: all of them raise it."""
    squares = Squares()
    squares.error = ConnectionError("down")
    assert [type(error) for error in collapsed(colour, squares, [1, 2, 3])] == [ConnectionError] * 3


async def test_a_leader_that_is_cancelled_takes_nobody_with_it() -> None:
    """Rule 26: the batch is made for the others, without its key."""
    clock, squares = VirtualClock(), Squares()
    collapser = Collapser(squares.task, clock=clock)
    tasks = [asyncio.create_task(collapser(key)) for key in (1, 2, 3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await clock.advance_async(0.010)
    assert await asyncio.gather(*tasks[1:]) == [4, 9]
    assert tasks[0].cancelled()
    assert squares.batches == [[2, 3]]


@pytest.mark.parametrize("moment", ["before the batch", "in the batch"])
async def test_when_all_are_cancelled_nothing_is_left_pending(moment: str) -> None:
    """No timer, no task, no open batch; the next caller is served."""
    clock, squares, cancelled = VirtualClock(), Squares(), list[bool]()

    async def batch(numbers: list[int]) -> dict[int, int]:
        try:
            await clock.sleep_async(1.0)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return squares(numbers)

    collapser = Collapser(batch, clock=clock)
    tasks = [asyncio.create_task(collapser(key)) for key in (1, 2)]
    await asyncio.sleep(0)
    if moment == "in the batch":
        await clock.advance_async(0.010)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert cancelled == ([True] if moment == "in the batch" else [])
    assert (clock.waiting, collapser.snapshot().waiting) == (0, 0)
    again = asyncio.create_task(collapser(4))
    await clock.advance_async(0.010)
    await clock.advance_async(1.0)
    assert await again == 16


async def test_a_callers_deadline_ends_its_wait_and_is_not_the_batchs() -> None:
    """Rule 26: the batch of an impatient leader has no deadline, and the others get their answers."""
    clock, squares = VirtualClock(), Squares()
    collapser = Collapser(squares.task, clock=clock)
    with Deadline(0.005, clock=clock):
        leader = asyncio.create_task(collapser(1))
    follower = asyncio.create_task(collapser(2))
    await clock.advance_async(0.005)
    with pytest.raises(CallTimeoutError):
        await leader
    await clock.advance_async(0.005)
    assert await follower == 4
    assert (squares.batches, squares.deadlines) == ([[2]], [None])


def test_a_thread_whose_deadline_comes_leaves_the_batch_to_a_worker() -> None:
    """Rule 26: the leader is free; the batch is made for the others, without a deadline."""
    go, asked = threading.Event(), list[tuple[list[int], Deadline | None]]()

    def batch(numbers: list[int]) -> list[int]:
        asked.append((sorted(numbers), Deadline.current()))
        assert go.wait(10.0)
        return numbers

    collapser = Collapser(batch, delay=10.0, max_size=2)

    def impatient() -> str:
        with Deadline(0.2):
            try:
                collapser(1)
            except CallTimeoutError:
                return "free"
        return "late"

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(impatient)
        wait_until(lambda: collapser.snapshot().calls == 1)
        follower = pool.submit(collapser, 2)
        assert leader.result(10.0) == "free"
        go.set()
        assert follower.result(10.0) == 2
    assert asked == [([1, 2], None)]


def test_an_interrupted_thread_leaves_the_batch_to_the_others() -> None:
    """Ctrl-C in the leader, whether it waits or calls, is the leader's alone."""
    interrupted: list[int] = []

    def batch(numbers: list[int]) -> list[int]:
        if not interrupted:
            interrupted.append(threading.get_ident())
            raise KeyboardInterrupt
        return [number * number for number in numbers]

    collapser = Collapser(batch, delay=30.0, max_size=3)

    def ask(key: int) -> int | str:
        try:
            return collapser(key)
        except KeyboardInterrupt:
            return "interrupted"

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, 1)
        wait_until(lambda: collapser.snapshot().calls == 1)
        others = [pool.submit(ask, key) for key in (2, 3)]
        assert first.result(10.0) == "interrupted"
        assert [other.result(10.0) for other in others] == [4, 9]
    assert collapser.snapshot().waiting == 0
