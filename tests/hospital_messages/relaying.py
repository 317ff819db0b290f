"""A relay that its machine kills between the publishing and the marking: `python -m … URL FILE`.

It says `published` when it has published what waits, and then never marks it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.hospital.database import Database
from examples.hospital.messages import Outbox, Relay, broker_of_url
from tests.hospital_messages.books import Books


class _Stuck(Outbox):
    async def mark(self, database: Database, places: Sequence[int]) -> None:
        print("published", len(places), flush=True)
        await asyncio.Event().wait()


async def main(url: str, file: str) -> None:
    """Publish, and get stuck."""
    async with Books().database(Path(file)) as database, broker_of_url(url) as broker:
        books = Books()
        books.metadata.clear()
        async with Relay(_Stuck(books.metadata), database, broker, lease=1.0):
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
