"""The broker as everybody sees it: publish, subscribe, and an address that says which one it is."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from examples.hospital.messages.counts import Counts
from examples.hospital.messages.delivery import DEAD_LETTERS, Desk, Handler, Redelivery
from examples.hospital.messages.message import checked_id, checked_topic, encode
from resilient.errors import ConfigError

logger = logging.getLogger(__name__)
T = TypeVar("T")

_CLOSE_TIMEOUT = 4.0  # seconds for the handlers that run; what they do not finish comes again, to another member
_AGAIN = 0.5  # seconds between two tries to consume
_TELL_AGAIN = 60.0  # seconds between two warnings about that


class BrokerAwayError(ConnectionError):
    """The broker did not confirm the message: it may or may not have it. Publish again, with the same id."""


class Broker(ABC):
    """A message broker: `async with broker_of_url(url) as broker`.

    It connects in the background, and again for ever: a service starts, and serves what it can, while the broker is
    away. Messages are delivered at least once: a handler that must not run twice is guarded by an Inbox. Used by one
    event loop.
    """

    def __init__(self, host: str, port: int, counts: Counts, redelivery: Redelivery) -> None:
        self._host, self._port = host, port
        self.counts = counts
        self._redelivery = redelivery
        self._open = False
        self._consumers: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the broker answers, as far as is known; for a health page."""

    async def publish(self, topic: str, body: Mapping[str, Any], *, id: str) -> None:  # noqa: A002  # as Message has it
        """Give a message to the broker, and wait until it has stored it.

        Args:
            topic: what it is about: 1 to 100 letters, digits, `_` or `-`.
            body: what JSON can say, at most 256 KiB.
            id: 1 to 200 visible ASCII characters; the same when the same message is published again.

        Raises:
            ConfigError: when an argument is out of range.
            BrokerAwayError: when the broker did not confirm it within 5 s, or is known to be away.
        """
        checked_topic(topic)
        checked_id(id)
        self._check_open()
        new = await self._send(topic, encode(body), id)
        self.counts.published += new
        self.counts.repeated += not new

    def subscribe(self, topic: str, group: str, handler: Handler) -> None:
        """Handle the messages of a topic from now on, one at a time.

        Each group gets each message, one member of it does. A group that is new begins with the oldest message that
        the broker still has. The message is acknowledged when `handler` returned. When it raises, takes too long, or
        the process dies, the message comes again, to any member, and after some attempts it goes to the dead letters.

        Args:
            topic: what about.
            group: who takes it together: the name of the service.
            handler: an async function of the Message.

        Raises:
            ConfigError: when a name is out of range.
        """
        checked_topic(topic)
        checked_topic(group, "group")
        self._check_open()
        desk = Desk(group, handler, self._redelivery, self.counts, self._bury)
        consumer = asyncio.create_task(self._consume_for_ever(topic, group, desk), name=f"{group} takes {topic}")
        self._consumers.append(consumer)

    @abstractmethod
    async def _connect(self) -> None:
        """Begin to connect; do not wait for it."""

    @abstractmethod
    async def _send(self, topic: str, data: bytes, message_id: str) -> bool:
        """Have it stored; False when the broker says that it had it already. Raises BrokerAwayError."""

    @abstractmethod
    async def _consume(self, topic: str, group: str, desk: Desk) -> None:
        """Take messages to `desk` until `_closing` is set; may raise anything: it is called again."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close what `_connect` opened."""

    async def _consume_for_ever(self, topic: str, group: str, desk: Desk) -> None:
        told = -math.inf
        while not self._closing.is_set():
            try:
                await self._consume(topic, group, desk)
            except Exception as error:
                level = logging.DEBUG if time.monotonic() - told < _TELL_AGAIN else logging.WARNING
                logger.log(
                    level, "%s takes no %s now, trying again (%s: %s)", group, topic, type(error).__name__, error
                )
                if level == logging.WARNING:
                    told = time.monotonic()
                await unless_set(self._closing, _AGAIN)

    async def _bury(self, letter: dict[str, Any], message_id: str) -> None:
        await self._send(DEAD_LETTERS, encode(letter), message_id)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("a broker is used inside `async with broker_of_url(...) as broker`")

    async def __aenter__(self) -> Self:
        self._open = True
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        self._closing.set()
        try:
            if self._consumers:
                await asyncio.wait(self._consumers, timeout=_CLOSE_TIMEOUT)
        finally:
            await end(*self._consumers)
            await self._disconnect()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended; `asyncio.wait_for`, which the clients use, may lose a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that nobody complains about an error not looked at


async def unless_set(event: asyncio.Event, seconds: float) -> None:
    """Sleep, or until `event` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; or None, and `work` cancelled, when `event` comes first."""
    doing, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        await end(doing, waiting)


def broker_of_url(url: str, *, counts: Counts | None = None, redelivery: Redelivery | None = None) -> Broker:
    """The broker that `url` names.

    Args:
        url: `nats://host:port` (JetStream) or `kafka://host:port`.
        counts: what counts; default one of its own.
        redelivery: when a message comes again; default `Redelivery()`.

    Raises:
        ConfigError: when that is no such address.
    """
    parts, port = _split(url)
    assert parts.hostname is not None
    counts, redelivery = counts or Counts(), redelivery or Redelivery()
    if parts.scheme == "kafka":
        from examples.hospital.messages.kafka_broker import KafkaBroker

        return KafkaBroker(parts.hostname, port, counts, redelivery)
    from examples.hospital.messages.nats_broker import NatsBroker

    return NatsBroker(parts.hostname, port, counts, redelivery)


def _split(url: object) -> tuple[SplitResult, int]:
    example = "such as nats://127.0.0.1:4222 or kafka://127.0.0.1:9092"
    if not isinstance(url, str):
        raise ConfigError(f"broker: the address must be text, {example}, not {url!r}", path="url")
    shown = url.rpartition("@")[2]  # what stands before may be a password
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker: {shown!r} cannot be read ({error}); an address is {example}", path="url") from error
    if parts.scheme not in {"nats", "kafka"}:
        raise ConfigError(f"broker: an address begins with nats:// or kafka://, {example}, not {shown!r}", path="url")
    if parts.username or parts.password or parts.query or parts.fragment or parts.path not in {"", "/"}:
        raise ConfigError(f"broker: an address has a host and a port and nothing else, {example}", path="url")
    if not parts.hostname or not port:
        missing = "port" if parts.hostname else "host"
        raise ConfigError(f"broker: the {missing} is missing in {shown!r}; an address is {example}", path="url")
    return parts, port
