"""What is true about our own instance: the status somebody wants, its health, and when either last changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from resilient.clock import wall_ms
from resilient.errors import ConfigError

logger = logging.getLogger("resilient")

_STATUSES = ("UP", "OUT_OF_SERVICE", "DOWN")


class Condition:
    """The status to be told, and the moment of its last change in epoch milliseconds. Safe for threads.

    Args:
        service: named in the log.
        health: False, or an exception, means DOWN; None: always well.
    """

    def __init__(self, service: str, health: Callable[[], bool] | None) -> None:
        self.dirty_ms = 0
        self._service = service
        self._health = health
        self._wanted = "UP"
        self._well = True
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread while it holds this

    def read(self) -> tuple[int, str]:
        """When it last changed, and the status."""
        with self._lock:
            return self.dirty_ms, self._wanted if self._well else "DOWN"

    def change(self) -> None:
        """Something is new: later than before, whatever the wall clock does."""
        with self._lock:
            self.dirty_ms = max(wall_ms(), self.dirty_ms + 1)

    def want(self, status: str) -> bool:
        """Want `status` from now on; whether that is a change.

        Raises:
            ConfigError: when there is no such status.
        """
        check_status(status)
        with self._lock:
            changed = status != self._wanted
            if changed:
                self._wanted = status
                self.change()
            return changed

    def ask(self) -> None:
        """Ask for our health, outside every lock."""
        if self._health is None:
            return
        try:
            well = bool(self._health())
        except Exception:
            well = False
            logger.log(
                logging.WARNING if self._well else logging.DEBUG,  # once per illness
                "the health check of %s raised; its status is DOWN",
                self._service,
                exc_info=True,
            )
        with self._lock:
            if well != self._well:
                self._well = well
                self.change()

    def after_fork_in_child(self) -> None:
        """Forget who held the lock."""
        self._lock = threading.RLock()


def check_status(status: str) -> None:
    """Refuse what is no status that may be told."""
    if status not in _STATUSES:
        raise ConfigError(f"status must be one of {', '.join(_STATUSES)}, not {status!r}", path="status")
