"""Messages through NATS JetStream: https://docs.nats.io/nats-concepts/jetstream.

One stream holds all topics, each as a subject of it. Each group is one durable consumer of a topic, from which its
members pull one message at a time. The server keeps what was delivered and not acknowledged, and how often.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header, PubAck, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError

from examples.hospital.messages.broker import Broker, BrokerAwayError, end, unless, unless_set
from examples.hospital.messages.counts import Counts
from examples.hospital.messages.delivery import Desk, Redelivery
from examples.hospital.messages.message import Message, UnreadableBodyError, decode
from resilient.errors import ConfigError

logger = logging.getLogger(__name__)

STREAM = "hospital"
_KEEP = 7 * 86_400.0  # seconds that a message stays in the stream
_DEDUPE = 600.0  # seconds in which the server recognises the id of a message that it has stored
_PUBLISH_TIMEOUT = 5.0
_CONNECT_TIMEOUT = 2
_RECONNECT = 10  # seconds for which a client may try by itself to connect again
_PING = 2  # seconds; two without an answer, and the connection is given up: a frozen broker is noticed after 6 s
_PULL = 2.0  # seconds that one request for a message lives; a restarted server knows none of those made before
_NAME_IN_USE = 10058  # JetStream's error code: the stream is there, made with other settings
_NO_DELIVERY_LIMIT = -1  # the desk counts: a message is given up in the open, not left where nobody looks


class NatsBroker(Broker):
    """A NATS server with JetStream."""

    def __init__(self, host: str, port: int, counts: Counts, redelivery: Redelivery) -> None:
        super().__init__(host, port, counts, redelivery)
        self._client: Client | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._ready, self._lost = asyncio.Event(), asyncio.Event()  # one of them is set
        self._lost.set()
        self._told = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection that answers pings."""
        return self._client is not None and self._client.is_connected

    async def _connect(self) -> None:
        self._connecting = asyncio.create_task(self._stay_connected(), name="nats connection")

    async def _disconnect(self) -> None:
        if self._connecting is not None:
            await end(self._connecting)
        if self._client is not None:
            with suppress(Error, OSError):
                await self._client.close()

    async def _stay_connected(self) -> None:
        """Keep a client. It reconnects by itself; when it is closed, or has tried for too long, there is a new one.

        A server's `-ERR` closes it for good, and when something else than NATS answers, it never tries again.
        """
        while True:
            closed = asyncio.Event()

            async def on_closed(closed: asyncio.Event = closed) -> None:
                closed.set()

            self._client = client = Client()
            try:
                await client.connect(
                    f"nats://{self._host}:{self._port}",
                    name="hospital",
                    connect_timeout=_CONNECT_TIMEOUT,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=_PING,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_away,
                    reconnected_cb=self._on_back,
                    closed_cb=on_closed,
                )
                await self._on_back()
                await _end_of(client, closed)
            except Exception as error:  # of what reads as anything but NATS, too
                await self._on_error(error)
            await self._on_away()
            with suppress(Error, OSError):
                await client.close()
            await asyncio.sleep(1.0)

    async def _on_error(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning("the broker is away (%s: %s)", type(error).__name__, error)

    async def _on_away(self) -> None:
        self._ready.clear()
        self._lost.set()
        if self._open:
            await self._on_error(ConnectionError("the connection ended"))

    async def _on_back(self) -> None:
        self._lost.clear()
        self._ready.set()
        if self._told:
            self._told = False
            logger.warning("the broker is back")

    async def _send(self, topic: str, data: bytes, message_id: str) -> bool:
        if not self.connected:
            raise BrokerAwayError(f"no connection to nats://{self._host}:{self._port}")
        try:
            ack = await unless(self._lost, self._publish(topic, data, message_id))
        except MaxPayloadError as error:
            raise ConfigError(f"message: body is longer than this server takes ({len(data):,} bytes)") from error
        except (Error, OSError) as error:
            raise BrokerAwayError(f"the broker did not confirm the message ({_words(error)})") from error
        if ack is None:
            raise BrokerAwayError("the connection ended before the broker confirmed the message")
        return not ack.duplicate

    async def _publish(self, topic: str, data: bytes, message_id: str) -> PubAck:
        assert self._client is not None
        stream = self._client.jetstream(timeout=_PUBLISH_TIMEOUT)
        headers = {Header.MSG_ID.value: message_id}
        try:
            return await stream.publish(_subject(topic), data, headers=headers)
        except NoStreamResponseError:  # nobody has made it yet, or the server is still starting it
            await _make_stream(stream)
            return await stream.publish(_subject(topic), data, headers=headers)

    async def _consume(self, topic: str, group: str, desk: Desk) -> None:
        await unless(self._closing, self._ready.wait())
        if self._closing.is_set():
            return
        client = self._client
        assert client is not None
        stream = client.jetstream(timeout=_PUBLISH_TIMEOUT)
        await _make_stream(stream)
        name = f"{group}--{topic}"
        await stream.add_consumer(STREAM, self._consumer(name, topic))  # made, or left as it is, or brought up to date
        pull = await stream.pull_subscribe_bind(durable=name, stream=STREAM)
        try:
            await self._pull(client, pull, topic, desk)
        finally:
            with suppress(Error, OSError):
                await pull.unsubscribe()

    def _consumer(self, name: str, topic: str) -> ConsumerConfig:
        return ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=_subject(topic),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._redelivery.silence,
            max_deliver=_NO_DELIVERY_LIMIT,
        )

    async def _pull(self, client: Client, pull: JetStreamContext.PullSubscription, topic: str, desk: Desk) -> None:
        while not self._closing.is_set():
            if client.is_closed:
                return
            try:
                messages = await unless(self._closing, pull.fetch(1, timeout=_PULL))
            except NatsTimeoutError:
                continue
            for message in messages or ():
                await self._deliver(message, topic, desk)

    async def _deliver(self, raw: Msg, topic: str, desk: Desk) -> None:
        living = asyncio.create_task(self._show_life(raw))
        try:
            pause = await _handled(raw, topic, desk)
        finally:
            living.cancel()
        await (raw.ack() if pause is None else raw.nak(delay=pause))

    async def _show_life(self, raw: Msg) -> None:
        """The handler takes its time: tell the server that this member is alive."""
        while True:
            await asyncio.sleep(self._redelivery.silence / 3)
            with suppress(Error, OSError):
                await raw.in_progress()


