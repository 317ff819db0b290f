"""What a hedge tells: its event, and a snapshot of one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resilient.events import Event


@dataclass(frozen=True, slots=True)
class HedgeStarted(Event):
    """A further call was started: the `number`-th of its caller's call, 1 for the first hedge.

    Attributes:
        number: which hedge it is.
        after: seconds since the first call began.
        reason: "late" when there was no answer in time, "failed" when a call failed.
    """

    number: int
    after: float
    reason: str


@dataclass(frozen=True, slots=True)
class HedgeSnapshot:
    """One moment of a hedge: plain data, can be pickled; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        calls: callers' calls since it was made.
        hedges: further calls that were started.
        won: callers' calls that a hedge answered.
        refused: hedges that the budget refused.
        delay: seconds after which a hedge is started now; None while that is being learned, or when there is none.
    """

    name: str
    calls: int
    hedges: int
    won: int
    refused: int
    delay: float | None

    def as_dict(self) -> dict[str, Any]:
        """The same as text, numbers and None."""
        return asdict(self)
