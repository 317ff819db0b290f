"""Many at once: threads around a sleep, tasks around a sleep, and what importing costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from benchmarks.candidates import Call, aguarded, guarded

THREADS, TASKS = 64, 10_000
_SLEEP = 0.02
_IMPORT = """
import json, sys, time
import {warm}
before, started = set(sys.modules), time.perf_counter()
import {name}
print(json.dumps([(time.perf_counter() - started) * 1e3, sorted(set(sys.modules) - before)]))
"""
HEAVY = ("asyncio", "ssl", "httpx", "cachetools", "redis", "tenacity", "pybreaker")


@dataclass(frozen=True)
class Import:
    """What one `import` costs a fresh interpreter."""

    name: str
    milliseconds: float
    modules: int
    heavy: tuple[str, ...]


def threads(*, seconds: float = 0.6, count: int = THREADS) -> dict[str, float]:
    """Calls per second of `count` threads through one shared breaker around a sleep, by candidate."""

    def nap(_number: int) -> None:
        time.sleep(_SLEEP)

    candidates = guarded(nap, "crowd")
    rates = dict.fromkeys(candidates, 0.0)
    for _ in range(2):
        for name, call in candidates.items():
            rates[name] = max(rates[name], _rate(call, seconds, count))
    return rates


def tasks(*, count: int = TASKS, rounds: int = 3) -> dict[str, float]:
    """Seconds of CPU time for `count` tasks at once through one breaker around a sleep, the least of some rounds."""

    async def nap(_number: int) -> None:
        await asyncio.sleep(_SLEEP)

    candidates = aguarded(nap, "crowd, async")
    best = dict.fromkeys(candidates, float("inf"))

    async def crowd(name: str) -> float:
        call = candidates[name]
        started = time.thread_time()
        await asyncio.gather(*(call(1) for _ in range(count)))
        return time.thread_time() - started

    for _ in range(rounds):
        for name in candidates:
            best[name] = min(best[name], asyncio.run(crowd(name)))
    return best


def imports(names: tuple[str, ...] = ("resilient", "circuitbreaker", "pybreaker", "interlock")) -> list[Import]:
    """What each import costs, the least of five fresh interpreters."""
    return [min((_import(name) for _ in range(5)), key=lambda found: found.milliseconds) for name in names]


def _rate(call: Call, seconds: float, count: int) -> float:
    ready = threading.Barrier(count + 1)
    ends: list[float] = []  # list.append is atomic

    def run() -> None:
        ready.wait()
        while time.perf_counter() < end:
            call(1)
            ends.append(time.perf_counter())

    end = time.perf_counter() + 60.0
    workers = [threading.Thread(target=run) for _ in range(count)]
    for worker in workers:
        worker.start()
    started = time.perf_counter()
    end = started + seconds
    ready.wait()
    for worker in workers:
        worker.join()
    return sum(at <= end for at in ends) / seconds


def _import(name: str) -> Import:
    import json

    script = _IMPORT.format(name=name, warm="json")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    milliseconds, modules = json.loads(done.stdout)
    return Import(name, milliseconds, len(modules), tuple(heavy for heavy in HEAVY if heavy in modules))