async def _end_of(client: Client, closed: asyncio.Event) -> None:
    """Until it is closed, or has tried to connect again for too long."""
    tries = 0
    while not closed.is_set() and tries < _RECONNECT:
        await unless_set(closed, 1.0)
        tries = 0 if client.is_connected else tries + 1


async def _handled(raw: Msg, topic: str, desk: Desk) -> float | None:
    attempt = raw.metadata.num_delivered
    message_id = (raw.headers or {}).get(Header.MSG_ID.value) or f"{STREAM}-{raw.metadata.sequence.stream}"
    try:
        body = decode(raw.data)
    except UnreadableBodyError as error:
        return await desk.refuse(Message(message_id, topic, {}, attempt), raw.data, str(error))
    return await desk.handle(Message(message_id, topic, body, attempt))


async def _make_stream(stream: JetStreamContext) -> None:
    """Make the stream, whoever comes first; the others find it there."""
    try:
        await stream.add_stream(
            StreamConfig(
                name=STREAM,
                subjects=[_subject("*")],
                storage=StorageType.FILE,
                max_age=_KEEP,
                duplicate_window=_DEDUPE,
            )
        )
    except BadRequestError as error:
        if error.err_code != _NAME_IN_USE:
            raise
        logger.info("the stream %r has settings of somebody else's; it is used as it is", STREAM)


def _subject(topic: str) -> str:
    return f"{STREAM}.{topic}"


def _words(error: BaseException) -> str:
    text = error.description if isinstance(error, APIError) else str(error)
    return text or type(error).__name__
