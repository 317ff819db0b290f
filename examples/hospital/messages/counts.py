"""What happened to the messages of this process, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CountsSnapshot:
    """What was counted since this process began; a process that is killed takes its counts with it.

    Attributes:
        published: messages that the broker confirmed and had not seen before.
        repeated: publishes that the broker confirmed and recognised as repeated (NATS only).
        taken: deliveries whose handler returned; of one group, `taken - duplicates` are different messages.
        redelivered: deliveries that were not the first of their message to their group.
        failed: deliveries whose handler raised or took too long.
        duplicates: messages that an Inbox recognised: they had been handled before.
        dead_lettered: messages that were given up and moved to the dead letters.
        pending: messages that wait in the outbox, as the relay last saw it.
    """

    published: int = 0
    repeated: int = 0
    taken: int = 0
    redelivered: int = 0
    failed: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    pending: int = 0


class Counts:
    """The counters that one process's broker, outbox and inbox share.

    Written by the event loop's thread only; `snapshot()` may be read by any.
    """

    def __init__(self) -> None:
        self.published = self.repeated = 0
        self.taken = self.redelivered = self.failed = 0
        self.duplicates = self.dead_lettered = 0
        self.pending = 0

    def snapshot(self) -> CountsSnapshot:
        """All of them now."""
        return CountsSnapshot(
            published=self.published,
            repeated=self.repeated,
            taken=self.taken,
            redelivered=self.redelivered,
            failed=self.failed,
            duplicates=self.duplicates,
            dead_lettered=self.dead_lettered,
            pending=self.pending,
        )

    def __repr__(self) -> str:
        return repr(self.snapshot())
