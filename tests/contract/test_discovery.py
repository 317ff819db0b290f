"""The behaviour contract of discovery, against a registry on the loopback interface that fails as told.

The numbers are those of the contract's statements; what is a matter of timing alone is tested in virtual time
(tests/unit/test_discovery_timing.py).
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from resilient import ConfigError, Deadline, NoInstanceError
from resilient.discovery import Change, Discovery, Instance, Registration, Registry
from resilient.discovery.refresh import Refresh
from resilient.discovery.roster import Roster
from resilient.discovery.steps import Exchange, Send, Server
from resilient.discovery.wire import AsyncHttpWire, HttpWire
from resilient.testing import VirtualClock
from tests.scripted_registry import ScriptedRegistry, free_port, scripted_registry
from tests.waiting import wait_until

FAST = "?fetch_interval=0.2&renew_interval=0.2&lease=3"


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as found:
        yield found


def loops(registry: ScriptedRegistry) -> list[threading.Thread]:
    """The threads at work for this registry; other tests' may still be ending."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("resilient ") and registry.url in thread.name
    ]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_01_importing_starts_nothing_and_loads_no_client() -> None:
    """No thread, no socket, no asyncio, ssl or httpx; not when a discovery is made, either."""
    code = """
        import sys, threading
        from resilient.discovery import Discovery
        Discovery.from_url("eureka://localhost:8761"); Discovery.from_url("static://a=b:1")
        print(threading.active_count(), sorted({"asyncio", "ssl", "httpx", "httpcore", "socket"} & set(sys.modules)))
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert out.stdout == "1 []\n"


def test_02_an_unreachable_registry_delays_nobody() -> None:
    """The block is entered at once; lookups are empty, never None; the age is infinite."""
    began = time.perf_counter()
    with Discovery.from_url(f"eureka://127.0.0.1:{free_port()}") as found:
        assert found.instances("producer") == ()
        assert time.perf_counter() - began < 0.5
        assert found.age("producer") == math.inf


def test_03_waiting_ends_in_words() -> None:
    """What was asked, of whom, and why it did not answer; the loop goes on."""
    port = free_port()
    with Discovery.from_url(f"eureka://127.0.0.1:{port}{FAST}") as found:
        with pytest.raises(NoInstanceError, match=rf"'producer'.*127\.0\.0\.1:{port}.*not answered.*Connect") as caught:
            found.wait("producer", timeout=1.5)
        assert caught.value.policy == "producer"
        with scripted_registry(port) as late:
            late.put("producer", "h", 1)
            assert found.wait("producer")[0].host == "h"
            with pytest.raises(NoInstanceError, match=r"answered .* ago and lists producer"):
                found.wait("nobody", timeout=0.3)


def test_04_registering_is_one_post_of_the_whole_instance(registry: ScriptedRegistry) -> None:
    """With our address on the connection that reaches the registry, and the default id."""
    with Registry.from_url(registry.url).register("producer", port=8080, metadata={"k": "v"}) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        (post,) = registry.seen("POST")
    raw = post.body["instance"]
    assert post.path == "/eureka/apps/PRODUCER"
    assert (raw["instanceId"], raw["ipAddr"], raw["metadata"]) == ("127.0.0.1:producer:8080", "127.0.0.1", {"k": "v"})
    assert raw["leaseInfo"]["durationInSecs"] == 90
    assert mine.instance == Instance("producer", "127.0.0.1", 8080, "127.0.0.1:producer:8080")


def test_05_06_it_is_renewed_and_registered_again_when_forgotten(registry: ScriptedRegistry) -> None:
    """A registry that restarts empty lists us again within a second, by one POST."""
    with Registry.from_url(registry.url + FAST).register("producer", port=8080):
        wait_until(lambda: len(registry.seen("PUT")) >= 2, what="renewals")
        began = time.monotonic()
        registry.listed.clear()
        wait_until(lambda: registry.listed, what="the new registration")
        assert time.monotonic() - began < 1.5
        renewals = len(registry.seen("PUT"))
        wait_until(lambda: len(registry.seen("PUT")) >= renewals + 2, what="renewals")
        assert len(registry.seen("POST")) == 2


@pytest.mark.parametrize("failure", [500, "hang", "drip", "cut"])
def test_07_the_next_server_answers_when_one_fails_in_any_way(failure: int | str) -> None:
    """Errors, hung and dripping servers end within the limit of an attempt, and the good one is kept to."""
    with scripted_registry() as bad, scripted_registry() as good:
        good.put("producer", "h", 1)
        bad.script["GET"] = failure
        port = good.url.rpartition(":")[2]
        url = f"{bad.url.removesuffix('/eureka')},127.0.0.1:{port}?renew_interval=0.5&lease=1.5&fetch_interval=0.2"
        with Discovery.from_url(url) as found:
            assert found.wait("producer")[0].host == "h"
            wait_until(lambda: len(good.seen("GET")) >= 3, what="more fetches")
        assert len(bad.seen("GET")) == 1


@pytest.mark.parametrize("failure", ["hang", "drip"])
async def test_07_the_same_on_an_event_loop(failure: str) -> None:
    """Tasks are cut off at the same limit."""
    with scripted_registry() as bad, scripted_registry() as good:
        good.put("producer", "h", 1)
        bad.script["GET"] = failure
        port = good.url.rpartition(":")[2]
        url = f"{bad.url.removesuffix('/eureka')},127.0.0.1:{port}?renew_interval=0.5&lease=1.5"
        async with Discovery.from_url(url) as found:
            assert (await found.wait_async("producer"))[0].host == "h"


def test_08_credentials_go_with_every_call_decoded(registry: ScriptedRegistry) -> None:
    """And a registry that refuses them is no outage: the message says so."""
    url = registry.url.replace("://", "://us:p%40ss@") + FAST
    with Registry.from_url(url) as found, found.register("me", port=1):
        wait_until(lambda: len(registry.seen("PUT")) >= 1, what="a renewal")
        registry.script["GET"] = 401
        with pytest.raises(NoInstanceError, match=r"401.*credentials"):
            found.wait("nobody", timeout=1.0)
    assert {request.authorization for request in registry.requests} == {"Basic dXM6cEBzcw=="}


def test_10_what_is_known_survives_the_registry() -> None:
    """The same set, growing older; when the registry is back, its answer counts."""
    port = free_port()
    with scripted_registry(port) as first:
        first.put("producer", "old", 1)
        found = Discovery.from_url(first.url + FAST)
        known = found.wait("producer")
    time_out = found.age("producer") + 0.5
    wait_until(lambda: found.age("producer") > time_out, what="an older answer")
    assert found.instances("producer") is known
    with scripted_registry(port) as second:
        second.put("producer", "new", 1)
        wait_until(lambda: found.instances("producer")[0].host == "new", what="the new list")
        assert found.age("producer") < 0.5
        found.close()


def test_15_readers_see_one_consistent_snapshot_while_it_is_replaced() -> None:
    """A thousand swaps under 32 readers: each lookup is one whole answer; a lookup costs under 5 µs."""
    roster = Roster(VirtualClock())
    answers = [{"s": tuple(Instance("s", f"h{n}", port) for port in range(1, 9))} for n in range(2)]
    roster.replace(answers[0])
    torn: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = roster.get("s")
            if len({instance.host for instance in found}) != 1 or len(found) != 8:
                torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(32)]
    for reader in readers:
        reader.start()
    for turn in range(1000):
        roster.replace(answers[turn % 2])
    done.set()
    for reader in readers:
        reader.join()
    assert torn == []
    found = Discovery.from_url("static://s=h:1")
    assert min(timeit.repeat(lambda: found.instances("s"), number=1000, repeat=5)) / 1000 < 5e-6


def test_16_17_only_readable_instances_that_are_up_are_found(registry: ScriptedRegistry) -> None:
    """Five statuses, one usable; an instance that can not be read is skipped."""
    for port, status in enumerate(["UP", "DOWN", "OUT_OF_SERVICE", "STARTING", "UNKNOWN"], start=1):
        registry.put("producer", "h", port, status=status)
    registry.put("producer", "broken", 9, securePort=None, hostName=None, ipAddr=None)
    with Discovery.from_url(registry.url) as found:
        assert [instance.port for instance in found.wait("producer")] == [1]


def test_subscribers_hear_what_came_and_went(registry: ScriptedRegistry) -> None:
    """Outside every lock, so a listener may look things up; one that raises harms nobody."""
    registry.put("producer", "a", 1)
    heard: list[Change] = []
    with Discovery.from_url(registry.url + FAST) as found:

        def listener(change: Change) -> None:
            assert found.instances("producer")
            heard.append(change)

        found.subscribe("producer", lambda change: 1 / 0)
        stop = found.subscribe("Producer", listener)
        wait_until(lambda: len(heard) == 1, what="the first list")
        registry.put("producer", "b", 1)
        wait_until(lambda: len(heard) == 2, what="an addition")
        registry.listed.pop(("PRODUCER", "a:producer:1"))
        wait_until(lambda: len(heard) == 3, what="a removal")
        stop()
        registry.put("producer", "c", 1)
        wait_until(lambda: len(found.instances("producer")) == 2, what="the next list")
    hosts = [([i.host for i in change.added], [i.host for i in change.removed]) for change in heard]
    assert hosts == [(["a"], []), (["b"], []), ([], ["a"])]


def test_20_closing_takes_the_entry_out_and_then_is_silent(registry: ScriptedRegistry) -> None:
    """DELETE last, no request after it, no thread left; closing again does nothing."""
    with Registry.from_url(registry.url + FAST) as found, found.register("producer", port=8080) as mine:
        found.wait("producer")
        wait_until(lambda: len(registry.seen("PUT")) >= 1, what="a renewal")
    assert registry.listed == {}
    wait_until(lambda: not loops(registry), what="the end of the thread")
    sent = len(registry.requests)
    wait_until(lambda: time.monotonic() - registry.requests[-1].at > 0.7, what="three intervals")
    mine.close()
    found.close()
    assert found.instances("producer") != ()
    assert len(registry.requests) == sent
    assert len(registry.seen("DELETE")) == 1


@pytest.mark.parametrize("failure", ["hang", 500])
def test_20_closing_never_raises_and_ends_in_time(registry: ScriptedRegistry, failure: int | str) -> None:
    """A registry that fails or hangs holds nobody for more than five seconds."""
    with Registry.from_url(registry.url + FAST) as found, found.register("producer", port=8080) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        registry.script.update(DELETE=failure, GET=failure, PUT=failure)
        began = time.monotonic()
    assert time.monotonic() - began < 5.5


def test_20_it_can_begin_again(registry: ScriptedRegistry) -> None:
    """A closed registration and a closed registry are as new in the next block."""
    found = Registry.from_url(registry.url + FAST)
    mine = found.register("producer", port=8080)
    for _ in range(2):
        with found, mine:
            wait_until(lambda: mine.registered and found.instances("producer"), what="the registration")
        assert registry.listed == {}


async def test_23_tasks_do_everything_without_a_thread(registry: ScriptedRegistry) -> None:
    """Fetches, renewals and the DELETE run on the caller's loop; a caller that is cancelled cancels only itself."""
    async with Registry.from_url(registry.url + FAST) as found, found.register("producer", port=8080) as mine:
        waiter = asyncio.create_task(found.wait_async("nobody", timeout=30))
        await asyncio.sleep(0)
        waiter.cancel()
        assert (await found.wait_async("producer"))[0].port == 8080
        with pytest.raises(ConfigError, match="wait_async"):
            found.wait("nobody")
        await until(lambda: len(registry.seen("PUT")) >= 2)
        assert mine.registered
        assert loops(registry) == []
        sent = len(registry.seen("GET"))
        await until(lambda: len(registry.seen("GET")) > sent)
    assert registry.listed == {}
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("resilient")] == []


