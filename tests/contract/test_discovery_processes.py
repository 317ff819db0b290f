"""How a registration ends with its process: exit, SIGTERM, fork (statements 21 and 22 of the discovery contract)."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient import ConfigError
from resilient.discovery import Registry
from tests.scripted_registry import ScriptedRegistry, scripted_registry
from tests.waiting import wait_until

FAST = "?fetch_interval=0.2&renew_interval=0.2&lease=3"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as found:
        yield found


def script(registry: ScriptedRegistry, body: str) -> subprocess.Popen[str]:
    code = f"from resilient.discovery import Registry\nurl = {registry.url + FAST!r}\n{textwrap.dedent(body)}"
    return subprocess.Popen([sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_21_an_interpreter_that_exits_takes_its_entry_out(
    registry: ScriptedRegistry, processes: list[subprocess.Popen[str]]
) -> None:
    """Without `close`, and without delay."""
    process = script(
        registry,
        """
        import time
        mine = Registry.from_url(url).register("producer", port=8080).__enter__()
        while not mine.registered: time.sleep(0.01)
        """,
    )
    processes.append(process)
    assert process.wait(10) == 0
    assert registry.listed == {}
    assert len(registry.seen("DELETE")) == 1


@pytest.mark.parametrize(("handler", "status"), [("", -signal.SIGTERM), ("lambda *_: sys.exit(7)", 7)])
def test_21_sigterm_takes_the_entry_out_and_then_does_what_it_did(
    registry: ScriptedRegistry, processes: list[subprocess.Popen[str]], handler: str, status: int
) -> None:
    """The default action, or the handler that was there before."""
    process = script(
        registry,
        f"""
        import signal, sys, time
        if {handler!r}: signal.signal(signal.SIGTERM, {handler or None})
        with Registry.from_url(url).register("producer", port=8080, sigterm=True):
            print("ready", flush=True)
            time.sleep(60)
        """,
    )
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: registry.listed, what="the registration")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == status
    assert time.monotonic() - began < 3.0
    assert registry.listed == {}


def test_21_the_handler_of_sigterm_is_put_back(registry: ScriptedRegistry) -> None:
    """Nothing of ours stays behind; other threads are told that they can not install one."""
    before = signal.getsignal(signal.SIGTERM)
    with Registry.from_url(registry.url).register("producer", port=8080, sigterm=True):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    errors: list[Exception] = []

    def enter() -> None:
        try:
            Registry.from_url(registry.url).register("producer", port=1, sigterm=True).__enter__()
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert [type(error) for error in errors] == [ConfigError]


def test_22_a_forked_child_looks_up_for_itself_and_leaves_the_parents_entry_alone(
    registry: ScriptedRegistry, processes: list[subprocess.Popen[str]]
) -> None:
    """It keeps what is known, starts its own loop at its first lookup, and sends neither renewals nor DELETE."""
    registry.put("other", "h", 1)
    process = script(
        registry,
        """
        import os, threading, time
        found = Registry.from_url(url)
        with found, found.register("producer", port=8080) as mine:
            found.wait("producer")
            if os.fork() == 0:
                assert found.instances("other"), "what was known"
                assert threading.active_count() == 2, "a loop of its own"
                found.refresh_soon()
                age = found.age("other")
                while found.age("other") >= age: time.sleep(0.01)
                assert not mine.registered
                mine.close(); found.close()
                raise SystemExit(0)
            _, status = os.wait()
            print(os.waitstatus_to_exitcode(status), mine.registered, flush=True)
            time.sleep(60)
        """,
    )
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "0 True\n"
    assert registry.seen("DELETE") == []
    renewals = len(registry.seen("PUT"))
    wait_until(lambda: len(registry.seen("PUT")) > renewals, what="the parent's renewals")


def test_22_a_fork_while_the_thread_begins_leaves_no_child_hanging(
    registry: ScriptedRegistry, processes: list[subprocess.Popen[str]]
) -> None:
    """Its first step imports an HTTP client; the fork waits for that, else the child's own import would never end."""
    registry.put("other", "h", 1)
    process = script(
        registry,
        """
        import os, time
        found = Registry.from_url(url)
        found.instances("other")
        children = []
        for _ in range(4):
            time.sleep(0.01)
            child = os.fork()
            if child == 0:
                found.wait("other", timeout=20)
                os._exit(0)
            children.append(child)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
        """,
    )
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "[0, 0, 0, 0]\n"
