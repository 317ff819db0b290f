"""A program that runs for us: started with untouched signals, told of those that come, reaped with all that is left.

Signals are blocked and waited for, in the main thread; there are no handlers that could interrupt anything. That works
as the first process of a container too, for which the system ignores signals that nobody handles.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

_KERNEL = 0x80  # si_code of what a terminal sends
_POLL = 0.05  # seconds between two looks for signals where the system can not wait with a time limit
_OURS_TO_LEAVE = ("SIGKILL", "SIGSTOP", "SIGTSTP", "SIGCONT", "SIGPIPE", "SIGURG", "SIGSYS")
_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT")


class Heard(NamedTuple):
    """A signal, and whether the terminal sent it: then everybody in front of it has heard it too."""

    number: int  # not every one has a name: real-time signals
    from_terminal: bool


def waited_for() -> frozenset[signal.Signals]:
    """The signals that are passed on, and SIGCHLD."""
    kept = {getattr(signal, name) for name in (*_OURS_TO_LEAVE, *_FAULTS) if hasattr(signal, name)}
    return frozenset(number for number in signal.valid_signals() if number not in kept)


class Child:
    """The program.

    Args:
        command: its name, found by $PATH, and its arguments.

    Raises:
        OSError: when it can not be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._signals = waited_for()
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, by whoever started us, nobody could be waited for
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        restored = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]  # Python's own
        try:
            self.pid = os.posix_spawnp(command[0], list(command), os.environ, setsigmask=before, setsigdef=restored)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        self.status: int | None = None

    def running(self) -> bool:
        """Whether it has not ended yet, as far as has been heard."""
        return self.status is None

    def send(self, number: int) -> None:
        """Pass a signal on; a program that has ended hears nothing."""
        if self.status is None:
            os.kill(self.pid, number)  # not yet reaped, so the number is still its own

    def hear(self, timeout: float | None) -> Heard | None:
        """The next signal for the program, or None after `timeout` seconds, or when the program has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.running():
            heard = self._next(None if end is None else max(0.0, end - time.monotonic()))
            if heard is None or heard.number != signal.SIGCHLD:
                return heard
            self.reap()
        return None

    def reap(self) -> None:
        """Collect all that has ended: the program, and as the first process of a container whatever it left behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code  # as a shell says it

    def _next(self, timeout: float | None) -> Heard | None:
        if not hasattr(signal, "sigtimedwait"):
            return self._poll(timeout)
        found = signal.sigwaitinfo(self._signals) if timeout is None else signal.sigtimedwait(self._signals, timeout)
        return None if found is None else Heard(found.si_signo, found.si_code == _KERNEL)

    def _poll(self, timeout: float | None) -> Heard | None:
        end = None if timeout is None else time.monotonic() + timeout
        while not signal.sigpending() & self._signals:
            if end is not None and time.monotonic() >= end:
                return None
            time.sleep(_POLL)
        number = signal.sigwait(self._signals)
        return Heard(number, number in {signal.SIGINT, signal.SIGQUIT} and _in_front_of_a_terminal())


def _in_front_of_a_terminal() -> bool:
    """Whether Ctrl-C reaches us; where the system does not say who sent a signal, it is taken to have been that."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
