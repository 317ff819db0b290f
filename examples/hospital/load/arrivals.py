"""When requests are due."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice

from examples.hospital.load.plan import Plan


def due_times(plan: Plan) -> Iterator[float]:
    """Seconds from the start at which requests are due, in order: all before the duration, at most `plan.requests`."""
    times = _constant(plan.rate) if plan.arrivals == "constant" else _poisson(plan.rate, random.Random(plan.seed))
    for due in islice(times, plan.requests):
        if due >= plan.duration:
            return
        yield due


def _constant(rate: float) -> Iterator[float]:
    return (number / rate for number in count())  # not summed up: no error grows


def _poisson(rate: float, chance: random.Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += chance.expovariate(rate)
        yield due
