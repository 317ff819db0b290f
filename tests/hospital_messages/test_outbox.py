"""The outbox and its relay: nothing told that did not happen, nothing that happened untold."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import MetaData, select, update
from sqlalchemy.engine import URL
from sqlalchemy.schema import CreateTable

from examples.hospital.database import Database
from examples.hospital.messages import Outbox, Relay, broker_of_url
from examples.hospital.messages.local_broker import LocalBroker
from resilient import ConfigError, State
from tests.hospital_messages.books import Books
from tests.hospital_messages.taking import Taken, until


async def test_what_is_committed_is_published_in_order(server: LocalBroker, tmp_path: Path) -> None:
    """With the ids it was written with; soon after it was written."""
    books, taken = Books(), Taken()
    async with books.database(tmp_path / "books.db") as database, broker_of_url(server.url) as broker:
        broker.subscribe("check_in", "ward", taken)
        async with Relay(books.outbox, database, broker) as relay:
            for number in range(30):
                await books.check_in(database, f"{number}")
                relay.wake()
            await until(lambda: len(taken.ids) == 30)
            await until(lambda: broker.counts.pending == 0)
        assert await books.outbox.pending(database) == 0
    assert taken.ids == [f"{number}" for number in range(30)]
    assert taken.messages[7].body == {"reference": "7"}
    assert (broker.counts.published, broker.counts.repeated) == (30, 0)


async def test_what_is_rolled_back_is_not_told(server: LocalBroker, tmp_path: Path) -> None:
    """The message goes the way of the transaction it is in."""
    books, taken = Books(), Taken()

    async def rolled_back() -> None:
        async with database.writing() as connection:
            await books.outbox.add(connection, "check_in", {}, id="never")
            raise ValueError("no")

    async with books.database(tmp_path / "books.db") as database, broker_of_url(server.url) as broker:
        broker.subscribe("check_in", "ward", taken)
        async with Relay(books.outbox, database, broker):
            with pytest.raises(ValueError, match="no"):
                await rolled_back()
            await books.check_in(database, "after")
            await until(lambda: taken.ids)
    assert taken.ids == ["after"]


async def test_while_the_broker_is_away_messages_wait_and_the_circuit_opens(tmp_path: Path) -> None:
    """Check-ins go on; when the broker comes, all is published by itself, once and in order."""
    books, taken = Books(), Taken()
    server = LocalBroker(tmp_path / "nats")
    server.start()
    server.stop()  # now its port is known
    ids = [f"{number}" for number in range(50)]
    async with (
        books.database(tmp_path / "books.db") as database,
        broker_of_url(server.url) as broker,
        Relay(books.outbox, database, broker) as relay,
    ):
        for message_id in ids:
            await books.check_in(database, message_id)
        await until(lambda: relay.circuit.state is State.OPEN, what="an open circuit")
        await until(lambda: broker.counts.pending == 50)
        assert broker.counts.published == 0
        with server:
            broker.subscribe("check_in", "ward", taken)
            await until(lambda: len(taken.ids) == 50, within=30.0)
            await until(lambda: broker.counts.pending == 0)
    assert taken.ids == ids
    assert (broker.counts.published, broker.counts.repeated) == (50, 0)


async def test_a_relay_killed_before_it_marks_publishes_again_and_the_broker_recognises_it(
    server: LocalBroker, tmp_path: Path
) -> None:
    """kill -9 between the two; the next relay takes over when the lease has ended."""
    books, taken, file = Books(), Taken(), tmp_path / "books.db"
    async with books.database(file) as database:
        for number in range(10):
            await books.check_in(database, f"{number}")
        command = [sys.executable, "-m", "tests.hospital_messages.relaying", server.url, str(file)]
        stuck = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        try:
            assert stuck.stdout is not None
            said = await stuck.stdout.readline()
        finally:
            stuck.kill()
            await stuck.wait()
        assert said == b"published 10\n"
        assert await books.outbox.pending(database) == 10
        async with broker_of_url(server.url) as broker, Relay(books.outbox, database, broker):
            broker.subscribe("check_in", "ward", taken)
            await until(lambda: broker.counts.repeated == 10)
            await books.check_in(database, "last")
            await until(lambda: "last" in taken.ids)
    assert taken.ids == [f"{number}" for number in range(10)] + ["last"]
    assert broker.counts.published == 1


@pytest.mark.filterwarnings("ignore:a second circuit_breaker named 'broker'", "ignore:a second retry named 'publish'")
async def test_replicas_on_one_database_take_turns(server: LocalBroker, tmp_path: Path) -> None:
    """One publishes at a time, so the order is kept and nothing is published twice; when it goes, another goes on."""
    books, taken = Books(), Taken()
    async with (
        books.database(tmp_path / "books.db") as database,
        broker_of_url(server.url) as one,
        broker_of_url(server.url) as two,
        Relay(books.outbox, database, two),
    ):
        one.subscribe("check_in", "ward", taken)
        async with Relay(books.outbox, database, one):
            for number in range(60):
                await books.check_in(database, f"{number}")
            await until(lambda: len(taken.ids) == 60)
        await books.check_in(database, "60")  # whichever had the lease: the one that is left publishes
        await until(lambda: len(taken.ids) == 61)
    assert taken.ids == [f"{number}" for number in range(61)]
    assert one.counts.published + two.counts.published == 61
    assert one.counts.repeated + two.counts.repeated == 0


class _SlowToMark(Outbox):
    """Waits before it marks, until it is told to go on."""

    def __init__(self, metadata: MetaData) -> None:
        super().__init__(metadata)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def mark(self, database: Database, places: Sequence[int]) -> None:
        self.begun.set()
        await self.go_on.wait()
        await super().mark(database, places)


async def test_who_leaves_marks_what_it_has_published(server: LocalBroker, tmp_path: Path) -> None:
    """Else whoever gets the lease next would publish all of it again."""
    books = Books()
    books.metadata.clear()
    books.outbox = outbox = _SlowToMark(books.metadata)
    async with books.database(tmp_path / "books.db") as database, broker_of_url(server.url) as broker:
        relay = await Relay(outbox, database, broker).__aenter__()
        async with database.writing() as connection:
            await outbox.add(connection, "check_in", {})
        await outbox.begun.wait()
        leaving = asyncio.create_task(relay.__aexit__(None, None, None))
        await asyncio.sleep(0)
        outbox.go_on.set()
        await leaving
        assert (broker.counts.published, await outbox.pending(database)) == (1, 0)


async def test_what_can_never_be_published_is_set_aside(server: LocalBroker, tmp_path: Path) -> None:
    """It stays in the table with the reason, is counted, and those behind it go on."""
    books, taken = Books(), Taken()
    rows = books.metadata.tables["outbox"]
    async with books.database(tmp_path / "books.db") as database, broker_of_url(server.url) as broker:
        await books.check_in(database, "bad")
        await books.check_in(database, "good")
        async with database.writing() as connection:  # as another version of us may have written it
            await connection.execute(update(rows).where(rows.c.id == "bad").values(topic="check.in"))
        broker.subscribe("check_in", "ward", taken)
        async with Relay(books.outbox, database, broker):
            await until(lambda: taken.ids)
            await until(lambda: broker.counts.pending == 0)
        await books.outbox.remove(database, older_than=-1.0)
        async with database.reading() as connection:
            left = (await connection.execute(select(rows.c.id, rows.c.refused))).all()
    assert taken.ids == ["good"]
    assert broker.counts.dead_lettered == 1
    assert [row[0] for row in left] == ["bad"]
    assert "letters, digits" in left[0][1]


async def test_what_was_published_is_removed_after_a_while_and_what_waits_is_not(tmp_path: Path) -> None:
    """The table does not grow for ever."""
    books = Books()
    rows = books.metadata.tables["outbox"]
    async with books.database(tmp_path / "books.db") as database:
        for name in ("old", "waits"):
            await books.check_in(database, name)
        (first, _) = await books.outbox.waiting(database, 10)
        await books.outbox.mark(database, [first.place])
        await books.outbox.remove(database, older_than=60.0)
        assert await books.outbox.pending(database) == 1
        async with database.reading() as connection:
            assert len((await connection.execute(select(rows.c.id))).all()) == 2
        await books.outbox.remove(database, older_than=-1.0)
        async with database.reading() as connection:
            assert (await connection.execute(select(rows.c.id))).scalars().all() == ["waits"]


@pytest.mark.parametrize(
    "wrong", [{"topic": "a.b"}, {"body": {"x": object()}}, {"id": ""}, {"body": {"x": "y" * 300_000}}]
)
async def test_what_could_not_be_published_is_refused_where_it_is_written(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    """The caller's transaction fails, and nobody is checked in with a message that cannot be sent."""
    books = Books()
    given = {"topic": "check_in", "body": {}, "id": "1", **wrong}
    async with books.database(tmp_path / "books.db") as database:
        with pytest.raises(ConfigError):
            async with database.writing() as connection:
                await books.outbox.add(connection, given["topic"], given["body"], id=given["id"])  # type: ignore[arg-type]
        assert await books.outbox.pending(database) == 0


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("postgresql", ["body TEXT NOT NULL", "place BIGSERIAL"]),
        ("mysql", ["body MEDIUMTEXT NOT NULL", "place BIGINT NOT NULL AUTO_INCREMENT", "COLLATE ascii_bin"]),
    ],
)
def test_the_tables_are_what_other_databases_understand(dialect: str, says: list[str]) -> None:
    """Their words for a long text, for a number that counts up, and for an id that minds capitals."""
    words = URL.create(dialect).get_dialect()()
    tables = Books().metadata.sorted_tables
    made = "\n".join(str(CreateTable(table).compile(dialect=words)) for table in tables)
    for phrase in says:
        assert phrase in made
