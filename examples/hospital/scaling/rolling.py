"""A new version of a service, one replica at a time, under load; and the old one back when the new one is no good.

For each old replica: start a new one, wait until it is healthy and listed, watch it for a moment, then drain the old
one and stop it. There are never fewer replicas than before, and nobody's request meets one that is going.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from examples.hospital.scaling.autoscaler import ReplicaError
from examples.hospital.scaling.local import LocalReplicas, Replica, Version
from resilient.checks import number
from resilient.clock import REAL_CLOCK, Clock

logger = logging.getLogger("hospital.scaling")

_LOOK: Final = 0.1  # seconds between two looks at a new replica that is watched


@dataclass(slots=True)
class Update:
    """What became of an update.

    Attributes:
        done: whether all replicas run the new version.
        why: why not; empty when they do.
        replaced: the names of the old replicas that were replaced, in order; those of an update that was rolled back
            have a successor of the old version.
        steps: what happened, a sentence each.
        left: names of replicas that should have been stopped, and could not be.
    """

    done: bool = False
    why: str = ""
    replaced: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def say(self, step: str) -> None:
        """Note what happened."""
        self.steps.append(step)
        logger.info("rolling update: %s", step)


async def rolling_update(
    replicas: LocalReplicas,
    version: Version,
    *,
    back_to: Version | None = None,
    monitor: float = 1.0,
    clock: Clock = REAL_CLOCK,
) -> Update:
    """Replace all replicas that run now by ones of another version.

    Args:
        replicas: of the service; whoever else scales them must not do so meanwhile.
        version: the new one; what is started later runs it, too, if the update is done.
        back_to: what a replica that is already replaced comes back as; default the current version of `replicas`.
        monitor: seconds for which a new replica must stay healthy before an old one goes, default 1.
        clock: default the machine's monotonic clock.

    Returns:
        What became of it. When a new replica is not ready in time, or does not stay healthy, the old version is back.
    """
    number("rolling_update", "monitor", monitor)
    run = _Run(replicas, version, back_to or replicas.version, monitor, clock)
    return await run.go(list(replicas.live))


class _Run:
    def __init__(self, replicas: LocalReplicas, new: Version, old: Version, monitor: float, clock: Clock) -> None:
        self._replicas = replicas
        self._new = new
        self._old = old
        self._monitor = monitor
        self._clock = clock
        self._update = Update()
        self._started: list[Replica] = []

    async def go(self, outdated: Sequence[Replica]) -> Update:
        update = self._update
        try:
            for old in outdated:
                await self._replace(old)
        except ReplicaError as error:
            update.why = str(error)
            update.say(f"rolled back: {error}")
            await self._roll_back()
        else:
            self._replicas.version = self._new
            update.done = True
        return update

    async def _replace(self, old: Replica) -> None:
        new = await self._replicas.start(self._new)
        self._started.append(new)
        self._update.say(f"{new.name} is ready")
        await self._watch(new)
        await self._replicas.stop(old)
        self._update.replaced.append(old.name)
        self._update.say(f"{old.name} is stopped")

    async def _watch(self, new: Replica) -> None:
        until = self._clock.monotonic() + self._monitor
        while True:
            await self._replicas.check(new)
            if self._clock.monotonic() >= until:
                return
            await self._clock.sleep_async(_LOOK)

    async def _roll_back(self) -> None:
        """Bring back the old version: as many as were stopped, each before a new one goes."""
        for index, new in reversed(list(enumerate(self._started))):
            try:
                if index < len(self._update.replaced):  # else the old one is still beside it
                    again = await self._replicas.start(self._old)
                    self._update.say(f"{again.name} of the old version is ready")
                await self._replicas.stop(new)
                self._update.say(f"{new.name} is stopped")
            except ReplicaError as error:
                self._update.left.append(new.name)
                self._update.say(f"{new.name} stays: {error}")
