"""Real processes die, hang and come back, and so does the server: nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

from examples.hospital.messages import DEAD_LETTERS, Broker, broker_of_url
from examples.hospital.messages.local_broker import LocalBroker
from tests.hospital_messages.members import QUICK, Member
from tests.hospital_messages.taking import Taken, publish_surely, until
from tests.waiting import wait_until


async def publish_all(broker: Broker, ids: list[str]) -> None:
    """Publish them, some at the same time."""
    places = asyncio.Semaphore(4)

    async def publish(message_id: str) -> None:
        async with places:
            await publish_surely(broker, "check_in", {}, message_id)

    await asyncio.gather(*map(publish, ids))


async def test_a_member_killed_in_the_middle_leaves_its_message_to_another(server: LocalBroker, tmp_path: Path) -> None:
    """kill -9 after the handler began: nobody said so to the server, which waits for a sign of life."""
    async with broker_of_url(server.url) as broker:
        with Member(server.url, "check_in", "ward", tmp_path, "a") as one:
            await publish_surely(broker, "check_in", {"seconds": 1.0}, "1")
            await asyncio.to_thread(one.wait_for, "began", "1")
            one.kill()
            with Member(server.url, "check_in", "ward", tmp_path, "b") as two:
                await asyncio.to_thread(two.wait_for, "took", "1")
                assert two.lines[0] == ["began", "1", "2"]
    assert one.took == []


async def test_a_frozen_member_leaves_its_message_to_another_and_the_second_time_is_recognisable(
    server: LocalBroker, tmp_path: Path
) -> None:
    """SIGSTOP: it gives no sign of life. When it goes on, it ends what it began: twice handled, the same id."""
    async with broker_of_url(server.url) as broker:
        with Member(server.url, "check_in", "ward", tmp_path, "a") as one:
            await publish_surely(broker, "check_in", {"seconds": 0.5}, "1")
            await asyncio.to_thread(one.wait_for, "began", "1")
            one.send(signal.SIGSTOP)
            with Member(server.url, "check_in", "ward", tmp_path, "b") as two:
                await asyncio.to_thread(two.wait_for, "took", "1")
                assert one.took == []
                one.send(signal.SIGCONT)
                await asyncio.to_thread(one.wait_for, "took", "1")
                await publish_surely(broker, "check_in", {}, "2")
                await until(lambda: "2" in one.took + two.took)
    assert sorted(one.took + two.took) == ["1", "1", "2"]


async def test_a_message_that_ends_its_process_goes_to_the_dead_letters(server: LocalBroker, tmp_path: Path) -> None:
    """Nobody is left to count its failures but the server; the next member does not even begin."""
    operator = Taken()
    async with broker_of_url(server.url) as broker:
        broker.subscribe(DEAD_LETTERS, "operator", operator)
        await publish_surely(broker, "check_in", {"die": True}, "deadly")
        for number in range(QUICK.attempts):
            with Member(server.url, "check_in", "ward", tmp_path, f"{number}") as victim:
                await asyncio.to_thread(
                    wait_until, lambda member=victim: not member.running, timeout=20.0, what="death"
                )
        with Member(server.url, "check_in", "ward", tmp_path, "last") as last:
            await until(lambda: operator.ids)
            await publish_surely(broker, "check_in", {}, "harmless")
            await asyncio.to_thread(last.wait_for, "took", "harmless")
    assert last.began == ["harmless"]
    assert operator.messages[0].body["id"] == "deadly"
    assert operator.messages[0].body["attempts"] == QUICK.attempts


async def test_a_server_killed_and_restarted_under_publishing_loses_nothing(
    server: LocalBroker, tmp_path: Path
) -> None:
    """Twice, by kill -9, with members of two groups at work: each message is in the books of each group."""
    ids = [f"{number}" for number in range(300)]
    with ExitStack() as stack:
        ward = stack.enter_context(Member(server.url, "check_in", "ward", tmp_path))
        finance = [stack.enter_context(Member(server.url, "check_in", "finance", tmp_path, name)) for name in "ab"]
        async with broker_of_url(server.url) as broker:
            for third in (ids[:100], ids[100:200], ids[200:]):
                publishing = asyncio.create_task(publish_all(broker, third))
                await until(lambda: len(ward.took) > 5)
                if third is not ids[200:]:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                await publishing
            wanted = set(ids)
            await until(lambda: set(ward.took) >= wanted, within=30.0, what="ward complete")
            await until(lambda: set(finance[0].took + finance[1].took) >= wanted, within=30.0, what="finance complete")
            assert broker.counts.published + broker.counts.repeated == 300
    assert set(ward.took) == wanted
    assert set(finance[0].took + finance[1].took) == wanted


async def test_a_frozen_server_loses_nothing(server: LocalBroker, tmp_path: Path) -> None:
    """SIGSTOP for longer than the client waits for pings: it connects anew, and publishes with the same ids."""
    ids = [f"{number}" for number in range(100)]
    with Member(server.url, "check_in", "ward", tmp_path) as ward:
        async with broker_of_url(server.url) as broker:
            publishing = asyncio.create_task(publish_all(broker, ids))
            await until(lambda: len(ward.took) > 5)
            server.freeze()
            try:
                await until(lambda: not broker.connected, what="the broker noticed as away")
            finally:
                server.thaw()
            await publishing
            await until(lambda: set(ward.took) >= set(ids), within=30.0)
            assert broker.counts.published + broker.counts.repeated == 100
    assert set(ward.took) == set(ids)