async def test_23_a_lookup_outside_a_block_starts_the_thread_in_async_programs_too(registry: ScriptedRegistry) -> None:
    """Lookups read memory, so the loop is never blocked."""
    registry.put("producer", "h", 1)
    found = Discovery.from_url(registry.url)
    try:
        assert (await found.wait_async("producer"))[0].host == "h"
        assert [thread.daemon for thread in loops(registry)] == [True]
    finally:
        await found.aclose()
    await until(lambda: not loops(registry))


def test_23_a_loop_that_ended_without_closing_is_replaced_by_a_thread(registry: ScriptedRegistry) -> None:
    """`asyncio.run` cancels its tasks; the next lookup begins again."""
    found = Discovery.from_url(registry.url + FAST)

    async def enter() -> None:
        await found.__aenter__()
        registry.put("producer", "h", 1)
        await found.wait_async("producer")

    asyncio.run(enter())
    registry.put("producer", "i", 1)
    wait_until(lambda: len(found.instances("producer")) == 2, what="the thread's answer")
    found.close()


def test_one_thread_does_all_the_work_of_one_registry(registry: ScriptedRegistry) -> None:
    """Fetches and three registrations, and no deadline of the caller reaches it."""
    found = Registry.from_url(registry.url + FAST)
    with Deadline(0.001), found, found.register("a", port=1), found.register("b", port=2), found.register("c", port=3):
        for service in "abc":
            assert found.wait(service)
        assert len(loops(registry)) == 1
        wait_until(lambda: len({request.path for request in registry.seen("PUT")}) == 3, what="three renewals")
    assert registry.listed == {}


