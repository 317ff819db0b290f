"""What a concurrency limiter tells: its event, and a snapshot of one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resilient.events import Event


@dataclass(frozen=True, slots=True)
class ConcurrencyLimitReached(Event):
    """A limiter refused a call: `in_flight` were under way, and `allowed` of the `limit` were open to its priority."""

    limit: int
    in_flight: int
    allowed: int
    priority: str


@dataclass(frozen=True, slots=True)
class ConcurrencyLimiterSnapshot:
    """One moment of a limiter: plain data, can be pickled; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        limit: calls admitted at once, now.
        in_flight: calls under way; more than `limit` for a while after the limit has shrunk.
        accepted: calls admitted since it was made. accepted + rejected = calls that asked.
        rejected: calls refused.
        succeeded: calls that went well, and so were looked at.
        dropped: calls that showed that the dependency is overloaded.
        ignored: calls that ended otherwise: another failure, cancelled, refused further in.
        rtt: seconds that the calls of the last sample took on average; None before the first.
    """

    name: str
    limit: int
    in_flight: int
    accepted: int
    rejected: int
    succeeded: int
    dropped: int
    ignored: int
    rtt: float | None

    def as_dict(self) -> dict[str, Any]:
        """The same as text, numbers and None."""
        return asdict(self)
