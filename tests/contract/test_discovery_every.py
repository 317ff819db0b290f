"""The behaviour contract of discovery, held by every kind of registry alike, each a real one of its kind."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import subprocess
import sys
import textwrap
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient import ConfigError, NoInstanceError, listen
from resilient.discovery import Change, Discovery, RegistryBack, RegistryDown
from resilient.events import Event
from tests.rigs import ConsulRig, DnsRig, EtcdRig, FileRig, KubernetesRig, Rig
from tests.waiting import wait_until

KINDS: list[type[Rig]] = [FileRig, DnsRig, ConsulRig, EtcdRig, KubernetesRig]
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.removesuffix("Rig").lower())
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with request.param() as found:
        yield found


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = listen(events.append, Event)
    yield events
    stop()


def loops(found: Discovery) -> list[threading.Thread]:
    """The threads at work for this discovery."""
    return [thread for thread in threading.enumerate() if thread.name == f"resilient {found._name}"]


def addresses(found: Discovery, service: str = "producer") -> list[tuple[str, int]]:
    return sorted((instance.host, instance.port) for instance in found.instances(service))


def sees(found: Discovery, *expected: tuple[str, int], service: str = "producer") -> None:
    wait_until(lambda: addresses(found, service) == sorted(expected), timeout=15, what=f"{service} at {expected}")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 15 s")


ONE, TWO, THREE, FOUR = (("127.0.0.1", 8001), ("127.0.0.2", 8001), ("127.0.0.3", 8001), ("127.0.0.4", 8001))


def test_01_making_one_starts_nothing_and_loads_no_client(rig: Rig) -> None:
    """No thread, no socket, no asyncio or HTTP client before something is asked for."""
    code = f"""
        import sys, threading
        from resilient.discovery import Discovery
        Discovery.from_url({rig.url!r})
        print(threading.active_count(), sorted({{"asyncio", "ssl", "httpx", "httpcore"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"


def test_02_03_a_dead_registry_delays_nobody_and_waiting_for_it_ends_in_words(rig: Rig) -> None:
    """Empty and infinitely old at once; who waits hears whom was asked and why not; when it starts, it is found."""
    rig.put("producer", *ONE)
    rig.kill()
    began = time.perf_counter()
    with Discovery.from_url(rig.url) as found:
        assert found.instances("producer") == ()
        assert found.age("producer") == math.inf
        assert time.perf_counter() - began < 0.5
        with pytest.raises(NoInstanceError, match=r"'producer'.*has not answered within 1\.2 s \(.+\)") as caught:
            found.wait("producer", timeout=1.2)
        assert caught.value.policy == "producer"
        rig.start()
        assert found.wait("producer", timeout=20)[0].port == ONE[1]


def test_10_what_is_known_survives_the_registry(rig: Rig, heard: list[Event]) -> None:
    """The same set, growing older, said once; when the registry is back, its answer counts, and that is said too."""
    for each in (ONE, TWO, THREE):
        rig.put("producer", *each)
    with Discovery.from_url(rig.url) as found:
        sees(found, ONE, TWO, THREE)
        known = found.instances("producer")
        rig.kill()
        wait_until(lambda: any(isinstance(event, RegistryDown) for event in heard), timeout=15, what="RegistryDown")
        older = found.age("producer") + 0.5
        wait_until(lambda: found.age("producer") > older, what="an older answer")
        assert found.instances("producer") is known
        rig.put("producer", *FOUR)
        rig.start()
        sees(found, ONE, TWO, THREE, FOUR)
        wait_until(lambda: any(isinstance(event, RegistryBack) for event in heard), what="RegistryBack")
    assert [type(event) for event in heard if isinstance(event, (RegistryDown, RegistryBack))] == [
        RegistryDown,
        RegistryBack,
    ]


def test_10_a_hung_registry_is_a_dead_one(rig: Rig) -> None:
    """What is known stays; closing does not wait for it; when it goes on, so do we."""
    if not rig.can_hang:
        pytest.skip("there is no process that could hang")
    rig.put("producer", *ONE)
    rig.put("producer", *TWO)
    with Discovery.from_url(rig.url) as found, Discovery.from_url(rig.url) as closed:
        sees(found, ONE, TWO)
        sees(closed, ONE, TWO)
        rig.hang()
        time.sleep(0.3)  # long enough for whoever is to ask it
        began = time.monotonic()
        closed.close()
        assert time.monotonic() - began < 4.0
        assert addresses(found) == [ONE, TWO]
        rig.resume()
        rig.put("producer", *THREE)
        sees(found, ONE, TWO, THREE)


def test_subscribers_hear_what_came_and_went(rig: Rig) -> None:
    """Each change once, outside every lock; a listener that raises harms nobody."""
    for each in (ONE, TWO, THREE):
        rig.put("producer", *each)
    changes: list[Change] = []
    found = Discovery.from_url(rig.url)
    stop = found.subscribe("Producer", changes.append)
    found.subscribe("producer", lambda change: 1 / 0)
    with found:
        sees(found, ONE, TWO, THREE)
        rig.put("producer", *FOUR)
        sees(found, ONE, TWO, THREE, FOUR)
        rig.drop("producer", *ONE)
        sees(found, TWO, THREE, FOUR)
        stop()
        rig.put("producer", *ONE)
        sees(found, ONE, TWO, THREE, FOUR)
    added = [instance.host for change in changes for instance in change.added]
    removed = [instance.host for change in changes for instance in change.removed]
    assert sorted(added) == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert removed == ["127.0.0.1"]


def test_15_a_lookup_reads_memory(rig: Rig) -> None:
    """The same tuple while nothing changes, under 5 µs on a busy machine, for known and unknown services."""
    rig.put("producer", *ONE)
    with Discovery.from_url(rig.url) as found:
        found.wait("producer", timeout=15)
        assert found.instances("producer") is found.instances("producer")
        for service in ("producer", "PRODUCER", "nobody"):
            found.instances(service)
            assert min(timeit.repeat(lambda: found.instances(service), number=1000, repeat=5)) / 1000 < 5e-6  # noqa: B023


def test_16_one_bad_instance_never_loses_the_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It is skipped, and the log says which and why, once."""
    words = rig.spoil()
    rig.put("producer", *ONE)
    rig.put("producer", *TWO)
    with caplog.at_level(logging.WARNING, "resilient"), Discovery.from_url(rig.url) as found:
        sees(found, ONE, TWO)
        rig.put("producer", *THREE)
        sees(found, ONE, TWO, THREE)
    if words:  # nothing in an address record can be wrong
        assert sum(words in record.getMessage() for record in caplog.records) == 1


def test_20_closing_ends_everything_and_it_can_begin_again(rig: Rig) -> None:
    """One thread for all services, none afterwards; lookups go on from memory; the next block is as new."""
    rig.put("producer", *ONE)
    rig.put("other", *TWO)
    found = Discovery.from_url(rig.url)
    for _ in range(2):
        with found:
            assert found.wait("producer", timeout=15)
            assert found.wait("other", timeout=15)
            assert [thread.daemon for thread in loops(found)] == [True]
        wait_until(lambda: not loops(found), what="the end of the thread")
        assert addresses(found) == [ONE]
        assert loops(found) == []
        found.close()


def test_20_it_ends_with_whoever_holds_it(rig: Rig) -> None:
    """No leak when configurations come and go."""
    rig.put("producer", *ONE)
    found = Discovery.from_url(rig.url)
    name = f"resilient {found._name}"
    assert found.wait("producer", timeout=15)
    del found
    gc.collect()
    wait_until(lambda: all(thread.name != name for thread in threading.enumerate()), what="the end of the thread")


def test_21_an_interpreter_ends_at_once(rig: Rig) -> None:
    """Nothing that waits for the registry delays the end of the process, and nothing is said about it."""
    rig.put("producer", *ONE)
    code = f"""
        import time
        from resilient.discovery import Discovery
        found = Discovery.from_url({rig.url!r})
        print(len(found.wait("producer", timeout=15)), flush=True)
        print(time.monotonic())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    count, at = done.stdout.split()
    assert count == "1"
    assert time.monotonic() - float(at) < 2.0
    assert done.stderr == ""


def test_22_a_forked_child_looks_up_for_itself(rig: Rig) -> None:
    """It keeps what is known and starts its own loop; the parent's goes on."""
    rig.put("producer", *ONE)
    rig.put("producer", *TWO)
    rig.put("producer", *THREE)
    code = f"""
        import os, sys, threading, time, warnings
        from resilient.discovery import Discovery
        warnings.simplefilter("ignore", DeprecationWarning)  # of CPython 3.12+: to fork with threads is what is tested
        found = Discovery.from_url({rig.url!r})
        found.wait("producer", timeout=15)
        pid = os.fork()
        who = "parent" if pid else "child"
        assert len(found.instances("producer")) == 3
        print("ready", flush=True)
        end = time.monotonic() + 20
        while len(found.instances("producer")) != 4 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(found.instances("producer")) == 4, who
        assert sum(thread.name.startswith("resilient ") for thread in threading.enumerate()) == 1, who
        if pid == 0:
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        rig.put("producer", *FOUR)
        _, errors = process.communicate(timeout=40)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_22_a_fork_while_it_begins_leaves_no_child_hanging(rig: Rig) -> None:
    """The background's first steps import a client; a fork waits for that, else the child's own would never end."""
    rig.put("producer", *ONE)
    code = f"""
        import os, time, warnings
        from resilient.discovery import Discovery
        warnings.simplefilter("ignore", DeprecationWarning)  # of CPython 3.12+: to fork with threads is what is tested
        found = Discovery.from_url({rig.url!r})
        found.instances("producer")
        children = []
        for _ in range(4):
            time.sleep(0.02)
            child = os.fork()
            if child == 0:
                found.wait("producer", timeout=15)
                os._exit(0)
            children.append(child)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
        found.close()
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert (process.stdout, process.stderr) == ("[0, 0, 0, 0]\n", "")


async def test_23_tasks_do_everything_without_a_thread(rig: Rig) -> None:
    """Lookups, changes and the end run on the caller's loop; a caller that is cancelled cancels only itself."""
    for each in (ONE, TWO, THREE):
        rig.put("producer", *each)
    async with Discovery.from_url(rig.url) as found:
        waiter = asyncio.create_task(found.wait_async("nobody", timeout=30))
        await asyncio.sleep(0)
        waiter.cancel()
        assert len(await found.wait_async("producer", timeout=15)) == 3
        with pytest.raises(ConfigError, match="wait_async"):
            found.wait("unknown")
        rig.put("producer", *FOUR)
        await until(lambda: len(found.instances("producer")) == 4)
        assert loops(found) == []
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("resilient")] == []


def test_23_a_loop_that_ended_without_closing_is_replaced_by_a_thread(rig: Rig) -> None:
    """`asyncio.run` cancels its tasks; a thread goes on."""
    for each in (ONE, TWO, THREE):
        rig.put("producer", *each)
    found = Discovery.from_url(rig.url)

    async def enter() -> None:
        await found.__aenter__()
        await found.wait_async("producer", timeout=15)

    asyncio.run(enter())
    rig.put("producer", *FOUR)
    sees(found, ONE, TWO, THREE, FOUR)
    found.close()


def test_a_listener_may_close_and_is_not_made_to_wait(rig: Rig) -> None:
    """Blocking the refresh's own thread would wait for nobody: waiting is refused in words, closing is at once."""
    rig.put("producer", *ONE)
    told: list[object] = []
    found = Discovery.from_url(rig.url)

    def listener(change: Change) -> None:
        try:
            found.wait("nobody")
        except ConfigError as error:
            told.append(str(error))
        began = time.monotonic()
        found.close()
        told.append(time.monotonic() - began)

    found.subscribe("producer", listener)  # first use
    wait_until(lambda: len(told) == 2, timeout=15, what="the listener's end")
    wait_until(lambda: not loops(found), what="the end of the thread")
    assert "would block" in str(told[0])
    assert isinstance(told[1], float)
    assert told[1] < 1.0


def test_a_listener_that_exits_ends_the_refresh_for_a_moment_only(rig: Rig) -> None:
    """`sys.exit()` in a thread that is not theirs ends nothing for anybody else."""
    rig.put("producer", *ONE)
    found = Discovery.from_url(rig.url)
    stop = found.subscribe("producer", lambda change: sys.exit())
    with found:
        found.wait("producer", timeout=15)
        stop()
        rig.put("producer", *TWO)
        sees(found, ONE, TWO)
