"""A connection to Redis as an option: the package may be absent, the server too; the password is never shown."""

from __future__ import annotations

import codecs
import weakref
from typing import TYPE_CHECKING

from resilient.checks import positive_seconds
from resilient.errors import ConfigError

if TYPE_CHECKING:
    import redis


class RedisClient:
    """A pool of connections that gives up after `timeout` seconds and never tries twice; connects when first used.

    A forked child makes connections of its own (redis-py looks at the process id).

    Args:
        owner: for whom, in errors.
        url: as redis-py takes it.
        timeout: seconds that connecting, and then the answer, may take.

    Raises:
        ConfigError: when an argument is wrong, or the `redis` package is missing.
    """

    def __init__(self, owner: str, url: str, timeout: float) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError(
                f"{owner} needs the package redis: pip install 'resilient-patterns[redis]'", path="url"
            ) from None
        codecs.lookup("idna")  # else loaded by the thread that first connects, where no fork waits for it
        positive_seconds(owner, "timeout", timeout)
        if not isinstance(url, str):
            raise ConfigError(f"{owner}: url must be text such as 'redis://localhost:6379/0', not {url!r}", path="url")
        self.url = _without_password(url)
        try:
            self._pool = redis.ConnectionPool.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        except ValueError as error:
            raise ConfigError(f"{owner}: {self.url!r} is no Redis URL: {error}", path="url") from None
        weakref.finalize(self, self._pool.disconnect).atexit = False  # redis-py leaves that to the garbage collector

    def open(self) -> redis.Redis:
        """A client on the pool."""
        import redis

        return redis.Redis(connection_pool=self._pool)


def _without_password(url: str) -> str:
    """What may be logged: no user, no password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
