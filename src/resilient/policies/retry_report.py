"""What a retry tells: its events, and a snapshot of one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resilient.events import Event


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Attempt number `attempt` failed with `error`; the next one is made after `delay` seconds."""

    attempt: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class RetryGaveUp(Event):
    """Attempt number `attempt` failed with `error` and would be repeated, but is not, because of `reason`."""

    attempt: int
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetryBudgetExhausted(RetryGaveUp):
    """The same, where the reason is the budget: too many calls of late needed a second attempt."""


@dataclass(frozen=True, slots=True)
class RetrySnapshot:
    """One moment of a retry: plain data; `as_dict()` fits JSON. Counts are since it was made.

    Attributes:
        name: its label.
        waiting: callers that wait for their next attempt.
        retries: attempts that were made again.
        recovered: calls that went well after at least one attempt that did not.
        gave_up: calls whose last attempt would have been repeated, but for a limit.
        refused: those of them that the budget refused.
    """

    name: str
    waiting: int
    retries: int
    recovered: int
    gave_up: int
    refused: int

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict."""
        return asdict(self)
