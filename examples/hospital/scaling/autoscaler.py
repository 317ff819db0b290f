"""The loop that brings the replicas to the number that is wanted, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from examples.hospital.scaling.alarm import Alarm
from examples.hospital.scaling.alerts import Alert
from examples.hospital.scaling.target import Limits, Target
from resilient.checks import positive_seconds
from resilient.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger("hospital.scaling")

_EVENTS: Final = 50  # that are remembered
_FIRST_PAUSE: Final = 1.0  # seconds after a step that failed, doubling
_LONGEST_PAUSE: Final = 60.0


class ReplicaError(Exception):
    """A replica could not be started, counted or taken away; the message says why."""


class Replicas(Protocol):
    """What can be made more or fewer."""

    async def running(self) -> int:
        """How many there are; those that have died are not counted.

        Raises:
            ReplicaError: when that cannot be found out.
        """
        ...

    async def add(self) -> str:
        """Start one more, and return once it takes requests; says which.

        Raises:
            ReplicaError: when it does not come up; nothing is left of it.
        """
        ...

    async def remove(self) -> str:
        """Take the newest away; no request is lost. Says which.

        Raises:
            ReplicaError: when that is not possible now; it is still there.
        """
        ...

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Those that are known, for people."""
        ...

    async def close(self) -> None:
        """Whoever scales goes; what it has started goes, too, if it cannot live alone."""
        ...


class Autoscaler:
    """Adds replicas while an alert fires, takes them away when it has been quiet for a while, and replaces the dead.

    Args:
        replicas: what is scaled.
        limits: what holds.
        alert: the name of the alert that asks for more; None: any.
        stale: seconds after which an alert that is not told again is over, default 300.
        interval: seconds between two looks, default 1; an alert that is heard is looked at at once.
        clock: default the machine's monotonic clock.

    For one event loop.
    """

    def __init__(
        self,
        replicas: Replicas,
        limits: Limits,
        *,
        alert: str | None = None,
        stale: float = 300.0,
        interval: float = 1.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._replicas = replicas
        self._target = Target(limits)
        self._alarm = Alarm(alert, stale=stale, now=clock.monotonic())
        self._interval = positive_seconds("Autoscaler", "interval", interval)
        self._clock = clock
        self._heard = asyncio.Event()
        self._running: int | None = None
        self._trouble = ""
        self._failures = 0
        self._not_before = clock.monotonic()
        self._events = deque[tuple[str, str]](maxlen=_EVENTS)

    def heard(self, alerts: Iterable[Alert]) -> int:
        """Take note of alerts; how many of them count."""
        now = self._clock.monotonic()
        before = self._alarm.firing(now)
        count = sum(self._alarm.heard(alert, now) for alert in alerts)
        if self._alarm.firing(now) != before:
            self._event("the alert is over" if before else "the alert fires")
            self._heard.set()
        return count

    async def run(self) -> None:
        """Scale until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._heard.clear()
            await self.step()
            cancel = self._clock.call_later(loop, self._interval, self._heard.set)
            try:
                await self._heard.wait()
            finally:
                cancel()

    async def step(self) -> None:
        """Look, and make one replica more or one fewer if that is wanted; what fails is logged and tried again."""
        if self._clock.monotonic() < self._not_before:
            return
        try:
            await self._step()
        except Exception as error:
            self._failures += 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
            self._not_before = self._clock.monotonic() + pause
            expected = isinstance(error, ReplicaError)
            self._trouble = str(error) if expected else f"{type(error).__name__}: {error}"
            self._event(f"{self._trouble}; tried again in {pause:g} s", level=logging.WARNING)
            if not expected:  # such as a machine without memory for one more process: the next step may do better
                logger.warning("this was not expected", exc_info=error)
        else:
            self._failures = 0
            self._trouble = ""

    async def _step(self) -> None:
        first = self._running is None
        running = self._running = await self._replicas.running()
        if first:
            self._target = Target(self._target.limits, running=running)
        now, before = self._clock.monotonic(), self._target.wanted
        firing, quiet = self._alarm.firing(now), self._alarm.quiet_for(now)
        wanted = self._target.decide(now, running=running, firing=firing, quiet_for=quiet)
        if wanted != before:
            why = "the alert fires" if wanted > before else f"quiet for {quiet:.0f} s"
            self._event(f"{wanted} replicas are wanted instead of {before}: {why}")
        if running < wanted:
            self._event(f"started {await self._replicas.add()}")
        elif running > wanted:
            self._event(f"took away {await self._replicas.remove()}")
        if running != wanted:
            self._running = await self._replicas.running()
            self._target.stepped(self._clock.monotonic())

    def state(self) -> dict[str, Any]:
        """What it knows and does, for a health report."""
        now = self._clock.monotonic()
        limits = self._target.limits
        return {
            "running": self._running,
            "wanted": self._target.wanted,
            "minimum": limits.minimum,
            "maximum": limits.maximum,
            "firing": self._alarm.firing(now),
            "quietSeconds": round(self._alarm.quiet_for(now), 1),
            "trouble": self._trouble,
            "replicas": [dict(one) for one in self._replicas.listing()],
            "events": [{"at": at, "what": what} for at, what in self._events],
        }

    def _event(self, what: str, *, level: int = logging.INFO) -> None:
        self._events.append((datetime.now(UTC).isoformat(timespec="milliseconds"), what))
        logger.log(level, "%s", what)
