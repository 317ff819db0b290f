"""A storage of pybreaker's as a store of shared circuits: read once per poll, in the one thread that may wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from resilient.checks import positive_seconds
from resilient.clock import wall_ms
from resilient.errors import ConfigError
from resilient.shared_state import Known, Phase, Said, Word

ATTRIBUTES = ("state", "opened_at", "counter", "increment_counter", "reset_counter")
"""By these a storage is known."""


class PybreakerStorage:
    """Share circuits through a `pybreaker.CircuitBreakerStorage`, with breakers of pybreaker's or of this library's.

    `CircuitBreaker(shared=storage)` makes one by itself; make it yourself to say more. A storage holds one circuit,
    and what it holds is its state and when it opened: so openings are not atomic, and there is no lease, each process
    probes on its own. `RedisState` has both.

    Ends are reckoned from `opened_at`, by the wall clocks of the machines. Errors of the storage are those of a store
    that does not answer. `CircuitRedisStorage` hides its errors: one that forgets when it opened is taken for silent.
    Give its Redis client a `socket_timeout`: without one, a server that hangs holds up the sharing of every circuit of
    the process (no call waits for it).

    Args:
        storage: the storage.
        open_time: seconds that a circuit opened by another process stays open; default the breaker's own.
        poll: seconds between two readings, default 1.0.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads as far as the storage is.

    Example:
        >>> from resilient.policies.pybreaker_storage import PybreakerStorage
        >>> import pybreaker
        >>> PybreakerStorage(pybreaker.CircuitMemoryStorage("closed"), open_time=30.0)
        PybreakerStorage(CircuitMemoryStorage)
    """

    lease: float | None = None

    def __init__(self, storage: Any, *, open_time: float | None = None, poll: float = 1.0) -> None:
        missing = [name for name in ATTRIBUTES if not hasattr(type(storage), name) and name not in vars_of(storage)]
        if missing:
            raise ConfigError(
                f"PybreakerStorage: storage must be like a pybreaker.CircuitBreakerStorage; {storage!r} has no"
                f" {', '.join(missing)}",
                path="storage",
            )
        self._storage = storage
        self._open_time = None if open_time is None else positive_seconds("PybreakerStorage", "open_time", open_time)
        self.poll = positive_seconds("PybreakerStorage", "poll", poll)
        self._opened_at: datetime | None = None

    def exchange(self, said: Sequence[Said], /) -> list[Known]:
        """Write what was said, read what is known."""
        return [self._one(one) for one in said]

    def _one(self, said: Said) -> Known:
        storage = self._storage
        if said.word is Word.OPENED:
            self._opened_at = storage.opened_at = _now()  # first the time, then the state: as pybreaker does
            storage.state = "open"
        elif said.word is Word.CLOSED and _epoch(storage.opened_at) == said.epoch:  # else it opened again since
            storage.reset_counter()
            storage.state = "closed"
        state, opened_at = str(storage.state), _aware(storage.opened_at)
        if opened_at is None:
            return self._timeless(state)
        self._opened_at = opened_at
        epoch = _epoch(opened_at)
        if state == "open":
            ago = max(0.0, (_now() - opened_at).total_seconds())
            if self._open_time is None:
                return Known(Phase.OPEN, opened_ago=ago, epoch=epoch)
            return Known(Phase.OPEN, seconds_left=max(0.0, self._open_time - ago), epoch=epoch)
        return Known(_phase(state), epoch=epoch)

    def _timeless(self, state: str) -> Known:
        """It never opened; or its memory is lost; or it does not answer and hides that."""
        if self._opened_at is not None:
            self._storage.opened_at = self._opened_at
            if self._storage.opened_at is None:
                raise ConnectionError(f"the storage does not keep what is written ({type(self._storage).__name__})")
            return Known(Phase.UNKNOWN)
        return Known(Phase.UNKNOWN if _phase(state) is Phase.CLOSED else Phase.PROBING)

    def __repr__(self) -> str:
        return f"PybreakerStorage({type(self._storage).__name__})"


def vars_of(thing: object) -> dict[str, Any]:
    """Its own attributes; asks no property."""
    return getattr(thing, "__dict__", {})


def _phase(state: str) -> Phase:
    match state:
        case "closed":
            return Phase.CLOSED
        case "half-open":
            return Phase.PROBING
        case "open":
            return Phase.OPEN
    raise ValueError(f"no state of pybreaker's: {state!r}")


def _now() -> datetime:
    return datetime.fromtimestamp(wall_ms() / 1000, UTC)


def _aware(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _epoch(time: datetime | None) -> str:
    return "" if time is None else str(_aware(time))
