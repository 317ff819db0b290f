"""A store of circuits in memory, and the processes of a fleet in one test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, Permit, State, names
from resilient.shared_state import Known, Phase, Said, Word
from resilient.testing import VirtualClock
from tests.waiting import wait_until


class MemoryState:
    """What a store promises, in twenty lines; it can be made silent, and forgetful."""

    poll = 1.0
    lease = 5.0

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._epochs = 0
        self.held: dict[str, tuple[Phase, float, str, str]] = {}  # phase, end, reason, epoch
        self.leases: dict[str, tuple[str, float]] = {}
        self.said: list[Said] = []
        self.exchanges = 0
        self.broken: Exception | None = None

    def exchange(self, said: Sequence[Said], /) -> list[Known]:
        """One answer each."""
        with self._lock:
            if self.broken is not None:
                raise self.broken
            self.exchanges += 1
            self.said += [one for one in said if one.word is not Word.READ]
            return [self._one(one, self.clock.monotonic()) for one in said]

    def _one(self, said: Said, now: float) -> Known:
        phase, end, reason, epoch = self.held.get(said.name, (Phase.UNKNOWN, 0.0, "", ""))
        holder, lease_end = self.leases.get(said.name, ("", 0.0))
        if lease_end <= now:
            holder = ""
        if said.word is Word.OPENED:
            if now + said.seconds > end or phase is not Phase.OPEN:
                end, reason = now + said.seconds, said.reason
            phase, epoch = Phase.OPEN, self._epoch()
        elif said.word is Word.CLOSED and (phase is Phase.UNKNOWN or (phase, epoch) == (Phase.OPEN, said.epoch)):
            phase, end, reason, epoch = Phase.CLOSED, 0.0, "", self._epoch()
        elif said.word in {Word.PROBE, Word.PROBING} and holder in {"", said.holder} and end <= now:
            holder, lease_end = said.holder, now + said.seconds
        if said.word in {Word.OPENED, Word.CLOSED, Word.RELEASE} and holder == said.holder:
            holder, lease_end = "", 0.0
        if phase is not Phase.UNKNOWN:
            self.held[said.name] = phase, end, reason, epoch
        self.leases[said.name] = holder, lease_end
        left = max(0.0, lease_end - now) if holder else 0.0
        return Known(phase, max(0.0, end - now), None, reason, epoch, left, holder == said.holder)

    def _epoch(self) -> str:
        self._epochs += 1
        return str(self._epochs)

    def __repr__(self) -> str:
        return "MemoryState"


def process(name: str, shared: object, clock: VirtualClock, **settings: Any) -> CircuitBreaker:
    """The breaker `name` of one process more: the same label, for names are claimed per process."""
    names.forget()
    usual = dict[str, Any](open_duration=lambda _attempt: 10.0, rng=lambda: 0.0, half_open_successes=1)
    return CircuitBreaker(name, shared=shared, clock=clock, **(usual | settings))


def told(state: MemoryState, word: Word, count: int = 1) -> list[Said]:
    """Wait until `word` was said `count` times, and what was answered is done."""
    found = wait_until(
        lambda: some if len(some := [one for one in state.said if one.word is word]) >= count else [],
        what=f"{word.value} said {count} times",
    )
    wait_until(lambda: state.clock.waiting, what="the thread at rest")
    return found


def becomes(breaker: CircuitBreaker, state: State) -> None:
    """Wait until the breaker has heard."""
    wait_until(lambda: breaker.state is state, what=f"{breaker!r} {state.value}")


def advance(clock: VirtualClock, seconds: float) -> None:
    """Move on once the thread has done what it had to do and waits."""
    wait_until(lambda: clock.waiting, what="the thread waiting")
    clock.advance(seconds)


def rounds(clock: VirtualClock, store: MemoryState, count: int = 1) -> None:
    """Let `count` readings pass, one second each."""
    for _ in range(count):
        before = store.exchanges
        advance(clock, 1.0)
        wait_until(lambda: store.exchanges > before, what="a reading")  # noqa: B023  # asked before the next turn
    wait_until(lambda: clock.waiting, what="the thread waiting")


def refused(breaker: CircuitBreaker) -> float:
    """Call once: it must be refused; seconds until it makes sense to ask again."""
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def admitted(breaker: CircuitBreaker) -> Permit:
    """Call until it is admitted; the store is asked meanwhile."""

    def ask() -> Permit | None:
        with contextlib.suppress(CircuitOpenError):
            return breaker.acquire()
        return None

    permit = wait_until(ask, what="a probe admitted")
    assert permit is not None
    return permit