def test_a_discovery_that_nobody_holds_ends_its_thread(registry: ScriptedRegistry) -> None:
    """No leak when configurations come and go."""
    found = Discovery.from_url(registry.url + FAST)
    found.instances("producer")
    wait_until(lambda: registry.requests, what="a fetch")
    del found
    gc.collect()
    wait_until(lambda: not loops(registry), what="the end of the thread")


def test_an_open_registration_outlives_every_reference_to_its_registry(registry: ScriptedRegistry) -> None:
    """Who holds the registration, or only entered it, is renewed."""

    def begin() -> Registration:
        found = Registry.from_url(registry.url + FAST)
        found.instances("producer")
        return found.register("producer", port=8080).__enter__()

    mine = begin()
    gc.collect()
    wait_until(partial(getattr, mine, "registered"), what="the registration")
    renewals = len(registry.seen("PUT"))
    wait_until(lambda: len(registry.seen("PUT")) >= renewals + 3, what="renewals")
    mine.close()
    del mine
    gc.collect()
    wait_until(lambda: not loops(registry), what="the end of the thread")


def test_the_end_of_an_event_loop_ends_nobody_elses_renewals(registry: ScriptedRegistry) -> None:
    """The loop that came first did the work of all; a thread goes on with it, without a lookup."""
    found = Registry.from_url(registry.url + FAST)
    entered, leave = threading.Event(), threading.Event()

    async def first() -> None:
        async with found.register("other", port=2):
            entered.set()
            await asyncio.to_thread(leave.wait, 10)

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    assert entered.wait(10)
    with found.register("producer", port=1) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        assert loops(registry) == []
        leave.set()
        thread.join(10)
        renewals = len(registry.seen("PUT"))
        wait_until(lambda: len(registry.seen("PUT")) >= renewals + 3, what="renewals")
        assert len(loops(registry)) == 1
    assert registry.listed == {}


