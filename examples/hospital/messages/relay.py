"""The relay: publishes what waits in the outbox, in order, for as long as it takes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from types import TracebackType
from typing import Self

from examples.hospital.database import Database
from examples.hospital.messages.broker import Broker, end, unless_set
from examples.hospital.messages.outbox import Outbox, Waiting
from resilient import CircuitBreaker, ConfigError, Pipeline, RejectedError, Retry, Timeout
from resilient.checks import positive_seconds

logger = logging.getLogger(__name__)

_PUBLISH_TIMEOUT = 2.0  # seconds for one attempt; it takes 0.002
_ATTEMPTS = 2
_BATCH = 100  # messages between two markings: what is published twice, at most, when a relay dies
_POLL = 0.2  # seconds between two looks at an outbox in which nothing waits
_LONGEST_PAUSE = 5.0  # seconds between two tries while the broker is away
_LEAVE = 3.0  # seconds for what is under way at the end; what is published and not marked is published again
_TIDY = 60.0  # seconds between two removals


class Relay:
    """Publishes what waits in an outbox: `async with Relay(outbox, database, broker) as relay`.

    Publishing is guarded by the library: each attempt has 2 s, one that fails is repeated once, and a circuit breaker
    notices that the broker is away. Then the relay waits as long as the circuit says, and goes on by itself.

    Of several replicas on one database one publishes at a time, the one that holds a lease in it; so the order
    is kept and nothing is published twice needlessly. Should two clocks differ by more than that, or a replica be
    frozen while it publishes, a message may be published twice, and is recognised by its id.

    Args:
        outbox: where the messages wait.
        database: the one it is in.
        broker: where they go; entered before the relay, and left after it.
        keep: seconds that a row is kept after it was published, so that a person can look, default 3600.
        lease: seconds after which another replica publishes when this one has died, default 15. No publish begins in
            the second half of it, and none takes longer than that half: two attempts of 2 s, and a pause.

    Attributes:
        circuit: the breaker around publishing; open while the broker is away.
    """

    def __init__(
        self, outbox: Outbox, database: Database, broker: Broker, *, keep: float = 3600.0, lease: float = 15.0
    ) -> None:
        self._outbox, self._database, self._broker = outbox, database, broker
        self._lease = positive_seconds("Relay", "lease", lease)
        self._keep = positive_seconds("Relay", "keep", keep)
        self.circuit = CircuitBreaker(
            "broker", consecutive_failures=4, open_duration=1.0, max_open_duration=5.0, ignore=ConfigError
        )
        again = Retry("publish", attempts=_ATTEMPTS, ignore=ConfigError)
        self._guard = Pipeline(again, self.circuit, Timeout(_PUBLISH_TIMEOUT))
        self._holder = uuid.uuid4().hex
        self._look, self._leaving = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tidied = time.monotonic()
        self._pause = _POLL

    def wake(self) -> None:
        """Something was written just now: look at once, not in 0.2 s. Call it after the commit."""
        self._look.set()

    async def _run(self) -> None:
        while not self._leaving.is_set():
            self._look.clear()
            try:
                if not await self._round():
                    await unless_set(self._look, _POLL)
            except Exception as error:
                await unless_set(self._leaving, self._troubled(error))  # no wake: nothing new can be published either

    async def _round(self) -> bool:
        """Publish some of what waits; False when nothing does, or somebody else publishes it."""
        await self._tidy()
        self._broker.counts.pending = await self._outbox.pending(self._database)
        if not self._broker.counts.pending:
            return False
        if not await self._outbox.take_lease(self._database, self._holder, self._lease):
            return False
        until = time.monotonic() + self._lease / 2
        done: list[int] = []
        try:
            for message in await self._outbox.waiting(self._database, _BATCH):  # asked for under the lease
                if time.monotonic() > until or self._leaving.is_set():
                    break
                if await self._publish(message):
                    done.append(message.place)
        finally:
            if done:
                await self._outbox.mark(self._database, done)
                self._broker.counts.pending -= len(done)
        self._pause = _POLL
        return True

    async def _publish(self, message: Waiting) -> bool:
        try:
            await self._guard.acall(self._broker.publish, message.topic, json.loads(message.body), id=message.id)
        except ConfigError as error:
            logger.error("%s %s can never be published: %s", message.topic, message.id, error)
            await self._outbox.refuse(self._database, message.place, str(error))
            self._broker.counts.dead_lettered += 1
            return False
        return True

    def _troubled(self, error: Exception) -> float:
        """Say so once, and how long to wait."""
        first = self._pause == _POLL
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if first:
            logger.warning("what waits in the outbox is published later (%s: %s)", type(error).__name__, error)
        asked = error.retry_after if isinstance(error, RejectedError) else None
        return min(asked or self._pause, _LONGEST_PAUSE)

    async def _tidy(self) -> None:
        if time.monotonic() - self._tidied >= _TIDY:
            self._tidied = time.monotonic()
            await self._outbox.remove(self._database, self._keep)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox relay")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._look.set()
        if self._task is not None:
            try:
                await asyncio.wait({self._task}, timeout=_LEAVE)
            finally:
                await end(self._task)
        try:
            await self._outbox.give_lease_back(self._database, self._holder)
        except Exception as error_of_it:
            logger.warning("the lease is left to end by itself (%s: %s)", type(error_of_it).__name__, error_of_it)
