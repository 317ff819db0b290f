"""Everything dies while 200 patients are checked in, and the books are right to the last entry."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples.hospital.messages import broker_of_url
from examples.hospital.messages.local_broker import LocalBroker
from tests.hospital_messages.books import Books
from tests.hospital_messages.services import ServiceProcess


@pytest.mark.timeout(120)
async def test_200_check_ins_while_everything_is_killed_are_200_entries_everywhere(
    server: LocalBroker, tmp_path: Path
) -> None:
    """The broker, reception's relay, ward and a replica of finance are killed and restarted; their answers come too."""
    reception, ward, finance = Books(), Books(), Books()
    files = {name: tmp_path / f"{name}.db" for name in ("reception", "ward", "finance", "answers")}
    ids = [f"{number:03}" for number in range(200)]
    async with (
        reception.database(files["reception"]) as desk,
        ward.database(files["ward"]) as ward_database,
        finance.database(files["finance"]) as finance_database,
        Books().database(files["answers"]) as answers_database,
        broker_of_url(server.url) as broker,
    ):
        answers = Books()
        with (
            ServiceProcess("reception", server.url, files["reception"]) as relay,
            ServiceProcess("ward", server.url, files["ward"]) as ward_process,
            ServiceProcess("finance", server.url, files["finance"]) as finance_process,
            ServiceProcess("finance", server.url, files["finance"]),
        ):
            broker.subscribe(
                "check_in_completed",
                "reception",
                answers.inbox.once(answers_database, "reception", answers.enter, counts=broker.counts),
            )
            trouble = {30: finance_process.restart, 60: server.kill, 90: relay.restart, 120: server.start}
            trouble |= {140: ward_process.restart, 160: server.kill, 170: server.start, 180: relay.restart}
            for number, reference in enumerate(ids):
                await reception.check_in(desk, reference)
                if number in trouble:
                    await asyncio.to_thread(trouble[number])
                await asyncio.sleep(0.02)  # the pace of the patients

            async def books() -> tuple[list[str], list[str], list[str]]:
                return (
                    await ward.references(ward_database),
                    await finance.references(finance_database),
                    await answers.references(answers_database),
                )

            for _ in range(600):
                if [len(each) for each in await books()] == [200, 200, 400]:
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(1.5)  # longer than a member's silence: nothing comes again and is entered twice
            in_ward, in_finance, answered = await books()
            assert await reception.outbox.pending(desk) == 0
    assert sorted(in_ward) == ids
    assert sorted(in_finance) == ids
    assert sorted(answered) == sorted(f"{name}:{by}" for name in ids for by in ("ward", "finance"))
