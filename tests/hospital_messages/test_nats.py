"""Messages through a real NATS server: groups, redelivery, dead letters, duplicates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest

from examples.hospital.messages import DEAD_LETTERS, Message, Redelivery, broker_of_url, nats_broker
from examples.hospital.messages.local_broker import LocalBroker
from tests.hospital_messages.members import QUICK
from tests.hospital_messages.taking import Taken, publish_surely, until


async def test_each_group_gets_a_copy_and_one_member_of_each_takes_it(server: LocalBroker) -> None:
    """Two groups, one of them with two members on connections of their own."""
    ward, finance = Taken(), (Taken(), Taken())
    async with broker_of_url(server.url) as one, broker_of_url(server.url) as two:
        one.subscribe("check_in", "ward", ward)
        one.subscribe("check_in", "finance", finance[0])
        two.subscribe("check_in", "finance", finance[1])
        for number in range(40):
            await publish_surely(one, "check_in", {"patient": number}, f"id-{number}")
        await until(lambda: len(ward.ids) >= 40 and sum(len(each.ids) for each in finance) >= 40)
    ids = {f"id-{number}" for number in range(40)}
    assert set(ward.ids) == ids
    assert sorted(finance[0].ids + finance[1].ids) == sorted(ids)
    assert finance[0].ids
    assert finance[1].ids
    assert ward.messages[0] == Message("id-0", "check_in", {"patient": 0}, 1)


async def test_a_topic_is_not_heard_by_those_of_another(server: LocalBroker) -> None:
    """A subject of the stream for each topic."""
    wards, invoices = Taken(), Taken()
    async with broker_of_url(server.url) as broker:
        broker.subscribe("open_invoice", "all", invoices)
        broker.subscribe("check_in", "all", wards)
        await publish_surely(broker, "check_in", {}, "1")
        await publish_surely(broker, "open_invoice", {}, "2")
        await until(lambda: wards.ids and invoices.ids)
    assert (wards.ids, invoices.ids) == (["1"], ["2"])


async def test_a_group_that_comes_late_gets_what_was_published_before(server: LocalBroker) -> None:
    """The publisher need not wait until anybody listens."""
    late = Taken()
    async with broker_of_url(server.url) as broker:
        await publish_surely(broker, "open_invoice", {}, "1")
    async with broker_of_url(server.url) as broker:
        broker.subscribe("open_invoice", "finance", late)
        await until(lambda: late.ids)
    assert late.ids == ["1"]


async def test_what_fails_comes_again_later_each_time(server: LocalBroker) -> None:
    """The pauses grow, others are not held up, and what is counted says so."""
    taken = Taken()
    redelivery = Redelivery(first_pause=0.2, longest_pause=5.0)
    async with broker_of_url(server.url, redelivery=redelivery) as broker:
        broker.subscribe("open_invoice", "finance", taken)
        await publish_surely(broker, "open_invoice", {"fails": 2}, "sick")
        await publish_surely(broker, "open_invoice", {}, "well")
        await until(lambda: len(taken.ids) == 4)
        await until(lambda: broker.counts.taken == 2)
        counts = broker.counts.snapshot()
    assert taken.ids == ["sick", "well", "sick", "sick"]
    assert [message.attempt for message in taken.messages] == [1, 1, 2, 3]
    assert taken.times[2] - taken.times[0] >= 0.2
    assert taken.times[3] - taken.times[2] >= 0.4
    assert (counts.taken, counts.failed, counts.redelivered, counts.dead_lettered) == (2, 2, 2, 0)


async def test_a_poison_message_goes_to_the_dead_letters_of_its_group_alone(server: LocalBroker) -> None:
    """After the last attempt it is counted, kept with its body and the reason, and the other group has its own fate."""
    poisoned, immune, operator = Taken(), Taken(), Taken()

    async def well(message: Message) -> None:
        await immune(Message(message.id, message.topic, {}, message.attempt))

    async with broker_of_url(server.url, redelivery=QUICK) as broker:
        broker.subscribe("open_invoice", "finance", poisoned)
        broker.subscribe("open_invoice", "ward", well)
        broker.subscribe(DEAD_LETTERS, "operator", operator)
        await publish_surely(broker, "open_invoice", {"fails": 99}, "poison")
        await publish_surely(broker, "open_invoice", {}, "next")
        await until(lambda: operator.ids and len(immune.ids) == 2 and "next" in poisoned.ids)
        await asyncio.sleep(QUICK.longest_pause * 2)  # it must not come again
    assert poisoned.ids.count("poison") == QUICK.attempts
    assert immune.ids == ["poison", "next"]
    assert broker.counts.dead_lettered == 1
    assert operator.messages[0].body == {
        "topic": "open_invoice",
        "group": "finance",
        "id": "poison",
        "attempts": QUICK.attempts,
        "reason": "ValueError: no such patient",
        "body": {"fails": 99},
        "raw": None,
    }


async def test_a_dead_letter_that_fails_comes_again_and_is_not_buried_twice(server: LocalBroker) -> None:
    """There is nowhere for it to go: an operator's handler gets it until it succeeds."""
    operator = Taken()
    async with broker_of_url(server.url, redelivery=QUICK) as broker:
        broker.subscribe(DEAD_LETTERS, "operator", operator)
        await publish_surely(broker, DEAD_LETTERS, {"fails": QUICK.attempts + 2}, "letter")
        await until(lambda: broker.counts.taken == 1)
    assert len(operator.ids) == QUICK.attempts + 3
    assert broker.counts.dead_lettered == 0


