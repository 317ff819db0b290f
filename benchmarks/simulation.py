"""A fleet in virtual time: real balancers of many client processes call simulated servers. Same seed, same figures.

A server has a few workers and a queue; service times are log-normal. Every client process has its own balancer, its own
picture of who is slow or failing, and its own budget of retries. Nothing sleeps: a minute of 2,800 calls per second
takes a few seconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from resilient.balancing import Balancer, Lease, Outliers, RoundRobin, Strategy
from resilient.clock import SystemClock
from resilient.discovery import Discovery, Instance

TIMEOUT = 1.0  # seconds that a client waits; the server works on
REFUSED = 0.001  # seconds in which a refusal or a full queue answers
BACKLOG = 100
_RETRY_SHARE, _RETRY_FLOOR, _RETRY_SECONDS = 0.2, 3, 10.0

Factor = Callable[[float], float]


class VirtualTime(SystemClock):
    """A clock that the simulation sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.monotonic = lambda: self.now


class Listing(Discovery):
    """A list that the simulation changes."""

    def __init__(self, instances: Sequence[Instance], clock: VirtualTime) -> None:
        super().__init__("simulated", clock)
        self.set(instances)

    def set(self, instances: Sequence[Instance]) -> None:
        """Know these from now on."""
        self._roster.replace({"service": tuple(instances)})

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def close(self) -> None:
        """Nothing to stop."""

    async def aclose(self) -> None:
        """Nothing to stop."""


@dataclass
class Host:
    """What is wrong with a server.

    Attributes:
        slower: how many times slower it is at a time.
        fault: how its answers end at a time: `"hangs"`, `"fails"` (500 in 1 ms), `"refuses"`, or None.
        fails: the share of its answers that are failures.
    """

    slower: Factor = lambda _now: 1.0
    fault: Callable[[float], str | None] = lambda _now: None
    fails: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        title: what goes wrong.
        hosts: the servers that there are; the others are well.
        servers: how many in all.
        workers: of a server.
        load: offered calls as a share of what the servers can do, at a time.
        seconds: for how long.
        warm_up: seconds at the beginning that do not count.
        joins: when the last server joins; None: it is there from the beginning.
        mean: seconds that a call takes.
    """

    title: str
    hosts: dict[int, Host] = field(default_factory=dict)
    servers: int = 20
    workers: int = 4
    load: Factor = lambda _now: 0.7
    seconds: float = 64.0
    warm_up: float = 4.0
    joins: float | None = None
    mean: float = 0.02

    @property
    def capacity(self) -> float:
        """Calls per second that the servers can do."""
        return self.servers * self.workers / self.mean


@dataclass(frozen=True)
class Stack:
    """How the clients go about it.

    Attributes:
        title: in tables.
        strategy: makes a strategy from a source of chance.
        outliers: when hosts are ejected; None: never.
        retries: on another host, per call.
        slow_start: seconds, or None.
        patience: seconds after which a caller gives up, in the middle of an attempt; None: he waits for the timeout.
    """

    title: str
    strategy: Callable[[random.Random], Strategy] = lambda chance: RoundRobin(rng=chance.random)
    outliers: Outliers | None = field(default_factory=Outliers)
    retries: int = 1
    slow_start: float | None = 60.0
    patience: float | None = None


@dataclass
class Outcome:
    """What came out.

    Attributes:
        calls: how many began.
        good: how many of them were answered well.
        attempts: how many were sent.
        times: seconds of each call in ascending order, a failed one counts as the timeout.
        picks: per second, how often each server was chosen.
        seconds: for how long calls began that count.
        warm_up: when they began to count.
        ends: of every call that counts, when it began and its seconds.
    """

    calls: int
    good: int
    attempts: int
    times: list[float]
    picks: list[Counter[int]]
    seconds: float
    warm_up: float
    ends: list[tuple[float, float]]

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the calls ended."""
        return 1000.0 * self.times[min(len(self.times) - 1, int(share * len(self.times)))] if self.times else 0.0

    @property
    def success(self) -> float:
        """Per cent of the calls."""
        return 100.0 * self.good / max(1, self.calls)

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds

    @property
    def amplification(self) -> float:
        """Attempts per call."""
        return self.attempts / max(1, self.calls)

    @property
    def imbalance(self) -> float:
        """The busiest server by the mean one, per second, on average."""
        counted = [count for count in self.picks[int(self.warm_up) :] if count.total()]
        seen = [max(count.values()) * len(count) / count.total() for count in counted]
        return sum(seen) / max(1, len(seen))

    def share(self, server: int, begin: float | None = None, end: float = math.inf) -> float:
        """What a server got between two times, as a part of its fair share."""
        begin = self.warm_up if begin is None else begin
        window = [count for second, count in enumerate(self.picks) if begin <= second < end]
        total = sum(count.total() for count in window)
        servers = max((len(count) for count in window), default=1)
        return sum(count[server] for count in window) * servers / max(1, total)


class _Server:
    """Workers and a queue. What becomes of a call is known when it arrives: nobody leaves a queue."""

    def __init__(self, host: Host, workers: int, services: Callable[[], float], chance: random.Random) -> None:
        self._host = host
        self._free = [0.0] * workers
        self._starts: deque[float] = deque()
        self._services = services
        self._chance = chance

    def take(self, now: float) -> tuple[str, float]:
        """(how the call ends, when)."""
        fault = self._host.fault(now)
        if fault is not None:
            return ("hangs", now + TIMEOUT) if fault == "hangs" else (fault, now + REFUSED)
        starts = self._starts
        while starts and starts[0] <= now:
            starts.popleft()
        if len(starts) >= BACKLOG:
            return "fails", now + REFUSED
        begin = max(now, self._free[0])
        end = begin + self._services() * self._host.slower(begin)
        heapq.heapreplace(self._free, end)
        if begin > now:
            starts.append(begin)
        if end > now + TIMEOUT:
            return "hangs", now + TIMEOUT
        return ("fails" if self._host.fails and self._chance.random() < self._host.fails else "good"), end


