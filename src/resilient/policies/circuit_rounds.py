"""The one thread that speaks with the stores of shared circuits, so that no call ever does."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import Protocol

from resilient.clock import Clock, forget_on_fork
from resilient.events import publish
from resilient.shared_state import Known, Said, SharedState, SharedStateLost, SharedStateRegained

logger = logging.getLogger("resilient")

SILENCE = 3.0  # seconds without an answer after which a process goes by what it sees itself
_AFTER_A_BUG = 1.0  # seconds: whatever it is, it must not keep a processor busy


class Ring(threading.Event):
    """An event that a weak reference's callback may set: a lock taken inside a GC run can deadlock, this takes none.

    Waiting takes the ring away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rings: SimpleQueue[None] = SimpleQueue()  # its put is reentrant, by contract

    def set(self) -> None:
        """Wake the thread."""
        if self._rings.empty():
            self._rings.put(None)

    def is_set(self) -> bool:
        """Whether it was rung."""
        return not self._rings.empty()

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is rung, or for `timeout` seconds."""
        try:
            self._rings.get(timeout=timeout)
        except Empty:
            return False
        return True


class Member(Protocol):
    """One shared circuit, as the thread sees it."""

    link: Link

    @property
    def urgent(self) -> bool:
        """Whether there is something to say now."""
        ...

    def say(self, now: float) -> Said | None:
        """What is to be said; None: nothing, not even a question."""
        ...

    def unheard(self) -> None:
        """What was said last did not arrive."""
        ...

    def hear(self, said: Said, known: Known, started: float, now: float) -> None:
        """The answer; the question was put at `started`."""
        ...


class Link:
    """One store, and how well it answers."""

    def __init__(self, store: SharedState) -> None:
        self.store = store
        self.due = float("-inf")
        self.silent_since: float | None = None  # None between exchanges that go well
        self._lost = False

    def silent(self, now: float) -> bool:
        """Whether it has not answered for so long that this process is on its own."""
        since = self.silent_since
        return since is not None and now - since >= SILENCE

    def exchange(self, members: Sequence[Member], clock: Clock) -> None:
        """Say what is to be said and pass on the answers. Raises nothing that the store raises."""
        started = clock.monotonic()
        asked = [(member, said) for member in members if (said := member.say(started)) is not None]
        try:
            if asked:
                if self.silent_since is None:
                    self.silent_since = started
                self._exchange(asked, started, clock)
        finally:
            self.due = clock.monotonic() + self.store.poll

    def _exchange(self, asked: Sequence[tuple[Member, Said]], started: float, clock: Clock) -> None:
        try:
            answers = list(self.store.exchange([said for _, said in asked]))
            if len(answers) != len(asked):
                raise RuntimeError(f"{len(answers)} answers to {len(asked)} questions")
        except Exception as error:
            for member, _ in asked:
                member.unheard()
            self._failed(error, clock.monotonic())
            return
        now = clock.monotonic()
        self._answered(now)
        for (member, said), known in zip(asked, answers, strict=True):
            member.hear(said, known, started, now)

    def _failed(self, error: Exception, now: float) -> None:
        if self._lost or not self.silent(now):
            return
        self._lost = True
        logger.warning(
            "the shared state %r does not answer; its circuits go by what this process sees", self.store, exc_info=error
        )
        publish(SharedStateLost(repr(self.store), now, f"{type(error).__name__}: {error}"))

    def _answered(self, now: float) -> None:
        since, self.silent_since = self.silent_since, None
        if self._lost and since is not None:
            self._lost = False
            logger.info("the shared state %r answers again", self.store)
            publish(SharedStateRegained(repr(self.store), now, now - since))


class Rounds:
    """Speaks with each store once per poll, and at once when a circuit has something to say.

    The thread starts with the first member and ends when the last one is gone; members are held weakly.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread while it holds this
        self._members: tuple[weakref.ref[Member], ...] = ()
        self._ring = Ring()
        self._thread: threading.Thread | None = None
        forget_on_fork(self)

    def link(self, store: SharedState) -> Link:
        """The link to `store`; members of one store share one, and are asked about in one exchange."""
        with self._lock:
            return next((member.link for member in self._living() if member.link.store is store), None) or Link(store)

    def join(self, member: Member) -> None:
        """Take a circuit in."""
        ring = self._ring
        gone = weakref.ref(member, lambda _gone: ring.set())
        with self._lock:
            self._members = (*self._members, gone)
        self.start()
        self.wake()

    def wake(self) -> None:
        """There is something to say."""
        self._ring.set()

    def start(self) -> None:
        """Run, unless running: after a fork, or where no thread was to be had before. Cheap when it runs."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        with self._lock:
            if (self._thread is not None and self._thread.is_alive()) or not self._members:
                return
            thread = threading.Thread(target=Context().run, args=(self._run,), name="resilient-shared", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # no thread to be had now: the next who asks tries again
                self._thread = None
                now = self._clock.monotonic()
                for member in self._living():
                    if member.link.silent_since is None:
                        member.link.silent_since = now

    def after_fork_in_child(self) -> None:
        """The thread is the parent's, and so is what it was waiting for."""
        self._lock = threading.RLock()
        self._ring = Ring()
        self._thread = None
        for member in self._living():
            member.link.silent_since = None
            member.link.due = float("-inf")

    def _living(self) -> list[Member]:
        return [member for gone in self._members if (member := gone()) is not None]

    def _run(self) -> None:
        me = threading.current_thread()
        ring = self._ring
        while True:
            seconds = self._round(me)
            if seconds is None:
                return
            self._clock.wait(ring, seconds)

    def _round(self, me: threading.Thread) -> float | None:
        """Speak with the stores whose time has come; seconds until the next one's, None when nobody is left."""
        with self._lock:
            self._members = tuple(gone for gone in self._members if gone() is not None)
            members = self._living()
            if not members or self._thread is not me:
                if self._thread is me:
                    self._thread = None
                return None
        groups: dict[int, list[Member]] = {}
        for member in members:
            groups.setdefault(id(member.link), []).append(member)
        links = [group[0].link for group in groups.values()]
        for link, group in zip(links, groups.values(), strict=True):
            hurry = link.silent_since is None and any(member.urgent for member in group)
            if hurry or link.due <= self._clock.monotonic():
                try:
                    link.exchange(group, self._clock)
                except Exception:
                    logger.exception("a bug in the sharing of circuits through %r; it goes on", link.store)
                    link.due = self._clock.monotonic() + _AFTER_A_BUG
        return max(0.0, min(link.due for link in links) - self._clock.monotonic())


class _Everywhere:
    """The rounds of each clock: one in a process, but for tests that bring clocks of their own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rounds: weakref.WeakValueDictionary[int, Rounds] = weakref.WeakValueDictionary()
        forget_on_fork(self)

    def of(self, clock: Clock) -> Rounds:
        with self._lock:
            found = self._rounds.get(id(clock))  # the rounds hold their clock: its id is nobody else's meanwhile
            if found is None:
                self._rounds[id(clock)] = found = Rounds(clock)
            return found

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()


_everywhere = _Everywhere()


def rounds_of(clock: Clock) -> Rounds:
    """The rounds that go by `clock`."""
    return _everywhere.of(clock)
