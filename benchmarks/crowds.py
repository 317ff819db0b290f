"""Many at once: threads and tasks around a sleep, and threads that do nothing but call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.candidates import Call, aguarded, guarded
from benchmarks.measure import Costs, Effort

TIGHT = 4  # threads in a tight loop
_SLEEP = 0.02
_BETWEEN_LOOKS = 50  # calls between two looks at the clock


class Tight(NamedTuple):
    """Nanoseconds of CPU time per call, of one thread alone and of several."""

    alone: float
    together: float


def threads(effort: Effort) -> dict[str, float]:
    """Calls per second of a crowd of threads through one shared breaker around a sleep, by candidate."""

    def nap(_number: int) -> None:
        time.sleep(_SLEEP)

    candidates = guarded(lambda: nap, "crowd")
    rates = dict.fromkeys(candidates, 0.0)
    for _ in range(min(effort.rounds, 2)):
        for name, call in candidates.items():
            rates[name] = max(rates[name], _rate(call, effort.period, effort.sleeping))
    return rates


def tight(effort: Effort) -> dict[str, Tight]:
    """What a call through one breaker costs when threads do nothing else: all their CPU time by all their calls."""
    candidates = guarded(name="tight")
    best: dict[str, Tight] = {}
    for _ in range(effort.rounds):
        for name, call in candidates.items():
            now = Tight(*(_cpu(call, effort.period / 2, count) for count in (1, TIGHT)))
            best[name] = Tight(*map(min, now, best.get(name, now)))
    return best


def tasks(effort: Effort) -> Costs:
    """Seconds of CPU time for a crowd of tasks at once through one breaker around a sleep, the least of some rounds."""

    async def nap(_number: int) -> None:
        await asyncio.sleep(_SLEEP)

    candidates = aguarded(lambda: nap, "crowd, async")
    best = dict.fromkeys(candidates, float("inf"))

    async def crowd(name: str) -> float:
        call = candidates[name]
        started = time.thread_time()
        await asyncio.gather(*(call(1) for _ in range(effort.tasks)))
        return time.thread_time() - started

    for _ in range(effort.rounds):
        for name in candidates:
            best[name] = min(best[name], asyncio.run(crowd(name)))
    return best


def _rate(call: Call, seconds: float, count: int) -> float:
    ends: list[float] = []  # list.append is atomic

    def run(end: float) -> None:
        while time.perf_counter() < end:
            call(1)
            ends.append(time.perf_counter())

    end = _together(run, seconds, count)
    return sum(at <= end for at in ends) / seconds


def _cpu(call: Call, seconds: float, count: int) -> float:
    calls: list[int] = []

    def run(end: float) -> None:
        mine = 0
        while time.perf_counter() < end:
            for _ in range(_BETWEEN_LOOKS):
                call(1)
            mine += _BETWEEN_LOOKS
        calls.append(mine)

    started = time.process_time_ns()
    _together(run, seconds, count)
    return (time.process_time_ns() - started) / sum(calls)


def _together(run: Callable[[float], None], seconds: float, count: int) -> float:
    """Let `count` threads run from one moment on, until the moment that is handed to them and returned."""
    ready = threading.Barrier(count + 1)
    end = 0.0

    def begin() -> None:
        ready.wait()
        run(end)

    workers = [threading.Thread(target=begin) for _ in range(count)]
    for worker in workers:
        worker.start()
    end = time.perf_counter() + seconds
    ready.wait()
    for worker in workers:
        worker.join()
    return end