class _Client:
    """One process: a balancer, and a budget of retries."""

    def __init__(self, stack: Stack, discovery: Discovery, clock: VirtualTime, chance: random.Random) -> None:
        self.balancer = Balancer(
            "service",
            discovery,
            lambda: stack.strategy(chance),
            outliers=stack.outliers,
            slow_start=stack.slow_start,
            rng=chance.random,
            clock=clock,
        )
        self._firsts: deque[float] = deque()
        self._retries: deque[float] = deque()
        self.retrying = 0

    def first(self, now: float) -> None:
        self._firsts.append(now)

    def may_retry(self, now: float) -> bool:
        """At most 20 per cent of the calls of the last 10 s, or 3 at once."""
        for times in (self._firsts, self._retries):
            while times and times[0] <= now - _RETRY_SECONDS:
                times.popleft()
        if len(self._retries) >= _RETRY_SHARE * len(self._firsts) and self.retrying >= _RETRY_FLOOR:
            return False
        self._retries.append(now)
        return True


@dataclass
class _Call:
    client: _Client
    began: float
    lease: Lease
    sent: float
    tried: list[Instance]
    retry: bool = False


def simulate(scenario: Scenario, stack: Stack, *, clients: int = 16, seed: int = 1) -> Outcome:
    """Run a scenario."""
    return _Run(scenario, stack, clients, seed).run()


class _Run:
    def __init__(self, scenario: Scenario, stack: Stack, clients: int, seed: int) -> None:
        self._scenario, self._stack = scenario, stack
        self._clock = VirtualTime()
        self._chance = random.Random(seed)
        spread = math.sqrt(math.log(2.0))  # a coefficient of variation of 1
        middle = math.log(scenario.mean) - spread * spread / 2.0
        self._instances = [Instance("service", f"h{n:03}", 80, id=f"{n:03}") for n in range(scenario.servers)]
        self._servers = [
            _Server(
                scenario.hosts.get(n, Host()),
                scenario.workers,
                lambda: self._chance.lognormvariate(middle, spread),
                self._chance,
            )
            for n in range(scenario.servers)
        ]
        there = self._instances if scenario.joins is None else self._instances[:-1]
        self._listing = Listing(there, self._clock)
        self._clients = [
            _Client(stack, self._listing, self._clock, random.Random(f"{seed}/{n}")) for n in range(clients)
        ]
        self._events: list[tuple[float, int, str, _Call]] = []
        self._order = itertools.count()
        picks: list[Counter[int]] = [Counter() for _ in range(math.ceil(scenario.seconds))]
        self._found = Outcome(0, 0, 0, [], picks, scenario.seconds - scenario.warm_up, scenario.warm_up, [])

    def run(self) -> Outcome:
        scenario, clock, events, draw = self._scenario, self._clock, self._events, self._chance
        joins = math.inf if scenario.joins is None else scenario.joins
        for count in self._found.picks:
            count.update(dict.fromkeys(range(scenario.servers if scenario.joins is None else scenario.servers - 1), 0))
        arrival = 0.0
        while True:
            arrival += draw.expovariate(scenario.capacity * scenario.load(arrival))
            if arrival >= joins:
                joins = math.inf
                self._listing.set(self._instances)
                for second, count in enumerate(self._found.picks):
                    if second >= arrival:
                        count[scenario.servers - 1] += 0
            while events and events[0][0] <= arrival:
                self._end()
            if arrival >= scenario.seconds:
                break
            clock.now = arrival
            client = self._clients[int(draw.random() * len(self._clients))]
            client.first(arrival)
            self._found.calls += arrival >= scenario.warm_up
            self._send(client, arrival, [], retry=False)
        while events:
            self._end()
        self._found.times.sort()
        return self._found

    def _send(self, client: _Client, began: float, tried: list[Instance], *, retry: bool) -> None:
        now = self._clock.now
        lease = client.balancer.pick(exclude=tried)
        server = int(lease.instance.id)
        self._found.attempts += began >= self._scenario.warm_up
        if now < self._scenario.seconds:
            self._found.picks[int(now)][server] += 1
        how, end = self._servers[server].take(now)
        patience = self._stack.patience
        if patience is not None and end > now + patience:
            how, end = "given up", now + patience
        call = _Call(client, began, lease, now, tried, retry)
        heapq.heappush(self._events, (end, next(self._order), how, call))

    def _end(self) -> None:
        now, _, how, call = heapq.heappop(self._events)
        self._clock.now = now
        client, lease = call.client, call.lease
        if call.retry:
            client.retrying -= 1
        if how == "good":
            lease.success()
        elif how == "refuses":
            lease.unreachable()
        elif how == "given up":
            lease.ignored()
        else:
            lease.failure()
        if how == "good":
            self._found.good += call.began >= self._scenario.warm_up
            self._over(call.began, now - call.began)
        elif how != "given up" and len(call.tried) < self._stack.retries and client.may_retry(now):
            client.retrying += 1
            self._send(client, call.began, [*call.tried, lease.instance], retry=True)
        else:
            self._over(call.began, TIMEOUT)

    def _over(self, began: float, seconds: float) -> None:
        if began >= self._scenario.warm_up:
            self._found.times.append(seconds)
            self._found.ends.append((began, seconds))
