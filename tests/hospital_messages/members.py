"""Processes that take messages, and what they write down about it.

`python -m tests.hospital_messages.members URL TOPIC GROUP FILE` appends a line `id attempt` to FILE for each message
before it acknowledges it. A message whose body has `hang` is begun and never ended; one with `die` ends the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from examples.hospital.messages import Message, Redelivery, broker_of_url
from tests.waiting import wait_until

_ROOT = Path(__file__).resolve().parents[2]
QUICK = Redelivery(attempts=3, first_pause=0.05, longest_pause=0.2, silence=1.0)


class Member:
    """One process of a group: `with Member(url, "open_invoice", "finance", folder) as member`."""

    def __init__(self, url: str, topic: str, group: str, folder: Path, name: str = "a") -> None:
        self._arguments = [url, topic, group, str(folder / f"{group}-{name}.taken")]
        self._taken = Path(self._arguments[3])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it runs."""
        with self._taken.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hospital_messages.members", *self._arguments],
                cwd=_ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """As a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def lines(self) -> list[list[str]]:
        """`[word, id, attempt]` for each thing that happened: began, took."""
        return [line.split() for line in self._taken.read_text().splitlines()] if self._taken.exists() else []

    @property
    def began(self) -> list[str]:
        """The ids of what it began to handle, in order."""
        return [line[1] for line in self.lines if line[0] == "began"]

    @property
    def took(self) -> list[str]:
        """The ids of what it handled to the end, in order."""
        return [line[1] for line in self.lines if line[0] == "took"]

    @property
    def log(self) -> str:
        """What it printed."""
        return self._taken.with_suffix(".log").read_text()

    def wait_for(self, word: str, message_id: str, *, timeout: float = 20.0) -> None:
        """Wait until it wrote down that it `began` or `took` a message."""
        wait_until(
            lambda: any(line[:2] == [word, message_id] for line in self.lines),
            timeout=timeout,
            what=f"{message_id} {word}",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self.send(signal.SIGCONT)
            self.kill()


async def main(url: str, topic: str, group: str, file: str) -> None:
    """Take messages until somebody ends us."""

    def write(word: str, message: Message) -> None:
        with Path(file).open("a") as taken:
            taken.write(f"{word} {message.id} {message.attempt}\n")

    async def handle(message: Message) -> None:
        write("began", message)
        if message.body.get("hang"):
            await asyncio.Event().wait()
        if message.body.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(message.body.get("seconds", 0))
        write("took", message)

    async with broker_of_url(url, redelivery=QUICK) as broker:
        broker.subscribe(topic, group, handle)
        await asyncio.Event().wait()


def let_followers_sync_first() -> None:
    """Have the leader of a group take a moment to share out its partitions.

    A real Kafka waits for the assignment and for its followers in any order; the mock cluster has done when it has the
    assignment, and refuses the followers that come a millisecond later.
    """
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

    assign = RoundRobinPartitionAssignor.assign

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.2)
        return assign(*arguments)

    RoundRobinPartitionAssignor.assign = slowly


if __name__ == "__main__":
    if sys.argv[1].startswith("kafka:"):
        let_followers_sync_first()
    asyncio.run(main(*sys.argv[1:]))
