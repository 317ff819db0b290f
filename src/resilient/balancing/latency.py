"""How slow an instance is beside its peers, and what that makes of its share.

A latency is a mean that forgets: each sample counts 1 - e^(-gap/5 s), between 1 and 20 per cent. The first one counts
only when it is quicker than the second. What a host is slower
than the median fades while nobody asks it, so it is asked again. A weight only ever goes down: a host that looks fast
gets no more than its turn, else one that fails fast would attract everybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from resilient.balancing.hosts import Host

MEMORY = 5.0  # seconds
LEAST_PART, MOST_PART = 0.01, 0.2  # of a new sample: no burst of calls and no single call decides alone
_OFTEN, _SELDOM = -MEMORY * math.log1p(-LEAST_PART), -MEMORY * math.log1p(-MOST_PART)  # gaps at which those hold
FEW = 2  # samples before which a host loses no turns; of these the smaller counts
FADING = 10.0  # seconds in which an excess over the median fades to 1/e
BAND = 2.0  # times the median: at 1.5 the pauses of an event loop are taken for slow hosts (9 of 120), at 2.0 none
SLACK = 0.005  # seconds over the median that are no difference: the interpreter's own switch interval
FLOOR = 0.05  # of the full share: a host that gets nothing can not show that it is well again
FAILED = 10.0  # times the median is the least that a failure counts as: failing fast must not look like being fast


def faded(host: Host, now: float, median: float | None) -> float:
    """Its latency now, the excess over the median faded; 0.0 when it has none."""
    latency = host.latency
    if latency is None:
        return 0.0
    if median is None or latency <= median:
        return latency
    return median + (latency - median) * math.exp((host.sampled - now) / FADING)


def sample(host: Host, seconds: float, now: float) -> None:
    """Count one latency. What had faded is back with it: a host is not well because it was asked seldom."""
    host.samples += 1
    if host.latency is None:
        host.latency, host.sampled, host.samples = seconds, now, 1
        return
    gap = now - host.sampled
    if gap <= _OFTEN:
        part = LEAST_PART
    elif gap >= _SELDOM:
        part = MOST_PART
    else:
        part = 1.0 - math.exp(-gap / MEMORY)
    if host.samples == FEW:
        seconds, part = min(seconds, host.latency), 1.0  # a first answer is often cold: connections, caches, compilers
    elif part * (host.samples - 1) < 1.0:
        # A mean of all but that one at first: one quick answer of a slow host would hide it for seconds.
        part = 1.0 / (host.samples - 1)
    host.latency += part * (seconds - host.latency)
    if gap > 0.0:  # of two calls that end at once the later one may count first
        host.sampled = now


def sample_failure(host: Host, seconds: float, now: float, median: float | None, usual: float | None) -> None:
    """Count a failure as a slow call; `usual` is what good answers of this balancer take.

    When most hosts fail the median is itself made of failures: without a bound it would grow for ever.
    """
    if median is not None:  # while nobody knows what is normal, a failure says nothing about speed
        base = median if usual is None else min(median, 2.0 * usual)
        sample(host, max(seconds, FAILED * max(base, SLACK)), now)


def sample_at_least(host: Host, seconds: float, now: float, median: float | None) -> None:
    """Count a call that was given up: it would have taken at least this long."""
    if host.latency is None or seconds > faded(host, now, median):
        sample(host, seconds, now)


def median_of(hosts: Sequence[Host], now: float, before: float | None) -> float | None:
    """The lower median of what is known, None when fewer than two are: of two hosts the faster is normal."""
    known = sorted(faded(host, now, before) for host in hosts if host.latency is not None)
    return known[(len(known) - 1) // 2] if len(known) >= 2 else None


def guard_of(host: Host, now: float, median: float | None) -> float:
    """1.0, or for a host slower than the band the share that it still gets of its turns."""
    if median is None or host.latency is None or host.samples < FEW:
        return 1.0
    slow = max(BAND * median, median + SLACK)
    if host.latency <= slow:
        return 1.0
    latency = faded(host, now, median)
    return 1.0 if latency <= slow else max(FLOOR, median / latency)
