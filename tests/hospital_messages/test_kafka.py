"""The same face over Kafka's protocol, as far as librdkafka's mock cluster speaks it: it holds all in memory, and takes
three seconds to form a group.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from examples.hospital.messages import DEAD_LETTERS, Relay, broker_of_url
from resilient import State
from tests.hospital_messages.books import Books
from tests.hospital_messages.kafka_cluster import KafkaCluster
from tests.hospital_messages.members import QUICK, Member
from tests.hospital_messages.taking import Taken, publish_surely, until


async def test_each_group_gets_a_copy_and_one_member_of_each_takes_it(cluster: KafkaCluster, tmp_path: Path) -> None:
    """Two groups, one of them with two processes; what these take together is each message."""
    ids = sorted(f"id-{number}" for number in range(60))
    with (
        Member(cluster.url, "check_in", "ward", tmp_path) as ward,
        Member(cluster.url, "check_in", "finance", tmp_path, "a") as one,
        Member(cluster.url, "check_in", "finance", tmp_path, "b") as two,
    ):
        async with broker_of_url(cluster.url) as broker:
            number = 0
            while not (ward.took and one.took and two.took):  # until the groups are formed, and both have partitions
                number += 1
                await publish_surely(broker, "check_in", {}, f"first-{number}")
                await asyncio.sleep(0.05)
                assert number < 800, "the members never shared the partitions"
            for message_id in ids:
                await publish_surely(broker, "check_in", {}, message_id)
            await until(lambda: set(ward.took) >= set(ids), within=30.0)
            await until(lambda: set(one.took + two.took) >= set(ids), within=30.0)
            assert broker.connected
            assert broker.counts.published == number + 60
    assert sorted(took for took in ward.took if took in ids) == ids
    assert sorted(took for took in one.took + two.took if took in ids) == ids
    assert set(one.took) & set(ids)
    assert set(two.took) & set(ids)


async def test_what_fails_comes_again_and_poison_goes_to_the_dead_letters(cluster: KafkaCluster) -> None:
    """Those behind it are handled in their turn; what is no message of ours is given up at once."""
    taken, operator = Taken(), Taken()
    async with broker_of_url(cluster.url, redelivery=QUICK) as broker:
        await publish_surely(broker, "check_in", {"fails": 1}, "sick")
        await publish_surely(broker, "check_in", {"fails": 99}, "poison")
        foreign = AIOKafkaProducer(bootstrap_servers=cluster.url.removeprefix("kafka://"))
        await foreign.start()
        await foreign.send_and_wait("check_in", b"\xffnot json")
        await foreign.stop()
        await publish_surely(broker, "check_in", {}, "well")
        broker.subscribe("check_in", "ward", taken)
        broker.subscribe(DEAD_LETTERS, "operator", operator)
        await until(lambda: len(operator.ids) == 2 and broker.counts.taken == 4, within=30.0)
        counts = broker.counts.snapshot()
    assert sorted(taken.ids) == ["poison"] * QUICK.attempts + ["sick"] * 2 + ["well"]
    assert sorted(message.attempt for message in taken.messages if message.id == "poison") == [1, 2, 3]
    reasons = sorted(str(message.body["reason"]) for message in operator.messages)
    assert reasons[1].startswith("no JSON") or reasons[0].startswith("no JSON")
    assert "ValueError: no such patient" in reasons
    assert (counts.dead_lettered, counts.failed, counts.redelivered) == (2, 4, 3)


async def test_a_member_killed_in_the_middle_leaves_its_message_to_another(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Its partitions go to the other when its session has ended. What it committed before it began says that it did,
    so that a message which ends its process is not begun for ever.
    """
    async with broker_of_url(cluster.url) as broker:
        with Member(cluster.url, "check_in", "ward", tmp_path, "a") as one:
            await publish_surely(broker, "check_in", {"seconds": 1.5}, "1")
            await asyncio.to_thread(one.wait_for, "began", "1")
            one.kill()
            with Member(cluster.url, "check_in", "ward", tmp_path, "b") as two:
                await asyncio.to_thread(two.wait_for, "took", "1", timeout=40.0)
                assert two.lines[0] == ["began", "1", "2"]
    assert one.took == []


async def test_closing_hands_over_what_is_not_begun(cluster: KafkaCluster) -> None:
    """A member that leaves in peace finishes what it began, and its successor goes on behind that."""
    begun, first, second = asyncio.Event(), [], Taken()

    async def slow(message: object) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        first.append(message)

    async with broker_of_url(cluster.url) as broker:
        broker.subscribe("check_in", "ward", slow)
        await publish_surely(broker, "check_in", {}, "1")
        await asyncio.wait_for(begun.wait(), 20.0)
    assert len(first) == 1
    async with broker_of_url(cluster.url) as broker:
        broker.subscribe("check_in", "ward", second)
        await publish_surely(broker, "check_in", {}, "2")
        await until(lambda: second.ids)
    assert second.ids == ["2"]


async def test_a_frozen_cluster_opens_the_relays_circuit_and_nothing_is_lost(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Kafka knows no message ids: what was published twice meanwhile is recognised by the inbox."""
    books, ward = Books(), Books()
    ids = [f"{number}" for number in range(20)]
    async with (
        books.database(tmp_path / "reception.db") as reception,
        ward.database(tmp_path / "ward.db") as database,
        broker_of_url(cluster.url) as broker,
        Relay(books.outbox, reception, broker) as relay,
    ):
        broker.subscribe("check_in", "ward", ward.inbox.once(database, "ward", ward.enter, counts=broker.counts))
        await books.check_in(reception, ids[0])
        await until(lambda: broker.counts.taken == 1)
        cluster.send(signal.SIGSTOP)
        try:
            for message_id in ids[1:]:
                await books.check_in(reception, message_id)
            await until(lambda: relay.circuit.state is State.OPEN, what="an open circuit")
        finally:
            cluster.send(signal.SIGCONT)
        await until(lambda: broker.counts.pending == 0, within=30.0, what="an empty outbox")
        await until(lambda: broker.counts.taken - broker.counts.duplicates == 20, within=30.0)
        entered = await ward.references(database)
    assert sorted(entered) == sorted(ids)


async def test_a_cluster_that_is_not_there_yet_is_waited_for() -> None:
    """A service starts without it; what it publishes meanwhile is refused at once."""
    async with broker_of_url("kafka://127.0.0.1:1") as broker:
        broker.subscribe("check_in", "ward", Taken())
        with pytest.raises(ConnectionError):
            await broker.publish("check_in", {}, id="1")
        await asyncio.sleep(0)
        assert not broker.connected
