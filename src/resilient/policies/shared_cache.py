"""A cache behind StaleCache that several processes share. Never in the call's way: Redis gone is Redis empty."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol

from resilient.clock import forget_on_fork
from resilient.policies.redis_client import RedisClient

logger = logging.getLogger("resilient")

_QUEUE = 1000  # answers waiting to be written; beyond that the oldest is dropped


class SharedCache(Protocol):
    """Where StaleCache keeps what other processes may need. Neither method raises or takes long."""

    def put(self, key: str, value: Any, max_age: float) -> None:
        """Keep `value` for `max_age` seconds; returns at once."""
        ...

    def get(self, key: str) -> tuple[Any, float] | None:
        """(value, age in seconds), or None when there is none or the answer takes too long."""
        ...


class RedisCache:
    """Answers shared through Redis: a process that never got one can hand out another's.

    Written by one daemon thread (a queue of 1,000, the oldest dropped), read only when a call failed, for `timeout`
    seconds at most. The age is measured by the Redis server's clock. An outage is logged once and is otherwise the
    same as an empty cache. Values are JSON unless told otherwise; never use pickle with a Redis that others can write.

    Args:
        url: as redis-py takes it, such as "redis://localhost:6379/0".
        prefix: of the keys, default "resilient:stale:".
        dumps: turns a value into bytes, default JSON.
        loads: turns them back.
        timeout: seconds a read may take, default 0.05.

    Raises:
        ConfigError: when an argument is wrong, or the `redis` package is missing.

    Safe for threads and event loops.

    Example:
        >>> from resilient import StaleCache
        >>> from resilient.policies.shared_cache import RedisCache
        >>> cache = StaleCache(max_age=600, shared=RedisCache("redis://localhost:6379"))  # connects when first needed
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "resilient:stale:",
        dumps: Callable[[Any], bytes] | None = None,
        loads: Callable[[bytes], Any] | None = None,
        timeout: float = 0.05,
    ) -> None:
        self._client = RedisClient("RedisCache", url, timeout)
        self._url = self._client.url
        self._prefix = prefix
        self._dumps = dumps or _dumps
        self._loads = loads or json.loads
        self._queue: deque[tuple[str, Any, float]] = deque(maxlen=_QUEUE)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._writer: threading.Thread | None = None
        self._down = False
        self._told: set[str] = set()
        forget_on_fork(self)

    def put(self, key: str, value: Any, max_age: float) -> None:
        """Keep `value` for `max_age` seconds; returns at once."""
        self._queue.append((key, value, max_age))
        self._wake.set()
        if self._writer is None:
            with self._lock:
                if self._writer is None:
                    writer = threading.Thread(
                        target=Context().run, args=(self._write,), name="resilient-redis-cache", daemon=True
                    )
                    with suppress(RuntimeError):  # no thread to be had now: the next answer tries again
                        writer.start()
                        self._writer = writer

    def get(self, key: str) -> tuple[Any, float] | None:
        """(value, age in seconds), or None."""
        try:
            with self._client.open().pipeline(transaction=True) as pipe:
                pipe.get(self._prefix + key)
                pipe.pttl(self._prefix + key)
                raw, left_ms = pipe.execute()
            self._reached()
        except Exception as error:
            self._failed(error)
            return None
        if raw is None:
            return None
        try:
            max_age, _, body = bytes(raw).partition(b"\n")
            return self._loads(body), max(0.0, float(max_age) - left_ms / 1000)
        except Exception as error:
            self._not_understood("read", error)
            return None

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread, queue and connections (redis-py makes new ones by itself)."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._queue.clear()
        self._writer = None

    def _write(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                key, value, max_age = self._queue.popleft()
                try:
                    body = f"{max_age!r}\n".encode() + self._dumps(value)
                except Exception as error:
                    self._not_understood("written", error)
                    continue
                try:
                    self._client.open().set(self._prefix + key, body, px=max(1, int(max_age * 1000)))
                    self._reached()
                except Exception as error:
                    self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._down:
            self._down = True
            logger.warning("the shared cache at %s does not answer; going on without it", self._url, exc_info=error)

    def _not_understood(self, what: str, error: Exception) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning(
                "a value in the shared cache at %s could not be %s (told once): give RedisCache dumps= and loads= that"
                " know it",
                self._url,
                what,
                exc_info=error,
            )

    def _reached(self) -> None:
        if self._down:
            self._down = False
            logger.info("the shared cache at %s answers again", self._url)

    def __repr__(self) -> str:
        return f"RedisCache({self._url!r})"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
