"""Worker threads for calls that may be left behind: daemons, one job each, made on demand, never a queue.

A ThreadPoolExecutor will not do: its threads are joined when the interpreter exits, so one hung call hangs the exit,
and its queue makes a call wait behind calls that nobody waits for any more.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from resilient.clock import forget_on_fork
from resilient.errors import BulkheadFullError

logger = logging.getLogger("resilient")

Job = Callable[[], object]


class Mover:
    """Marks a policy that moves sync calls to threads of its own, and leaves them behind when the deadline comes."""


def drop_late(owner: object, result: object, error: BaseException | None) -> None:
    """What a call that was left behind has given in the end: nobody wants it; closed when it can be."""
    logger.debug("%r: a call left behind has ended (%s)", owner, error or type(result).__name__)
    close = getattr(result, "close", None)
    if callable(close):
        try:
            close()
        except Exception:
            logger.debug("%r: closing the late result raised", owner, exc_info=True)


class Workers:
    """Daemon threads that run one job at a time each.

    Args:
        most: threads at most, busy and idle; a job beyond that is refused.
        keep: seconds an idle thread is kept.
    """

    def __init__(self, most: int = 256, keep: float = 60.0) -> None:
        self._most = most
        self._keep = keep
        self._lock = threading.RLock()  # reentrant: a signal handler may start a job while this thread does
        self._idle: list[SimpleQueue[Job]] = []
        self._threads = 0
        forget_on_fork(self)

    def start(self, job: Job, *, policy: str) -> None:
        """Run `job` in a thread of its own, at once. `job` must not raise.

        Raises:
            BulkheadFullError: naming `policy`, when all threads are busy.
        """
        with self._lock:
            try:  # a signal handler may take the last one between a look and the step
                inbox = self._idle.pop()  # the one used last: its memory is warm
            except IndexError:
                inbox = None
            full = inbox is None and self._threads >= self._most
            if inbox is None and not full:
                self._threads += 1
        if full:
            raise BulkheadFullError(
                f"all {self._most} worker threads are busy, most of them with calls that timed out and still run",
                policy=policy,
            )
        if inbox is None:
            inbox = SimpleQueue()
            thread = threading.Thread(
                target=contextvars.Context().run, args=(self._work, inbox), name="resilient-worker", daemon=True
            )
            try:
                thread.start()
            except BaseException as error:
                if isinstance(error, RuntimeError):  # the system gives no more threads: nobody else's fault
                    with self._lock:
                        self._threads -= 1
                    raise BulkheadFullError(f"no worker thread could be started: {error}", policy=policy) from error
                raise  # interrupted: the thread runs, and will find out that no job comes
        inbox.put(job)

    @property
    def threads(self) -> int:
        """How many threads there are, busy and idle."""
        return self._threads

    def after_fork_in_child(self) -> None:
        """The parent's threads are not here."""
        self._lock = threading.RLock()
        self._idle = []
        self._threads = 0

    def _work(self, inbox: SimpleQueue[Job]) -> None:
        missed = False
        while True:
            try:
                job = inbox.get(timeout=self._keep)
            except Empty:
                with self._lock:
                    idle = inbox in self._idle
                    if idle:
                        self._idle.remove(inbox)
                    if idle or missed:  # who took it was interrupted before the job was handed over
                        self._threads -= 1
                        return
                missed = True
                continue  # a job was handed over at this very moment
            missed = False
            try:
                job()
            except BaseException:
                logger.exception("a worker's job raised; the worker goes on")
            del job  # hold no caller's arguments while idle
            with self._lock:
                self._idle.append(inbox)


WORKERS = Workers()
"""The process's own: shared by every sync timeout."""
