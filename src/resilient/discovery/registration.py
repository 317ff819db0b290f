"""Being listed while a block runs, and leaving the list however the process ends."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from typing import Any, Protocol, Self

from resilient.clock import forget_on_fork
from resilient.discovery.bell import Bell
from resilient.discovery.instance import Instance
from resilient.discovery.leaving import BUDGET, aleave, leave
from resilient.discovery.refresh import Refresh
from resilient.discovery.registry import Registration
from resilient.discovery.steps import Exchange, Job
from resilient.errors import ConfigError

logger = logging.getLogger("resilient")

_BUDGET_AT_EXIT = 2.0  # seconds when the process is about to end


class Lease(Job, Protocol):
    """What keeps one entry alive; one kind per registry."""

    instance: Instance
    idle: Bell
    busy: bool
    drain: float

    @property
    def registered(self) -> bool:
        """Whether the registry lists it, as far as is known."""
        ...

    def open(self) -> None:
        """Begin."""
        ...

    def close(self) -> None:
        """Work no more."""
        ...

    def set_status(self, status: str) -> bool:
        """Whether that is a change."""
        ...

    def fade(self, budget: float) -> Exchange[None]:
        """Tell callers to come no more, within `budget` seconds; the entry is taken out `drain` seconds later."""
        ...

    def leave(self, budget: float) -> Exchange[None]:
        """Take the entry out within `budget` seconds."""
        ...

    def after_fork_in_child(self) -> None:
        """Say nothing about the parent's entry."""
        ...


class LeaseRegistration(Registration):
    """A registration that the refresh loop of its registry keeps alive.

    Args:
        lease: what to send.
        refresh: the loop that sends it.
        owner: the registry, whose end would end the loop: a registration that somebody holds, holds it.
        sigterm: whether SIGTERM takes the entry out first.
    """

    def __init__(self, lease: Lease, refresh: Refresh, owner: object, *, sigterm: bool) -> None:
        self._lease = lease
        self._refresh = refresh
        self._owner = owner
        self._sigterm = sigterm
        self._lock = threading.RLock()  # the SIGTERM handler may interrupt its own thread while it holds this
        self._opened = False
        self._previous: Any = None  # the handler of SIGTERM before ours

    @property
    def instance(self) -> Instance:  # type: ignore[override]  # read-only here: the loop completes it
        """What is registered."""
        return self._lease.instance

    @property
    def registered(self) -> bool:
        """Whether the registry has confirmed it and, as far as is known, lists it now."""
        return self._lease.registered

    def set_status(self, status: str, /) -> None:
        """UP, OUT_OF_SERVICE (drain) or DOWN; sent by the refresh loop at once, not waited for.

        Raises:
            ConfigError: when it is none of these.
        """
        if self._lease.set_status(status):
            self._refresh.wake()

    def __enter__(self) -> Self:
        self._open()
        self._refresh.start()
        return self

    async def __aenter__(self) -> Self:
        self._open()
        self._refresh.start_tasks()
        return self

    def _open(self) -> None:
        if self._sigterm and threading.current_thread() is not threading.main_thread():
            raise ConfigError("sigterm=True: a signal handler can be installed by the main thread only", path="sigterm")
        with self._lock:
            if self._opened:
                return
            self._opened = True
        self._lease.open()
        self._refresh.add(self._lease, first=True)
        forget_on_fork(self)
        atexit.register(self._at_exit)
        if self._sigterm:
            self._previous = signal.signal(signal.SIGTERM, self._on_sigterm)

    def shut(self) -> Lease | None:
        """Work no more, and say what is left to be taken out; None when that was done before."""
        return self._lease if self._shut() else None

    def _shut(self) -> bool:
        """Work no more; whether this call is the one that does it."""
        with self._lock:
            was, self._opened = self._opened, False
        if was:
            self._refresh.remove(self._lease)
            self._lease.close()
            atexit.unregister(self._at_exit)
            self._restore_sigterm()
        return was

    def close(self) -> None:
        """Take the entry out, ≤ 5 s and the time for draining; never raises; twice is fine."""
        if self._shut():
            here = self._refresh.here
            if not self._refresh.agenda.jobs:  # nobody asked who is there: the loop ran for us alone
                self._refresh.stop()
            leave(self._refresh, (self._lease,), BUDGET, here=here)

    async def aclose(self) -> None:
        """The same, for an event loop."""
        if self._shut():
            try:
                if not self._refresh.agenda.jobs:
                    await self._refresh.astop()
            finally:  # cancelled while waiting, the entry is taken out all the same
                await aleave(self._refresh, (self._lease,), BUDGET)

    def _at_exit(self) -> None:
        if self._shut():
            leave(self._refresh, (self._lease,), _BUDGET_AT_EXIT, here=self._refresh.here)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        """Leave, then do what would have been done. Wakes nobody: what it interrupted may hold that event's lock."""
        previous = self._previous
        self._lease.close()
        leave(self._refresh, (self._lease,), _BUDGET_AT_EXIT, here=self._refresh.here)
        if callable(previous):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore_sigterm(self) -> None:
        if not self._sigterm or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) == self._on_sigterm:  # else somebody came after us and chains to us
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._previous is None else self._previous)

    def after_fork_in_child(self) -> None:
        """The entry is the parent's: the child neither renews it nor takes it out."""
        self._lock = threading.RLock()
        self._opened = False
        atexit.unregister(self._at_exit)
        self._lease.after_fork_in_child()

    def __repr__(self) -> str:
        instance = self.instance
        state = "registered" if self.registered else "waiting" if self._opened else "closed"
        return f"<Registration {instance.service!r} {instance.host or '?'}:{instance.port} {state}>"