async def test_what_is_no_message_of_ours_is_given_up_at_once(server: LocalBroker) -> None:
    """Somebody else's bytes in the topic stop nobody, and a person can read them."""
    taken, operator = Taken(), Taken()
    async with broker_of_url(server.url, redelivery=QUICK) as broker:
        await publish_surely(broker, "open_invoice", {}, "before")
        foreign = await nats.connect(server.url)
        await foreign.jetstream().publish("hospital.open_invoice", b"\xffnot json")
        await foreign.close()
        broker.subscribe("open_invoice", "finance", taken)
        broker.subscribe(DEAD_LETTERS, "operator", operator)
        await publish_surely(broker, "open_invoice", {}, "after")
        await until(lambda: operator.ids and len(taken.ids) == 2)
    assert taken.ids == ["before", "after"]
    assert operator.messages[0].body["raw"] == "\\xffnot json"
    assert operator.messages[0].body["body"] is None


async def test_a_message_published_twice_is_stored_once(server: LocalBroker) -> None:
    """The server knows it by its id, and the second publish is confirmed like the first."""
    taken = Taken()
    async with broker_of_url(server.url) as broker:
        for _ in range(3):
            await publish_surely(broker, "open_invoice", {}, "same")
        await publish_surely(broker, "open_invoice", {}, "other")
        broker.subscribe("open_invoice", "finance", taken)
        await until(lambda: "other" in taken.ids)
    assert taken.ids == ["same", "other"]
    assert (broker.counts.published, broker.counts.repeated) == (2, 2)


async def test_a_slow_handler_keeps_its_message(server: LocalBroker) -> None:
    """As long as the process gives signs of life, the message is not handed to another member."""
    begun = []

    async def slow(message: Message) -> None:
        begun.append(message.attempt)
        await asyncio.sleep(QUICK.silence * 2.5)

    async with broker_of_url(server.url, redelivery=QUICK) as one, broker_of_url(server.url, redelivery=QUICK) as two:
        one.subscribe("open_invoice", "finance", slow)
        two.subscribe("open_invoice", "finance", slow)
        await publish_surely(one, "open_invoice", {}, "1")
        await until(lambda: one.counts.taken + two.counts.taken == 1)
    assert begun == [1]


