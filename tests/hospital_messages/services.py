"""Services as processes, with a database each: `python -m tests.hospital_messages.services reception|GROUP URL FILE`.

`reception` publishes what waits in its outbox. Every other one is a member of the group of that name: it enters each
check-in once, and answers by a message from its own outbox.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection

from examples.hospital.messages import Message, Redelivery, Relay, broker_of_url
from tests.hospital_messages.books import Books

_ROOT = Path(__file__).resolve().parents[2]
_QUICK = Redelivery(first_pause=0.05, longest_pause=0.5, silence=1.0)


class ServiceProcess:
    """One of them: `with ServiceProcess("ward", url, file) as ward`; `restart()` is kill -9 and another one."""

    def __init__(self, role: str, url: str, file: Path) -> None:
        self._command = [sys.executable, "-m", "tests.hospital_messages.services", role, url, str(file)]
        self._process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """Die, and come back."""
        self._kill()
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stderr=subprocess.DEVNULL)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()


async def main(role: str, url: str, file: str) -> None:
    """Be one until somebody ends us."""
    books = Books()

    async def enter_and_answer(connection: AsyncConnection, message: Message) -> None:
        await books.enter(connection, message)
        await books.outbox.add(connection, "check_in_completed", {"by": role}, id=f"{message.id}:{role}")

    async with (
        books.database(Path(file)) as database,
        broker_of_url(url, redelivery=_QUICK) as broker,
        Relay(books.outbox, database, broker, lease=2.0),
    ):
        if role != "reception":
            broker.subscribe("check_in", role, books.inbox.once(database, role, enter_and_answer, counts=broker.counts))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
