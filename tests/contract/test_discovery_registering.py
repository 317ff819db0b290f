"""Being found, in every registry that can be written, each a real one of its kind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient import listen
from resilient.discovery import Registered, RegistrationLost, RegistrationRegained, Registry
from resilient.events import Event
from tests.rigs import ConsulRig, EtcdRig, Rig
from tests.waiting import wait_until

KINDS: list[type[Rig]] = [ConsulRig, EtcdRig]
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.removesuffix("Rig").lower())
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with request.param() as found:
        yield found


@pytest.fixture
def heard() -> Iterator[list[type[Event]]]:
    kinds: list[type[Event]] = []
    stops = [listen(lambda event: kinds.append(type(event)), kind) for kind in (Registered, RegistrationLost)]
    yield kinds
    for stop in stops:
        stop()


def test_04_whoever_registers_is_found_with_all_that_was_said(rig: Rig, heard: list[type[Event]]) -> None:
    """Address, zone, weight, metadata; by one thread; taken out at the end of the block."""
    with Registry.from_url(rig.url) as mine, Registry.from_url(rig.url) as other:
        said = {"zone": "z", "weight": 2.5, "metadata": {"k": "v"}, "secure": True}
        with mine.register("Producer", port=8001, host="127.0.0.7", **said) as registration:  # type: ignore[arg-type]  # by keyword
            (found,) = other.wait("producer", timeout=15)
            wait_until(lambda: registration.registered, what="the confirmation")
            assert rig.entries() == ["127.0.0.7:producer:8001"]
            assert len([thread for thread in threading.enumerate() if thread.name == f"resilient {mine._name}"]) <= 2
        assert rig.entries() == []
        wait_until(lambda: other.instances("producer") == (), timeout=20, what="the end")
    assert (found.host, found.port, found.id, found.zone, found.weight, found.secure) == (
        *("127.0.0.7", 8001, "127.0.0.7:producer:8001", "z", 2.5, True),
    )
    assert found.metadata["k"] == "v"
    assert heard == [Registered]


def test_05_it_outlives_its_time_to_live(rig: Rig) -> None:
    """Renewed for as long as the block runs; its address is found out."""
    with Registry.from_url(rig.url) as found, found.register("producer", port=8001) as registration:
        assert found.wait("producer", timeout=15)[0].host == "127.0.0.1"
        time.sleep(2.5)  # more than a life
        assert found.instances("producer")
        assert registration.registered
        assert registration.instance.id == "127.0.0.1:producer:8001"


def test_06_a_registry_that_forgot_is_told_again(rig: Rig, heard: list[type[Event]]) -> None:
    """Killed and started anew it lists us within seconds, and that is told."""
    with Registry.from_url(rig.url) as found, found.register("producer", port=8001) as registration:
        assert found.wait("producer", timeout=15)
        rig.kill()
        wait_until(lambda: not registration.registered, timeout=15, what="the loss")
        rig.start()
        wait_until(lambda: registration.registered, timeout=20, what="the new registration")
        assert rig.entries() == ["127.0.0.1:producer:8001"]
        assert found.instances("producer")
    assert rig.entries() == []
    assert heard == [Registered, RegistrationLost, RegistrationRegained]


def test_19_statuses_and_health_decide_who_is_found(rig: Rig) -> None:
    """Out of service, and back; ill, and well again; each within a second or so."""
    well = threading.Event()
    well.set()
    for number in (8, 9):  # others, so that one that goes is not half of all, which would be looked at twice
        rig.put("producer", f"127.0.0.{number}", 8001)
    with (
        Registry.from_url(rig.url) as found,
        found.register("producer", port=8001, health=well.is_set) as mine,
        found.register("other", port=8002),
    ):

        def up() -> bool:
            return any(one.id == mine.instance.id for one in found.instances("producer"))

        wait_until(up, timeout=15, what="the registration")
        for status in ("OUT_OF_SERVICE", "UP", "DOWN", "OUT_OF_SERVICE", "UP"):
            mine.set_status(status)
            expected = status == "UP"
            wait_until(lambda: up() == expected, timeout=15, what=status)  # noqa: B023
        well.clear()
        wait_until(lambda: not up(), timeout=15, what="the illness")
        well.set()
        wait_until(up, timeout=15, what="the recovery")
        assert found.wait("other", timeout=15)


def test_19_out_of_service_before_it_begins_is_never_seen(rig: Rig) -> None:
    """Not for a moment."""
    seen: list[object] = []
    found = Registry.from_url(rig.url)
    found.subscribe("producer", seen.append)
    with found:
        mine = found.register("producer", port=8001)
        mine.set_status("OUT_OF_SERVICE")
        with mine:
            wait_until(lambda: mine.registered, timeout=15, what="the registration")
            assert found.instances("producer") == ()
            mine.set_status("UP")
            wait_until(lambda: found.instances("producer"), timeout=15, what="the service")
    assert len(seen) >= 1
    assert getattr(seen[0], "added", ()) != ()


async def test_23_registering_runs_in_tasks_too(rig: Rig) -> None:
    """Without a thread; taken out when the block ends, and when it is cancelled."""
    async with Registry.from_url(rig.url) as found, found.register("producer", port=8001) as mine:
        assert await found.wait_async("producer", timeout=15)
        await asyncio.to_thread(wait_until, lambda: mine.registered, what="the confirmation")
        assert [thread for thread in threading.enumerate() if thread.name == f"resilient {found._name}"] == []
    assert await asyncio.to_thread(rig.entries) == []

    async def serve() -> None:
        async with Registry.from_url(rig.url).register("producer", port=8001):
            await asyncio.sleep(60)

    task = asyncio.create_task(serve())
    await asyncio.to_thread(wait_until, rig.entries, timeout=15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(rig.entries) == []


def test_20_a_hung_registry_holds_nobody(rig: Rig) -> None:
    """Closing ends within its time and never raises."""
    with Registry.from_url(rig.url) as found, found.register("producer", port=8001):
        found.wait("producer", timeout=15)
        rig.hang()
        began = time.monotonic()
    assert time.monotonic() - began < 6.0
    rig.resume()


@pytest.mark.parametrize("end", ["exit", "sigterm", "fork"])
def test_21_22_however_a_process_ends_its_entry_goes_and_only_then(rig: Rig, end: str) -> None:
    """At the interpreter's exit and at SIGTERM; a forked child that ends leaves the parent's entry alone."""
    last = {"exit": "", "sigterm": "os.kill(os.getpid(), 15)", "fork": "os.waitpid(pid, 0); time.sleep(1); listed()"}
    code = f"""
        import os, time
        from resilient.discovery import Registry
        found = Registry.from_url({rig.url!r})
        def listed():
            end = time.monotonic() + 15
            while not (mine.registered and found.instances("producer")) and time.monotonic() < end:
                time.sleep(0.01)
            assert mine.registered and found.instances("producer")
        mine = found.register("producer", port=8001, sigterm={end == "sigterm"})
        mine.__enter__()
        listed()
        if {end == "fork"}:
            pid = os.fork()
            if pid == 0:
                raise SystemExit
        {last[end]}
        print("ready", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (-15 if end == "sigterm" else 0, "")
    assert rig.entries() == []
