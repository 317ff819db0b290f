"""The words between what decides and what does: a request to send, a rest to take, the answer that came.

Everything that talks to a registry is written once, as a generator that yields steps and is sent answers. It never
waits and never does I/O, so it runs in virtual time; `drive` and `adrive` are all that differs between a thread and
an event loop.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from resilient.clock import Clock

if TYPE_CHECKING:
    import httpx

R = TypeVar("R")

MORE = "MORE"


Auth: TypeAlias = "tuple[str, str] | httpx.Auth"
"""User and password, or what httpx takes."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a registry: its base URL without a slash at the end, and what it knows us by."""

    base: str
    auth: Auth | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Ask `server` for `path` (below its base), waiting `timeout` seconds in total.

    With `stream` the answer comes as soon as its head is there; then `MORE` asks for the body, line by line.
    """

    server: Server
    method: str
    path: str
    timeout: float
    body: bytes | None = None
    read: bool = False  # whether the answer's body matters; else its status decides alone, however the body ends
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # tokens are among them
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `status` 0 and `error` in words when nothing did.

    `local` is our own address on the connection that reached the server.
    """

    status: int = 0
    body: bytes = b""
    error: str = ""
    local: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])  # looked up in any case

    @property
    def good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether our credentials are the trouble (or a server that is still warming up: it says 403 too)."""
        return self.status in {401, 403}

    def __str__(self) -> str:
        return self.error or f"HTTP status {self.status}"


def more(timeout: float) -> Send:
    """Ask for the next line of the stream that is open: status 200 with a line, 204 at its end."""
    return Send(Server(""), MORE, "", timeout)


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing for `seconds` (None: for ever), or until woken."""

    seconds: float | None


Exchange: TypeAlias = Generator[Send, Answer, R]
Steps: TypeAlias = Generator[Send | Rest, Answer, R]


class Job(Protocol):
    """A piece of recurring work."""

    def due(self) -> float:
        """When it wants to work next, in seconds of the monotonic clock."""
        ...

    def work(self) -> Exchange[None]:
        """Do it once."""
        ...


def drive(steps: Steps[R], send: Callable[[Send], Answer], rest: Callable[[float | None], object]) -> R:
    """Run `steps` in this thread."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Rest):
                rest(step.seconds)
                step = next(steps)
            else:
                step = steps.send(send(step))
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        steps.close()  # cut short, the generator settles what it had begun


async def adrive(
    steps: Steps[R], send: Callable[[Send], Awaitable[Answer]], rest: Callable[[float | None], Awaitable[object]]
) -> R:
    """Run `steps` in this task."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Rest):
                await rest(step.seconds)
                step = next(steps)
            else:
                step = steps.send(await send(step))
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        steps.close()


def until(stopped: Callable[[], bool], exchange: Exchange[None]) -> Exchange[None]:
    """`exchange`, ended before its next step when `stopped()`; what an answer says is learnt all the same."""
    try:
        step = next(exchange)
        while not stopped():
            step = exchange.send((yield step))
    except StopIteration:
        pass
    finally:
        exchange.close()


class Backoff:
    """1, 2, 4 … seconds up to `most`, each ± 20 %, so that a fleet does not come back in step.

    Args:
        most: the longest delay before the spread, in seconds; at most 30.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(self, most: float = 30.0, rng: Callable[[], float] = random.random) -> None:
        self._most = min(most, 30.0)
        self._rng = rng
        self._failures = 0

    def next(self, most: float = 30.0) -> float:
        """The delay after one more failure, at most `most` before the spread."""
        delay = min(2.0 ** min(self._failures, 5), self._most, most)
        self._failures += 1
        return float(delay * (0.8 + 0.4 * self._rng()))

    def reset(self) -> None:
        """Begin again: something worked."""
        self._failures = 0


def pace(interval: float, rng: Callable[[], float]) -> float:
    """`interval` ± 10 %: what many processes do at the same pace must not happen at the same moment."""
    return interval * (0.9 + 0.2 * rng())


class Agenda:
    """The jobs of one loop; those that keep us listed come before those that keep us informed.

    Those that are `alone`, because their requests are answered only when something happens, hold nobody up.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jobs: tuple[Job, ...] = ()
        self.alone: tuple[Job, ...] = ()  # of these

    def next(self, lane: Job | None = None) -> tuple[Job | None, float | None]:
        """The job that is due and 0; or None and the seconds until one is (None: no job).

        Args:
            lane: the job that is alone there; None: all that are not.
        """
        now = self.clock.monotonic()
        earliest: float | None = None
        for job in self.jobs:
            if (job is not lane) if lane is not None else (job in self.alone):
                continue
            due = job.due()
            if due <= now:
                return job, 0.0
            earliest = due if earliest is None else min(earliest, due)
        return None, None if earliest is None else earliest - now
