"""One circuit's side of sharing: what it has to tell the other processes, and what it does with what they tell.

State, its end and its reason are shared; what a process counts stays its own. Calls set flags and wake a thread; the
thread speaks with the store. Nothing here keeps a breaker alive.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import weakref
from typing import NamedTuple, Protocol

from resilient.checks import positive_seconds
from resilient.clock import Clock, forget_on_fork
from resilient.errors import ConfigError
from resilient.policies.circuit_rounds import Link, Rounds, rounds_of
from resilient.policies.circuit_states import State
from resilient.policies.pybreaker_storage import ATTRIBUTES, PybreakerStorage
from resilient.shared_state import Known, Phase, Said, SharedState, Word

logger = logging.getLogger("resilient")

_NEVER = float("-inf")
_SOON = 0.1  # seconds until a caller who had to ask may know: the thread is at it
_DUE = 0.001  # seconds: opens a circuit whose open time is over, so that the next caller is the probe
_CLOSER = 0.05  # seconds by which two ends may differ and be the same: what is read is as old as the answer took
_BY_HAND = frozenset({State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY})


class _Snapshot(Protocol):
    @property
    def retry_after(self) -> float | None: ...


class SharedBreaker(Protocol):
    """What the sharing needs of its breaker."""

    _clock: Clock
    _named: bool

    @property
    def name(self) -> str:
        """The same in every process."""
        ...

    @property
    def state(self) -> State:
        """The state now."""
        ...

    def snapshot(self) -> _Snapshot:
        """Only `retry_after` is read."""
        ...

    def open_from_elsewhere(self, seconds: float, reason: str) -> None:
        """Another process opened the circuit."""
        ...

    def close_from_elsewhere(self) -> None:
        """Another process closed it."""
        ...

    def _open_time(self, attempt: int) -> float: ...


class _Change(NamedTuple):
    """The last thing that happened here and is not told yet: what happened before it does not matter any more."""

    word: Word
    until: float = _NEVER
    reason: str = ""


def share(breaker: SharedBreaker, shared: object) -> Sharing | None:
    """Share the state of `breaker` through `shared`; None: it keeps it to itself.

    Args:
        breaker: complete, but for its own reference to what this returns: a thread looks at it from now on.
        shared: a SharedState, or an object with the attributes of a pybreaker.CircuitBreakerStorage.

    Raises:
        ConfigError: when it is neither.
    """
    if shared is None:
        return None
    return Sharing(breaker, _store(shared))


class Sharing:
    """What a breaker holds to share its state. Safe for threads; nothing here waits or does I/O but the thread."""

    def __init__(self, breaker: SharedBreaker, store: SharedState) -> None:
        self._breaker = weakref.ref(breaker)
        self._clock = breaker._clock
        self._rounds: Rounds = rounds_of(self._clock)
        self.link: Link = self._rounds.link(store)
        self._lock = threading.RLock()  # reentrant: a signal handler may call through the breaker it interrupts
        self._holder = _token()
        self._epoch = ""
        self._reason = ""
        self._change: _Change | None = None
        self._telling: _Change | None = None
        self._asked = False
        self._hurry = True  # what the fleet knows is wanted before the first call
        self._by_hand = False
        self._held_until = self._others_until = _NEVER
        self._unused = False  # a lease that was granted, and no caller has come yet
        self._nameless = 0
        forget_on_fork(self)
        self._rounds.join(self)

    # --- the breaker's calls ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """See that the thread runs: in a forked child it does not yet. Cheap when it does."""
        self._rounds.start()

    def may_probe(self, now: float) -> float:
        """0.0: go half-open; else the seconds until asking again makes sense."""
        breaker, store = self._breaker(), self.link.store
        if store.lease is None or breaker is None or not breaker._named or self.link.silent(now):
            return 0.0
        with self._lock:
            if now < self._held_until:
                return 0.0
            if now < self._others_until:
                return self._others_until - now
            if self._unused:
                # Callers here are further apart than a lease lasts: asking first would refuse every one of them. The
                # last read saw nobody probe.
                self._unused = False
                return 0.0
            first, self._asked = not self._asked, True
        self._rounds.start()
        if first:
            self._rounds.wake()
        return _SOON

    def changed(self, new: State, seconds_left: float | None, reason: str) -> None:
        """The breaker went to `new` on its own: open for `seconds_left`, because of `reason`."""
        now = self._clock.monotonic()
        with self._lock:
            left_by_hand, self._by_hand = self._by_hand, new in _BY_HAND
            held, self._held_until = self._held_until, _NEVER
            self._asked = self._unused = False
            if new is State.HALF_OPEN:
                self._held_until = held
                self._change, self._hurry = None, True  # the lease may be near its end
            elif new is State.OPEN:
                self._change = _Change(Word.OPENED, now + (seconds_left or 0.0), reason)
            elif new is State.CLOSED and not left_by_hand:
                self._change = _Change(Word.CLOSED)
            else:  # states set by hand, and their end, are this process's own
                self._change = _Change(Word.RELEASE)
        self._rounds.start()
        self._rounds.wake()

    # --- the thread's calls -----------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:
        """Whether the thread should speak with the store now."""
        return self._change is not None or self._asked or self._hurry

    def say(self, now: float) -> Said | None:
        """What is to be said; None while the breaker has no name that others could know it by."""
        breaker = self._breaker()
        if breaker is None or not self._has_name(breaker):
            return None
        probing = breaker.state is State.HALF_OPEN
        with self._lock:
            change, self._change = self._change, None
            self._telling = change
            self._hurry = False
            seconds = 0.0
            if change is not None and change.word is Word.OPENED and change.until <= now:
                change = self._telling = None  # it took so long that it is over
            if change is not None:
                word, seconds = change.word, max(0.0, change.until - now)
            elif probing:
                word = Word.PROBING
            else:
                word = Word.PROBE if self._asked else Word.READ
            if word in {Word.PROBE, Word.PROBING}:
                seconds = self.link.store.lease or 0.0
            reason = "" if change is None else change.reason
            return Said(breaker.name, word, self._holder, seconds, reason, self._epoch)

    def unheard(self) -> None:
        """What was said last did not arrive: say it again, unless there is something newer."""
        with self._lock:
            if self._change is None:
                self._change = self._telling
            self._telling = None

    def hear(self, said: Said, known: Known, started: float, now: float) -> None:
        """What the store knows, by a question put at `started`."""
        breaker = self._breaker()
        if breaker is None:
            return
        with self._lock:
            self._telling = None
            if self._change is not None:  # something happened here meanwhile: this is older than that
                if said.word is Word.OPENED:
                    self._epoch = known.epoch  # of this process's own opening: that is what a close to be told undoes
                return
            self._epoch, self._reason = known.epoch, known.reason
            self._lease_locked(said, known, started, now)
        if known.phase is Phase.OPEN:
            self._opened(breaker, known, now - started, now)
        elif known.phase is Phase.CLOSED and breaker.state in {State.OPEN, State.HALF_OPEN}:
            breaker.close_from_elsewhere()
        elif known.phase is Phase.UNKNOWN and breaker.state is State.OPEN:
            self._remind(breaker, now)

    def after_fork_in_child(self) -> None:
        """Another process: another holder of leases, with nothing to tell of its own."""
        self._lock = threading.RLock()
        self._holder = _token()
        self._change = self._telling = None
        self._asked = self._hurry = self._unused = False
        self._held_until = _NEVER

    # --- what the answer means --------------------------------------------------------------------------------------

    def _lease_locked(self, said: Said, known: Known, started: float, now: float) -> None:
        self._others_until = _NEVER if known.mine else now + known.lease_left
        if said.word in {Word.PROBE, Word.PROBING} and known.mine:
            self._held_until = started + said.seconds  # a little early: it runs since the store granted it
            self._unused = said.word is Word.PROBE
        elif known.lease_left > 0 and not known.mine:
            self._held_until, self._unused = _NEVER, False
        if said.word is Word.PROBE:
            self._asked = False

    def _opened(self, breaker: SharedBreaker, known: Known, took: float, now: float) -> None:
        left = known.seconds_left if known.opened_ago is None else breaker._open_time(1) - known.opened_ago
        left -= took  # rather a moment early than a moment later at each reading
        state = breaker.state
        if left > 0:
            mine = breaker.snapshot().retry_after if state is State.OPEN else None
            if mine is None or mine + _CLOSER < left:
                breaker.open_from_elsewhere(left, known.reason or "another process opened it")
        elif state is State.CLOSED:  # a process that has just started, say: the others are not done with it
            other = 0.0 if known.mine else known.lease_left - took
            breaker.open_from_elsewhere(max(_DUE, other), known.reason or "another process opened it")

    def _remind(self, breaker: SharedBreaker, now: float) -> None:
        """The store lost its memory; what this process knows may be what the others need."""
        left = breaker.snapshot().retry_after
        if left is not None and left > 0:
            with self._lock:
                if self._change is None:
                    self._change = _Change(Word.OPENED, now + left, self._reason or "another process opened it")
            self._rounds.wake()

    def _has_name(self, breaker: SharedBreaker) -> bool:
        if breaker._named:
            return True
        self._nameless += 1
        if self._nameless == 2:  # at the first look it may be about to get its command's name
            logger.warning("a circuit breaker without a name shares nothing: give it the name it has in every process")
        return False


def _token() -> str:
    return os.urandom(12).hex()


def _store(shared: object) -> SharedState:
    if not isinstance(shared, type):
        if callable(getattr(shared, "exchange", None)) and _has(shared, "poll") and _has(shared, "lease"):
            store: SharedState = shared  # type: ignore[assignment]  # looked at in this line and the one above
            positive_seconds("CircuitBreaker", "shared.poll", store.poll)
            return store
        if all(_has(shared, name) for name in ATTRIBUTES):
            return PybreakerStorage(shared)
    raise ConfigError(
        "CircuitBreaker: shared must be a SharedState such as RedisState(url), or a storage of pybreaker's,"
        f" not {shared!r}",
        path="shared",
    )


def _has(thing: object, name: str) -> bool:
    """Whether it has the attribute; asks no property, for that may be a question over the network."""
    try:
        inspect.getattr_static(thing, name)
    except AttributeError:
        return False
    return True