def test_a_loop_closed_under_its_task_is_replaced(registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever closes a loop without cancelling its tasks freezes nothing: lookups see it and start a thread."""
    found = Discovery.from_url(registry.url + FAST)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(found.__aenter__())
    registry.put("producer", "h", 1)
    loop.run_until_complete(found.wait_async("producer"))
    loop.close()
    registry.put("producer", "i", 1)
    wait_until(lambda: len(found.instances("producer")) == 2, what="the thread's answer")
    found.close()
    assert "the loop ended" not in caplog.text


def test_a_change_wakes_whoever_works_even_when_the_loop_was_closed(registry: ScriptedRegistry) -> None:
    """A registration alone has no lookups that would see it."""
    mine = Registry.from_url(registry.url).register("producer", port=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(mine.__aenter__())
    loop.run_until_complete(until(lambda: mine.registered))
    loop.close()
    mine.set_status("DOWN")
    wait_until(lambda: len(registry.seen("POST")) == 2, what="the change")
    mine.close()


def test_a_listener_may_close_and_is_not_made_to_wait(registry: ScriptedRegistry) -> None:
    """Blocking the refresh's own thread would wait for nobody: closing is at once, waiting is refused in words."""
    registry.put("producer", "h", 1)
    heard: list[object] = []
    with Registry.from_url(registry.url + FAST) as found, found.register("me", port=1) as mine:
        wait_until(lambda: mine.registered, what="the registration")

        def listener(change: Change) -> None:
            try:
                found.wait("nobody")
            except ConfigError as error:
                heard.append(str(error))
            began = time.monotonic()
            found.close()
            heard.append(time.monotonic() - began)

        found.subscribe("later", listener)
        registry.put("later", "h", 2)
        wait_until(lambda: len(heard) == 2, what="the listener's end")
    assert "would block" in str(heard[0])
    assert isinstance(heard[1], float)
    assert heard[1] < 1.0
    assert ("ME", "127.0.0.1:me:1") not in registry.listed
    wait_until(lambda: not loops(registry), what="the end of the thread")


def test_a_health_check_may_close_its_own_registration(registry: ScriptedRegistry) -> None:
    """It runs inside the renewal for whose end closing waits elsewhere."""
    took: list[float] = []

    def health() -> bool:
        if registry.listed:
            began = time.monotonic()
            mine.close()
            took.append(time.monotonic() - began)
        return True

    with Registry.from_url(registry.url + FAST).register("me", port=1, health=health) as mine:
        wait_until(lambda: took, what="the check")
    assert took[0] < 0.6
    assert registry.listed == {}


def test_a_listener_that_exits_ends_the_refresh_for_a_moment_only(registry: ScriptedRegistry) -> None:
    """`sys.exit()` in a thread that is not theirs ends nothing for anybody else."""
    registry.put("producer", "h", 1)
    with Discovery.from_url(registry.url + FAST) as found:
        stop = found.subscribe("producer", lambda change: sys.exit())
        wait_until(lambda: registry.requests, what="the first fetch")
        stop()
        fetches = len(registry.seen("GET"))
        wait_until(lambda: len(registry.seen("GET")) >= fetches + 2, what="more fetches")


def test_closing_during_a_hung_request_leaves_the_next_server_in_peace() -> None:
    """It hears one DELETE, with time to answer, and no POST after it."""
    with scripted_registry() as hung, scripted_registry() as good:
        hung.script.update(POST="hang", DELETE="hang")
        url = f"{hung.url.removesuffix('/eureka')},127.0.0.1:{good.url.rpartition(':')[2]}?renew_interval=1&lease=6"
        with Registry.from_url(url).register("producer", port=1, host="127.0.0.1"):
            wait_until(lambda: hung.seen("POST"), what="the request that hangs")
        threads = [thread for thread in threading.enumerate() if hung.url.removesuffix("/eureka") in thread.name]
        wait_until(lambda: not any(thread.is_alive() for thread in threads), what="the end of the thread")
        assert [request.method for request in good.requests] == ["DELETE"]


def test_the_loop_outlives_a_bug(registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises is logged and rests; the others go on."""

    class Broken:
        def due(self) -> float:
            return -math.inf if not caplog.records else math.inf

        def work(self) -> Exchange[None]:
            yield from ()
            raise ZeroDivisionError

    clock = VirtualClock()
    worked = threading.Event()

    class Sound(Broken):
        def due(self) -> float:
            return clock.monotonic() + 60 if worked.is_set() else -math.inf

        def work(self) -> Exchange[None]:
            yield Send(Server(registry.url.replace("eureka:", "http:")), "GET", "/apps/", 5.0)
            worked.set()

    loop = Refresh("resilient test", clock, partial(HttpWire, tls=False), partial(AsyncHttpWire, tls=False))
    loop.add(Sound())
    loop.add(Broken(), first=True)
    loop.start()
    wait_until(lambda: clock.waiting, what="the rest after the bug")
    clock.advance(1.0)
    assert worked.wait(10)
    loop.stop()
    assert "a bug in" in caplog.text
    assert not loop.running


def test_a_wire_for_tls_refuses_who_can_not_show_a_certificate(registry: ScriptedRegistry) -> None:
    """An https registry is verified; plain text at its port is an error in words, not an exception."""
    wire = HttpWire(tls=True)
    answer = wire.send(Send(Server(registry.url.replace("eureka:", "https:")), "GET", "/apps/", 5.0, read=True))
    wire.close()
    assert answer.status == 0
    assert "SSL" in answer.error


def test_proxies_of_the_environment_are_not_used(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry is internal; heartbeats through a proxy would show the wrong address."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    registry.put("producer", "h", 1)
    with Discovery.from_url(registry.url) as found:
        assert found.wait("producer")
    assert os.environ["HTTP_PROXY"]