async def test_a_handler_that_hangs_is_cancelled_and_its_message_comes_again(server: LocalBroker) -> None:
    """One message must not hold up a member for ever."""
    attempts = []

    async def hangs_once(message: Message) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            await asyncio.Event().wait()

    redelivery = Redelivery(handler_timeout=0.2, first_pause=0.05)
    async with broker_of_url(server.url, redelivery=redelivery) as broker:
        broker.subscribe("open_invoice", "finance", hangs_once)
        await publish_surely(broker, "open_invoice", {}, "1")
        await until(lambda: broker.counts.taken == 1)
    assert attempts == [1, 2]
    assert broker.counts.failed == 1


async def test_closing_waits_for_the_handler_that_runs(server: LocalBroker) -> None:
    """A service that stops finishes what it began, so that nobody has to do it again."""
    begun, ended = asyncio.Event(), []

    async def slow(message: Message) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        ended.append(message.id)

    taken = Taken()
    async with broker_of_url(server.url) as broker:
        broker.subscribe("open_invoice", "finance", slow)
        await publish_surely(broker, "open_invoice", {}, "1")
        await begun.wait()
    assert ended == ["1"]
    async with broker_of_url(server.url) as broker:
        broker.subscribe("open_invoice", "finance", taken)
        await publish_surely(broker, "open_invoice", {}, "2")
        await until(lambda: taken.ids)
    assert taken.ids == ["2"]


@pytest.mark.parametrize("members", [2, 6])
async def test_members_that_start_together_find_one_stream(server: LocalBroker, members: int) -> None:
    """Whoever comes first makes it; the others use it."""
    taken = Taken()
    brokers = [broker_of_url(server.url) for _ in range(members)]

    async def member(number: int) -> None:
        async with brokers[number] as broker:
            broker.subscribe("open_invoice", "finance", taken)
            await publish_surely(broker, "open_invoice", {}, f"{number}")
            await until(lambda: len(taken.ids) >= members)

    await asyncio.gather(*map(member, range(members)))
    assert sorted(taken.ids) == [f"{number}" for number in range(members)]


@asynccontextmanager
async def nonsense(greeting: bytes, port: int = 0) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Something that is no NATS server; its port, and whether somebody has heard it."""
    heard = asyncio.Event()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()
        heard.set()

    async with await asyncio.start_server(greet, "127.0.0.1", port) as server:
        yield server.sockets[0].getsockname()[1], heard


NONSENSE = {"too long": b"x" * 200_000, "no object": b"INFO []\r\n", "no word": b"INFO {}\r\n-ERR\r\n"}


@pytest.mark.parametrize("greeting", NONSENSE.values(), ids=NONSENSE)
async def test_what_answers_nonsense_at_first_may_be_a_broker_later(greeting: bytes, tmp_path: Path) -> None:
    """The address was somebody else's when the service started."""
    async with AsyncExitStack() as stack:
        async with nonsense(greeting) as (port, heard):
            broker = await stack.enter_async_context(broker_of_url(f"nats://127.0.0.1:{port}"))
            await heard.wait()
        with LocalBroker(tmp_path / "nats", port=port):
            await publish_surely(broker, "check_in", {}, "1")


async def test_an_address_that_was_taken_while_the_broker_was_away(
    server: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client that heard somebody else there never tries again; there is a new one, also for who takes messages."""
    monkeypatch.setattr(nats_broker, "_RECONNECT", 2)
    taken = Taken()
    async with broker_of_url(server.url) as broker:
        broker.subscribe("check_in", "ward", taken)
        await publish_surely(broker, "check_in", {}, "1")
        await until(lambda: taken.ids)
        server.kill()
        async with nonsense(b"x" * 200_000, int(server.url.rpartition(":")[2])) as (_, heard):
            await heard.wait()
        server.start()
        await publish_surely(broker, "check_in", {}, "2")
        await until(lambda: "2" in taken.ids)
