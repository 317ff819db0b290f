"""The open loop.

A closed loop waits for an answer before it asks again: a server that stalls for a second is asked once meanwhile, and
one bad latency stands beside thousands of good ones. Real users do not wait for each other. Here requests become due at
their own times, and each is measured from that moment, whoever was busy then: no coordinated omission.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import httpx

from examples.hospital.load.arrivals import due_times
from examples.hospital.load.plan import Plan
from examples.hospital.load.result import NEVER_SENT, UNFINISHED, Result
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import RejectedError

_LOOK: Final = 0.25  # seconds between two looks at the progress
_KINDS: Final = (  # the first that fits
    (RejectedError, None),
    (httpx.TimeoutException, "timeout"),
    (httpx.ConnectError, "no connection"),
    (httpx.NetworkError, "broken connection"),
    (httpx.RemoteProtocolError, "broken connection"),
)


async def run(
    plan: Plan,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[Result], object] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Result:
    """Make the requests of a plan.

    Args:
        plan: what is asked.
        transport: how they travel, for instance an AsyncResilientTransport; default plain connections, one per user.
            It is closed at the end.
        stop: ends the run early when it is set; what is under way is given up.
        progress: called four times a second with what is known so far.
        clock: default the machine's monotonic clock.
    """
    return await _Run(plan, transport, clock).go(stop, progress)


class _Run:
    def __init__(self, plan: Plan, transport: httpx.AsyncBaseTransport | None, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self._result = Result(plan)
        self._open: dict[int, float] = {}  # when the requests were due of which nothing is known yet
        self._waiting = deque[int]()  # of these, those for which no user is free
        self._busy = 0
        self._start = clock.monotonic()
        limits = httpx.Limits(max_connections=plan.users, max_keepalive_connections=plan.users)
        self._client = httpx.AsyncClient(
            transport=transport or httpx.AsyncHTTPTransport(limits=limits, trust_env=False),
            headers=plan.headers,
            timeout=None,  # noqa: S113  # the whole request has one
        )

    async def go(self, stop: asyncio.Event | None, progress: Callable[[Result], object] | None) -> Result:
        loop = asyncio.get_running_loop()
        self._start = self._clock.monotonic()
        work = asyncio.create_task(self._work())
        late = asyncio.Event()
        ends = {work, asyncio.create_task(late.wait())}
        if stop is not None:
            ends.add(asyncio.create_task(stop.wait()))
        if progress is not None:
            ends.add(asyncio.create_task(self._watch(progress)))
        cancel = self._clock.call_later(loop, self._plan.duration + self._plan.timeout, late.set)
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._result.interrupted = work not in done and not late.is_set()
            for task in done:
                task.result()
        finally:
            cancel()
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)  # what one of them raised is raised above
            for number in list(self._open):
                self._broke(number, NEVER_SENT)
            await self._client.aclose()
        return self._result

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as users:
            for number, due in enumerate(due_times(self._plan)):
                await self._clock.sleep_async(max(0.0, due - self._now()))
                self._result.due += 1
                self._open[number] = due
                if self._busy < self._plan.users:
                    self._busy += 1
                    users.create_task(self._user(number))
                else:
                    self._result.delayed += 1
                    self._waiting.append(number)

    async def _user(self, number: int) -> None:
        """Ask, and go on as long as others wait for a user."""
        self._result.lag.record(self._now() - self._open[number])
        await self._ask(number)
        while self._waiting:
            await self._ask(self._waiting.popleft())
        self._busy -= 1

    async def _ask(self, number: int) -> None:
        plan, result = self._plan, self._result
        url = plan.urls[number % len(plan.urls)]
        result.sent += 1
        sent = self._now()
        try:
            async with (
                asyncio.timeout(plan.timeout),
                self._client.stream(plan.method, url, content=plan.body) as answer,
            ):
                async for _ in answer.aiter_bytes():  # read to its end, and not kept
                    pass
        except TimeoutError:
            self._broke(number, "timeout")
        except httpx.HTTPError as error:
            self._broke(number, _kind(error))
        except asyncio.CancelledError:
            self._broke(number, UNFINISHED)
            raise
        else:
            due = self._open.pop(number)
            result.answered(due, sent, self._now(), answer.status_code, answer.headers.get("X-Served-By"))

    def _broke(self, number: int, kind: str) -> None:
        self._result.broke(self._open.pop(number), self._now(), kind)

    async def _watch(self, progress: Callable[[Result], object]) -> None:
        while True:
            await self._clock.sleep_async(_LOOK)
            progress(self._result)

    def _now(self) -> float:
        return self._clock.monotonic() - self._start


def _kind(error: httpx.HTTPError) -> str:
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return name or type(error).__name__
    return type(error).__name__
