"""One delivery of one message: handled, tried again later, or given up in the open."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from examples.hospital.messages.counts import Counts
from examples.hospital.messages.message import Message
from resilient import Timeout
from resilient.checks import positive_seconds, whole

logger = logging.getLogger(__name__)

DEAD_LETTERS = "dead_letters"
"""The topic of what was given up; who subscribes to it is an operator, or wakes one."""

Handler = Callable[[Message], Awaitable[None]]
Bury = Callable[[dict[str, Any], str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelivery:
    """When a message that was not handled comes again, and when it is given up.

    Attributes:
        attempts: deliveries to a group before the message goes to the dead letters, 1 or more, default 12: with the
            pauses below that is three minutes, longer than a database needs to restart.
        first_pause: seconds after the first failure, default 0.5; doubled after each other.
        longest_pause: seconds at most, default 30.
        handler_timeout: seconds after which a handler is cancelled and has failed, default 60.
        silence: seconds without a sign of life after which a member's message goes to another one, default 5. A member
            gives one three times as often, for as long as its handler takes.
    """

    attempts: int = 12
    first_pause: float = 0.5
    longest_pause: float = 30.0
    handler_timeout: float = 60.0
    silence: float = 5.0

    def __post_init__(self) -> None:
        whole("Redelivery", "attempts", self.attempts)
        for name in ("first_pause", "longest_pause", "handler_timeout", "silence"):
            positive_seconds("Redelivery", name, getattr(self, name))

    def pause(self, attempt: int) -> float:
        """Seconds until the next delivery, after `attempt` failed."""
        return min(self.longest_pause, self.first_pause * 2.0 ** min(attempt - 1, 60))


class Desk:
    """Where a group's deliveries are handled, one after the other, whatever broker brings them.

    Args:
        group: whose.
        handler: what handles a message.
        redelivery: when a message comes again.
        counts: what is counted.
        bury: publishes a dead letter; gets its body and its id.
    """

    def __init__(self, group: str, handler: Handler, redelivery: Redelivery, counts: Counts, bury: Bury) -> None:
        self._group, self._handler, self._redelivery, self._counts, self._bury = (
            group,
            handler,
            redelivery,
            counts,
            bury,
        )
        self._limit = Timeout(redelivery.handler_timeout)

    async def handle(self, message: Message) -> float | None:
        """Handle one delivery.

        Returns:
            None when the message is done with and may be acknowledged, else the seconds until it should come again.
        """
        self._counts.redelivered += message.attempt > 1
        if self._given_up(message.attempt - 1, message.topic):  # it ended the process of whoever had it
            return await self._give_up(message, "no handler lived to tell")
        try:
            await self._limit.acall(self._handler, message)
        except Exception as error:
            self._counts.failed += 1
            reason = f"{type(error).__name__}: {error}"
            if self._given_up(message.attempt, message.topic):
                return await self._give_up(message, reason)
            pause = self._redelivery.pause(message.attempt)
            logger.warning(
                "%s: attempt %d failed, again in %g s (%s)", self._what(message), message.attempt, pause, reason
            )
            return pause
        self._counts.taken += 1
        return None

    async def refuse(self, message: Message, raw: bytes, reason: str) -> float | None:
        """Give up what cannot be read; it stays readable by a person."""
        return await self._give_up(message, reason, raw=raw[:4096].decode(errors="backslashreplace"))

    def _given_up(self, failed: int, topic: str) -> bool:
        return failed >= self._redelivery.attempts and topic != DEAD_LETTERS  # these have nowhere to go: try for ever

    async def _give_up(self, message: Message, reason: str, raw: str | None = None) -> float | None:
        letter = {
            "topic": message.topic,
            "group": self._group,
            "id": message.id,
            "attempts": min(message.attempt, self._redelivery.attempts),
            "reason": reason[:500],
            "body": dict(message.body) if raw is None else None,
            "raw": raw,
        }
        try:
            await self._bury(letter, f"{message.id}:{self._group}")
        except Exception as error:
            pause = self._redelivery.pause(message.attempt)
            logger.warning(
                "%s: cannot be moved to the dead letters, again in %g s (%s: %s)",
                self._what(message),
                pause,
                type(error).__name__,
                error,
            )
            return pause
        self._counts.dead_lettered += 1
        logger.error("%s: given up, moved to %r (%s)", self._what(message), DEAD_LETTERS, reason)
        return None

    def _what(self, message: Message) -> str:
        return f"{message.topic} {message.id} for {self._group}"
