"""What processes tell each other about a circuit, and what keeps it for them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from resilient.events import Event


class Word(enum.Enum):
    """What a process says of a circuit."""

    READ = "read"  # nothing; it listens
    OPENED = "opened"  # it opened here, for `seconds` more
    CLOSED = "closed"  # it closed here
    PROBE = "probe"  # its open time is over and somebody calls: may this process probe?
    PROBING = "probing"  # this process is half-open: the lease goes on
    RELEASE = "release"  # this process will not probe after all


class Phase(enum.Enum):
    """What a store knows of a circuit."""

    UNKNOWN = "unknown"  # nothing: never heard of, forgotten, lost with the store's memory
    OPEN = "open"
    PROBING = "probing"  # somebody is trying; only from stores without a lease
    CLOSED = "closed"  # somebody closed it


@dataclass(frozen=True, slots=True)
class Said:
    """What one process says of one circuit.

    Attributes:
        name: of the circuit, the same in every process.
        word: what it says.
        holder: who says it: one process, one breaker; the probe lease is in this name.
        seconds: OPENED: how long the circuit stays open; PROBE and PROBING: how long the lease shall last.
        reason: why it opened.
        epoch: of what this process heard last; CLOSED counts for that and not for a later opening.
    """

    name: str
    word: Word
    holder: str
    seconds: float = 0.0
    reason: str = ""
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of one circuit, after what was said.

    Attributes:
        phase: what it is.
        seconds_left: OPEN: until its end, 0.0 when that is past.
        opened_ago: OPEN, from a store that knows the beginning and not the end: seconds since then; else None.
        reason: why it is open.
        epoch: which opening or closing this is; each has its own.
        lease_left: seconds until the probe lease ends, whoever holds it; 0.0 when nobody does.
        mine: whether the lease is in the name of whoever asked.
    """

    phase: Phase
    seconds_left: float = 0.0
    opened_ago: float | None = None
    reason: str = ""
    epoch: str = ""
    lease_left: float = 0.0
    mine: bool = False


class SharedState(Protocol):
    """Where processes share the states of their circuits. Handed to `CircuitBreaker(shared=...)`.

    Attributes:
        poll: seconds between two exchanges when there is nothing to tell.
        lease: seconds that a probing process is waited for when it is heard of no more; None: the store grants no
            lease, and every process probes on its own.
    """

    @property
    def poll(self) -> float:
        """Seconds between two exchanges."""
        ...

    @property
    def lease(self) -> float | None:
        """Seconds of a probe lease, or None."""
        ...

    def exchange(self, said: Sequence[Said], /) -> Sequence[Known]:
        """Take in what was said and answer, in the same order, what is known of each circuit then.

        Called by one thread at a time, never in a call's way. It should raise rather than wait longer than about a
        second: all the circuits of the process wait behind it.
        """
        ...


@dataclass(frozen=True, slots=True)
class SharedStateLost(Event):
    """The store `name` has not answered for some seconds: its circuits go by what this process sees.

    Attributes:
        reason: the error of the last attempt.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class SharedStateRegained(Event):
    """The store `name` answers again, after `silent_for` seconds."""

    silent_for: float
