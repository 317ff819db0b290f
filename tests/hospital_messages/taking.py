"""What the tests of both brokers share: a handler that remembers, and waiting without blocking the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from examples.hospital.messages import Broker, BrokerAwayError, Message


class Taken:
    """A handler that remembers what it was given, and fails as often as a message's body says (`fails`)."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.times: list[float] = []

    async def __call__(self, message: Message) -> None:
        """Handle it."""
        self.messages.append(message)
        self.times.append(time.monotonic())
        if message.attempt <= message.body.get("fails", 0):
            raise ValueError("no such patient")

    @property
    def ids(self) -> list[str]:
        """Of what was delivered, in order."""
        return [message.id for message in self.messages]


async def until(condition: Callable[[], object], *, within: float = 20.0, what: str = "the condition") -> None:
    """Wait for what happens on this loop or elsewhere."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within:g} s"
        await asyncio.sleep(0.01)


async def publish_surely(broker: Broker, topic: str, body: dict[str, object], message_id: str) -> None:
    """Publish, again and again, with the same id, until the broker confirms."""
    deadline = time.monotonic() + 40.0
    while True:
        try:
            await broker.publish(topic, body, id=message_id)
        except BrokerAwayError:
            assert time.monotonic() < deadline, "the broker never came back"
            await asyncio.sleep(0.05)
        else:
            return
