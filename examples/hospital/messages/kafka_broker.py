"""Messages through Kafka, or what speaks its protocol, by aiokafka: https://aiokafka.readthedocs.io.

Each topic is one of Kafka's, each group a consumer group of it. A member commits the offset of a message before it
begins, with the attempt as the commit's metadata, and the next offset when it has handled it: Kafka counts no
deliveries, so this is how the next owner of a partition knows that somebody had begun. A message that fails is asked
for again after its pause; those behind it in its partition wait meanwhile, those of other partitions do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata

from examples.hospital.messages.broker import Broker, BrokerAwayError, end, unless, unless_set
from examples.hospital.messages.counts import Counts
from examples.hospital.messages.delivery import Desk, Redelivery
from examples.hospital.messages.message import Message, UnreadableBodyError, decode
from resilient.errors import ConfigError

logger = logging.getLogger(__name__)

_PUBLISH_TIMEOUT = 5.0
_CONNECT_AGAIN = 1.0
_SHORTEST_SESSION = 6.0  # seconds; Kafka's `group.min.session.timeout.ms`
_SLOWEST_HANDLER = 86_400_000  # ms; heartbeats say that a member is alive, and a handler that hangs is cancelled
_NEW_TOPICS = 2000  # ms between two looks for topics that did not exist
_HAND_OVER = 5.0  # seconds that a rebalance waits for the handler that runs, so that it need not run twice


class KafkaBroker(Broker):
    """A Kafka cluster, known by one of its servers."""

    def __init__(self, host: str, port: int, counts: Counts, redelivery: Redelivery) -> None:
        super().__init__(host, port, counts, redelivery)
        self._server = f"{host}:{port}"
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._answers = False

    @property
    def connected(self) -> bool:
        """Whether the last thing that was asked of the cluster was answered."""
        return self._answers

    async def _connect(self) -> None:
        self._connecting = asyncio.create_task(self._start_producer(), name="kafka producer")

    async def _disconnect(self) -> None:
        if self._connecting is not None:
            await end(self._connecting)
        if self._producer is not None:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(self._producer.stop(), _PUBLISH_TIMEOUT)

    async def _start_producer(self) -> None:
        """Until it is connected once; then it connects again by itself for ever."""
        told = False
        while self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._server,
                client_id="hospital",
                acks="all",
                enable_idempotence=True,
                request_timeout_ms=int(_PUBLISH_TIMEOUT * 1000),
            )
            try:
                await producer.start()
            except Exception as error:  # of what reads as anything but Kafka, too
                if not told:
                    logger.warning("the broker is away (%s: %s)", type(error).__name__, error)
                told = True
                await producer.stop()
                await asyncio.sleep(_CONNECT_AGAIN)
            except BaseException:
                await producer.stop()
                raise
            else:
                self._producer, self._answers = producer, True

    async def _send(self, topic: str, data: bytes, message_id: str) -> bool:
        if self._producer is None:
            raise BrokerAwayError(f"no connection to kafka://{self._server}")
        name = message_id.encode()
        sending = self._producer.send_and_wait(topic, data, key=name, headers=[("id", name)])
        try:
            await asyncio.wait_for(sending, _PUBLISH_TIMEOUT)
        except MessageSizeTooLargeError as error:
            raise ConfigError(f"message: body is longer than this cluster takes ({len(data):,} bytes)") from error
        except (KafkaError, OSError, TimeoutError) as error:
            self._answers = False
            reason = str(error) or type(error).__name__
            raise BrokerAwayError(f"the broker did not confirm the message ({reason})") from error
        self._answers = True
        return True

    async def _consume(self, topic: str, group: str, desk: Desk) -> None:
        name = f"{group}--{topic}"  # members of one Kafka group should want the same topics
        silence = max(self._redelivery.silence, _SHORTEST_SESSION)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._server,
            client_id="hospital",
            group_id=name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(silence * 1000),
            heartbeat_interval_ms=int(silence * 1000 / 3),
            max_poll_interval_ms=_SLOWEST_HANDLER,
            rebalance_timeout_ms=int((_HAND_OVER + silence) * 1000),
            metadata_max_age_ms=_NEW_TOPICS,
        )
        member = _Member(self._server, name, consumer, desk)
        consumer.subscribe([topic], listener=member)
        try:
            await unless(self._closing, consumer.start())
            while not self._closing.is_set():
                record = await unless(self._closing, consumer.getone())
                if record is not None:
                    await member.take(record)
        finally:
            await member.leave()
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), _PUBLISH_TIMEOUT)


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of a group, and how far it is in each of its partitions."""

    def __init__(self, server: str, group: str, consumer: AIOKafkaConsumer, desk: Desk) -> None:
        self._server, self._group, self._consumer, self._desk = server, group, consumer, desk
        self._attempts: dict[TopicPartition, tuple[int, int]] = {}  # of the message at an offset
        self._handling = asyncio.Lock()
        self._leaving = asyncio.Event()
        self._pauses: set[asyncio.Task[None]] = set()

    async def take(self, record: ConsumerRecord) -> None:
        """Handle one message; a partition that was taken from us meanwhile is somebody else's now."""
        partition = TopicPartition(record.topic, record.partition)
        async with self._handling:
            offset, attempts = self._attempts.get(partition, (record.offset, 0))
            attempt = attempts + 1 if offset == record.offset else 1
            self._attempts[partition] = (record.offset, attempt)
            try:
                await self._commit(partition, record.offset, str(attempt))
                pause = await _handled(record, attempt, self._desk)
                if pause is None:
                    await self._commit(partition, record.offset + 1, "")
                else:
                    self._consumer.seek(partition, record.offset)
                    self._consumer.pause(partition)
                    self._resume_after(pause, partition)
            except (CommitFailedError, IllegalStateError) as error:
                logger.info("%s lost %s while it handled a message (%s)", self._group, partition, error)

    async def leave(self) -> None:
        """Nothing is resumed any more."""
        self._leaving.set()
        await asyncio.gather(*self._pauses, return_exceptions=True)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Others may get them: let the handler that runs end first, if it does so soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER), self._handling:
                pass
        self._attempts.clear()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Ask how often the message that comes next was begun."""
        if not assigned:
            return
        admin = AIOKafkaAdminClient(bootstrap_servers=self._server, client_id="hospital")
        try:
            await admin.start()
            committed = await admin.list_consumer_group_offsets(self._group, partitions=list(assigned))
        except (KafkaError, OSError) as error:  # it costs a message an attempt more, and no message
            logger.warning("%s counts attempts from 1 (%s: %s)", self._group, type(error).__name__, error)
            return
        finally:
            await admin.close()
        for partition, commit in committed.items():
            if commit.offset >= 0 and (commit.metadata or "").isdecimal():  # -1, None: nobody has begun there
                self._attempts[partition] = (commit.offset, int(commit.metadata))

    async def _commit(self, partition: TopicPartition, offset: int, metadata: str) -> None:
        await self._consumer.commit({partition: OffsetAndMetadata(offset, metadata)})

    def _resume_after(self, seconds: float, partition: TopicPartition) -> None:
        async def resume() -> None:
            await unless_set(self._leaving, seconds)
            if partition in self._consumer.paused():  # else it was taken from us, or given to us anew
                self._consumer.resume(partition)

        pause = asyncio.create_task(resume())
        self._pauses.add(pause)
        pause.add_done_callback(self._pauses.discard)


async def _handled(record: ConsumerRecord, attempt: int, desk: Desk) -> float | None:
    names = dict(record.headers).get("id")
    message_id = names.decode(errors="replace") if names else f"{record.topic}-{record.partition}-{record.offset}"
    data = record.value or b""
    try:
        body = decode(data)
    except UnreadableBodyError as error:
        return await desk.refuse(Message(message_id, record.topic, {}, attempt), data, str(error))
    return await desk.handle(Message(message_id, record.topic, body, attempt))
