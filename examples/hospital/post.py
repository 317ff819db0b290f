"""How a replica takes part in the hospital's messages: what it takes, what it sends, and what it has counted.

    check_in_patient      reception ──► ward
    open_invoice          ward ──► finance
    check_in_completed    finance ──► reception, ward

The consumer group of a message is the service's name: of its replicas one takes each message, and each service that
takes a topic gets a message of its own. What is taken, what it changes and what is sent because of it are written in
one transaction of the service's database.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncConnection

from examples.hospital.database import Database
from examples.hospital.messages import Broker, Counts, CountsSnapshot, Handler, Inbox, Message, Outbox, Relay, Work

CHECK_IN_PATIENT: Final = "check_in_patient"
OPEN_INVOICE: Final = "open_invoice"
CHECK_IN_COMPLETED: Final = "check_in_completed"


class PostRoom:
    """The messages of one service; made beside its tables.

    Args:
        metadata: the service's: it gets a table for what is to be sent, and one for what was taken.
    """

    def __init__(self, metadata: MetaData) -> None:
        self._outbox = Outbox(metadata)
        self._inbox = Inbox(metadata)

    async def send(self, connection: AsyncConnection, topic: str, *, reference: str, patient_id: int) -> None:
        """Send a message about a check-in, if and only if the transaction is committed."""
        body = {"reference": reference, "patient_id": patient_id}
        await self._outbox.add(connection, topic, body, id=f"{topic}-{reference}")  # one, whoever sends it again

    def open(self, service: str, database: Database, broker: Broker | None, takes: Mapping[str, Work]) -> Post:
        """One replica's post, for `async with`.

        Args:
            service: the consumer group.
            database: where the tables are.
            broker: not yet entered; None: what is to be sent waits until there is one.
            takes: by topic, what is done in the transaction in which the message is taken.
        """
        return Post(self._outbox, self._inbox, service, database, broker, takes)


class Post:
    """One replica's messages, while the block runs; arguments as above."""

    def __init__(
        self,
        outbox: Outbox,
        inbox: Inbox,
        service: str,
        database: Database,
        broker: Broker | None,
        takes: Mapping[str, Work],
    ) -> None:
        self._outbox, self._inbox = outbox, inbox
        self._service, self._database, self._broker, self._takes = service, database, broker, takes
        self._stack = AsyncExitStack()
        self._relay: Relay | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker answers, as far as is known."""
        return self._broker is not None and self._broker.connected

    @property
    def counts(self) -> CountsSnapshot:
        """What this process has sent and taken."""
        return (Counts() if self._broker is None else self._broker.counts).snapshot()

    def sent(self) -> None:
        """Something was written to be sent, and is committed: do not wait for the next look."""
        if self._relay is not None:
            self._relay.wake()

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            broker = await self._stack.enter_async_context(self._broker)
            self._relay = await self._stack.enter_async_context(Relay(self._outbox, self._database, broker))
            for topic, work in self._takes.items():
                taken = self._inbox.once(self._database, self._service, work, counts=broker.counts)
                broker.subscribe(topic, self._service, self._and_look(taken))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._relay = None
        await self._stack.aclose()

    def _and_look(self, taken: Handler) -> Handler:
        async def handler(message: Message) -> None:
            await taken(message)
            self.sent()

        return handler


def about(message: Message) -> dict[str, Any]:
    """What a message says about a check-in, as the columns of a row.

    Raises:
        ValueError: when it says something else.
    """
    reference, patient_id = message.body.get("reference"), message.body.get("patient_id")
    if not isinstance(reference, str) or len(reference) != 32 or not isinstance(patient_id, int):
        raise ValueError(f"{message.topic} {message.id} is about no check-in")
    return {"reference": reference, "patient_id": patient_id}
