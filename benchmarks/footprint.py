"""What there is besides calls: the memory of a breaker, making one, and what importing costs."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import circuitbreaker
import interlock
import pybreaker

import resilient
from benchmarks.candidates import CIRCUITBREAKER, INTERLOCK_COUNT, INTERLOCK_TIME, OURS, PYBREAKER, near, work
from benchmarks.measure import Effort
from resilient.keyed import Keyed

NAMED, KEYED = f"{OURS}, named", f"{OURS}, named, in a Keyed"
HEAVY = ("asyncio", "ssl", "httpx", "cachetools", "redis", "tenacity", "pybreaker")
_CALLS = 150  # more than the count windows of the peers hold
_SHARE = 20  # calls go through one breaker of so many: the slowest peer is very slow under tracemalloc
_IMPORT = """
import json, sys, time
before, started = set(sys.modules), time.perf_counter()
import {name}
print(json.dumps([(time.perf_counter() - started) * 1e3, sorted(set(sys.modules) - before)]))
"""


@dataclass(frozen=True)
class Breaker:
    """What one breaker takes.

    Attributes:
        name: whose.
        idle: bytes of one that was made and nothing else.
        used: bytes of one after 150 successful calls.
        microseconds: CPU time to make one.
    """

    name: str
    idle: float
    used: float
    microseconds: float


@dataclass(frozen=True)
class Import:
    """What one `import` costs a fresh interpreter."""

    name: str
    milliseconds: float
    modules: int
    heavy: tuple[str, ...]


def breakers(effort: Effort) -> list[Breaker]:
    """What a breaker of each library takes. Its name and its key are the caller's strings and not counted.

    In a process of its own: what other tables left in the registry of names makes it grow in the middle of this one.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(_breakers, effort).result()


def _breakers(effort: Effort) -> list[Breaker]:
    names = [f"breaker {number}" for number in range(effort.breakers)]
    makers: dict[str, Callable[[], Callable[[str], Any]]] = {
        OURS: lambda: lambda _name: resilient.CircuitBreaker(),
        NAMED: lambda: resilient.CircuitBreaker,
        KEYED: lambda: Keyed(resilient.CircuitBreaker).__getitem__,
        CIRCUITBREAKER: lambda: lambda name: circuitbreaker.CircuitBreaker(name=name),
        PYBREAKER: lambda: lambda name: pybreaker.CircuitBreaker(name=name),
        INTERLOCK_COUNT: lambda: lambda name: near(name, interlock.WindowType.COUNT_BASED),
        INTERLOCK_TIME: lambda: lambda name: near(name, interlock.WindowType.TIME_BASED),
    }
    return [
        Breaker(name, *_bytes(maker(), names), _microseconds(maker, names[: effort.breakers // 10], effort.rounds + 2))
        for name, maker in makers.items()
    ]


def imports(effort: Effort) -> list[Import]:
    """What each import costs, the least of some fresh interpreters."""
    names = ("resilient", "circuitbreaker", "pybreaker", "interlock")
    return [
        min((_import(name) for _ in range(effort.interpreters)), key=lambda one: one.milliseconds) for name in names
    ]


def _bytes(make: Callable[[str], Any], names: list[str]) -> tuple[float, float]:
    """Bytes of a breaker, idle and used."""
    made: list[Any] = [None] * len(names)
    gc.collect()
    tracemalloc.start()
    try:
        empty, _ = tracemalloc.get_traced_memory()
        _fill(made, make, names)
        gc.collect()
        filled, _ = tracemalloc.get_traced_memory()
        used = made[::_SHARE]
        for breaker in used:
            for number in range(_CALLS):
                breaker.call(work, number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    idle = (filled - empty) / len(names)
    return idle, idle + (after - filled) / len(used)


def _microseconds(maker: Callable[[], Callable[[str], Any]], names: list[str], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        gc.collect()  # whoever had these names
        gc.disable()
        try:
            best = min(best, _cpu_time(maker(), names) / len(names) / 1e3)
        finally:
            gc.enable()
    return best


def _cpu_time(make: Callable[[str], Any], names: list[str]) -> int:
    made: list[Any] = [None] * len(names)
    started = time.thread_time_ns()
    _fill(made, make, names)
    return time.thread_time_ns() - started


def _fill(made: list[Any], make: Callable[[str], Any], names: Iterable[str]) -> None:
    for number, name in enumerate(names):
        made[number] = make(name)


def _import(name: str) -> Import:
    script = _IMPORT.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    milliseconds, modules = json.loads(done.stdout)
    return Import(name, milliseconds, len(modules), tuple(heavy for heavy in HEAVY if heavy in modules))
