"""EurekaDiscovery against the registry server of this project, as a process that is killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.discovery import Discovery, Registry
from tests.servers import RegistryProcess
from tests.waiting import wait_until

FAST = "?fetch_interval=0.2&renew_interval=0.3&lease=2"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[RegistryProcess]:
    with RegistryProcess() as found:
        yield found


def test_a_registration_is_found_renewed_and_taken_out(server: RegistryProcess) -> None:
    """It outlives its lease because it is renewed, and is gone when its block ends."""
    with Discovery.from_url(server.url + FAST) as reader:
        with Registry.from_url(server.url + FAST).register("producer", port=8080, zone="z1", weight=2.0) as mine:
            (found,) = reader.wait("producer")
            assert (found.host, found.port, found.zone, found.weight) == ("127.0.0.1", 8080, "z1", 2.0)
            assert found.id == mine.instance.id == "127.0.0.1:producer:8080"
            end = time.monotonic() + 2.5
            wait_until(lambda: time.monotonic() > end, what="more than a lease")
            assert reader.instances("producer") == (found,)
        wait_until(lambda: reader.instances("producer") == (), what="the end of the entry")


async def test_the_same_on_an_event_loop(server: RegistryProcess) -> None:
    """Tasks register, find and leave."""
    async with Registry.from_url(server.url + FAST) as registry, registry.register("producer", port=8080) as mine:
        (found,) = await registry.wait_async("producer")
        assert found.id == mine.instance.id
    async with Discovery.from_url(server.url + FAST) as reader:
        assert reader.instances("producer") == ()


def test_a_killed_registry_is_survived_and_gets_its_list_back(server: RegistryProcess) -> None:
    """Lookups go on with what was known; an empty new registry is filled again without help."""
    registry = Registry.from_url(server.url + FAST)
    with registry, registry.register("producer", port=8080) as mine, Discovery.from_url(server.url + FAST) as reader:
        known = reader.wait("producer")
        server.kill()
        wait_until(lambda: reader.age("producer") > 1.0, what="an outage that is noticed")
        assert reader.instances("producer") is known
        server.restart()
        wait_until(lambda: mine.registered and reader.age("producer") < 0.5, what="the registry to be back")
        assert reader.wait("producer")[0].id == mine.instance.id


def test_a_drained_instance_is_not_found_until_it_is_up_again(server: RegistryProcess) -> None:
    """OUT_OF_SERVICE, DOWN and UP each arrive."""
    mine = Registry.from_url(server.url + FAST).register("producer", port=8080)
    with Discovery.from_url(server.url + FAST) as reader, mine:
        reader.wait("producer")
        for status in ("OUT_OF_SERVICE", "DOWN"):
            mine.set_status(status)
            wait_until(lambda: not reader.instances("producer"), what=status)
            mine.set_status("UP")
            wait_until(lambda: reader.instances("producer"), what="UP")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_instance_that_ends_is_gone(server: RegistryProcess, number: signal.Signals) -> None:
    """SIGTERM: at once; SIGKILL: when its lease is over."""
    code = f"""
import time
from resilient.discovery import Registry
with Registry.from_url({server.url + FAST!r}).register("producer", port=8080, sigterm=True):
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ})
    try:
        with Discovery.from_url(server.url + FAST) as reader:
            reader.wait("producer", timeout=10)
            process.send_signal(number)
            assert process.wait(10) == -number
            wait_until(lambda: not reader.instances("producer"), what="the end of the entry")
    finally:
        process.kill()
        process.wait(10)
