"""A service of the tests: a table of what it did, an outbox, an inbox, and a database for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from examples.hospital.database import Database
from examples.hospital.messages import Inbox, Message, Outbox


class Books:
    """Its tables, and how it works with them."""

    def __init__(self) -> None:
        self.metadata = MetaData()
        self.entries = Table(
            "entries",
            self.metadata,
            Column("id", Integer, primary_key=True, autoincrement=True),
            Column("reference", String(200), nullable=False),
        )
        self.outbox = Outbox(self.metadata)
        self.inbox = Inbox(self.metadata)

    @asynccontextmanager
    async def database(self, file: Path) -> AsyncIterator[Database]:
        """Its database, with tables; closed after the block."""
        database = Database(f"sqlite:///{file}", self.metadata)
        await database.set_up()
        try:
            yield database
        finally:
            await database.close()

    async def check_in(self, database: Database, reference: str) -> None:
        """Write an entry, and a message that says so, in one transaction."""
        async with database.writing() as connection:
            await connection.execute(insert(self.entries).values(reference=reference))
            await self.outbox.add(connection, "check_in", {"reference": reference}, id=reference)

    async def enter(self, connection: AsyncConnection, message: Message) -> None:
        """What an inbox calls: write an entry; a message with `fails` raises after that, as often as it says."""
        await connection.execute(insert(self.entries).values(reference=message.id))
        if message.attempt <= message.body.get("fails", 0):
            raise ValueError("no such patient")

    async def references(self, database: Database) -> list[str]:
        """All entries, in order."""
        async with database.reading() as connection:
            wanted = select(self.entries.c.reference).order_by(self.entries.c.id)
            return list((await connection.execute(wanted)).scalars())
