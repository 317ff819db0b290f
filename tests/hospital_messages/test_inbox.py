"""The inbox: what comes twice is handled once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import MetaData, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from examples.hospital.messages import Counts, Inbox, Message, Redelivery, Relay, broker_of_url
from examples.hospital.messages.local_broker import LocalBroker
from tests.hospital_messages.books import Books
from tests.hospital_messages.taking import Taken, publish_surely, until


def message(message_id: str, attempt: int = 1, **body: object) -> Message:
    """A message."""
    return Message(message_id, "check_in", body, attempt)


async def test_a_duplicate_is_recognised_and_counted(tmp_path: Path) -> None:
    """Whether it comes right after, or at the same time."""
    books, counts = Books(), Counts()
    async with books.database(tmp_path / "books.db") as database:
        handler = books.inbox.once(database, "ward", books.enter, counts=counts)
        await handler(message("1"))
        await handler(message("1", attempt=2))
        await asyncio.gather(*(handler(message("2")) for _ in range(5)))
        assert await books.references(database) == ["1", "2"]
    assert counts.duplicates == 5


async def test_what_fails_leaves_nothing_and_comes_again(tmp_path: Path) -> None:
    """The id and what the handler wrote are in one transaction: both, or neither."""
    books, counts = Books(), Counts()
    async with books.database(tmp_path / "books.db") as database:
        handler = books.inbox.once(database, "ward", books.enter, counts=counts)
        with pytest.raises(ValueError, match="no such patient"):
            await handler(message("1", fails=1))
        assert await books.references(database) == []
        await handler(message("1", attempt=2, fails=1))
        assert await books.references(database) == ["1"]
    assert counts.duplicates == 0


async def test_groups_on_one_database_take_a_message_each(tmp_path: Path) -> None:
    """An id was handled by a group, not by a database."""
    books, counts = Books(), Counts()
    async with books.database(tmp_path / "books.db") as database:
        for group in ("ward", "finance", "ward"):
            await books.inbox.once(database, group, books.enter, counts=counts)(message("1"))
        assert await books.references(database) == ["1", "1"]
    assert counts.duplicates == 1


async def test_a_conflict_of_the_handlers_own_is_no_duplicate(tmp_path: Path) -> None:
    """It is an error, and the message comes again."""
    books, counts = Books(), Counts()

    async def twice(connection: AsyncConnection, _message: Message) -> None:
        for _ in range(2):
            await connection.execute(insert(books.entries).values(id=1, reference="x"))

    async with books.database(tmp_path / "books.db") as database:
        with pytest.raises(IntegrityError):
            await books.inbox.once(database, "ward", twice, counts=counts)(message("1"))
    assert counts.duplicates == 0


async def test_ids_are_forgotten_when_they_cannot_come_again(tmp_path: Path) -> None:
    """The table does not grow for ever."""
    books, counts = Books(), Counts()
    quick = Inbox(MetaData(), keep=0.001)
    rows = books.metadata.tables["inbox"]
    async with books.database(tmp_path / "books.db") as database:
        await books.inbox.once(database, "ward", books.enter, counts=counts)(message("1"))
        await books.inbox.forget_old(database)
        async with database.reading() as connection:
            assert (await connection.execute(select(rows.c.id))).scalars().all() == ["1"]
        await asyncio.sleep(0.005)  # one millisecond of wall clock has to pass, and no policy waits for it
        await quick.forget_old(database)
        async with database.reading() as connection:
            assert (await connection.execute(select(rows.c.id))).scalars().all() == []


async def test_a_handler_that_answers_by_a_message_does_both_once(server: LocalBroker, tmp_path: Path) -> None:
    """A message in, an entry and a message out, in one transaction, however often it comes."""
    books, answers = Books(), Taken()

    async def enter_and_answer(connection: AsyncConnection, got: Message) -> None:
        await books.enter(connection, got)
        await books.outbox.add(connection, "check_in_completed", {"reference": got.id}, id=f"{got.id}:done")

    redelivery = Redelivery(first_pause=0.05)
    async with (
        books.database(tmp_path / "books.db") as database,
        broker_of_url(server.url, redelivery=redelivery) as broker,
        Relay(books.outbox, database, broker),
    ):
        handler = books.inbox.once(database, "ward", enter_and_answer, counts=broker.counts)
        forgetful = {"left": 3}

        async def not_acknowledged(got: Message) -> None:
            await handler(got)
            if forgetful["left"]:
                forgetful["left"] -= 1
                raise ConnectionError("handled, but nobody heard it")

        broker.subscribe("check_in", "ward", not_acknowledged)
        broker.subscribe("check_in_completed", "reception", answers)
        await publish_surely(broker, "check_in", {"fails": 1}, "1")
        await publish_surely(broker, "check_in", {}, "2")
        await until(lambda: broker.counts.taken == 4)  # two check-ins, two answers
        assert sorted(await books.references(database)) == ["1", "2"]
    assert sorted(answers.ids) == ["1:done", "2:done"]
    assert broker.counts.duplicates >= 2
