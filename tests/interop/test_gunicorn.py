"""A real gunicorn: who registers, what its workers look up after the fork, and what is left when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers import require_module
from tests.scripted_registry import ScriptedRegistry, free_port, scripted_registry
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
FAST = "?fetch_interval=0.2&renew_interval=0.2&lease=3"

APP = """
import json, os, threading
from resilient.discovery import Discovery

discovery = Discovery.from_url({url!r})
discovery.instances("producer")  # in the master when it is preloaded: its thread does not survive the fork

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    threads = [t.name for t in threading.enumerate() if t.name.startswith("resilient")]
    ids = [instance.id for instance in discovery.instances("producer")]
    return [json.dumps({{"pid": os.getpid(), "ids": ids, "threads": len(threads)}}).encode()]
"""
FROM_THE_MASTER = """
from resilient.discovery import Registry

preload_app = True
mine = Registry.from_url({url!r}).register("producer", port={port}, host="127.0.0.1")

def when_ready(server):
    mine.__enter__()

def on_exit(server):
    mine.close()
"""
FROM_EACH_WORKER = """
import os
from resilient.discovery import Registry

def post_worker_init(worker):
    worker.mine = Registry.from_url({url!r}).register(
        "producer", port={port}, host="127.0.0.1", id=f"worker-{{os.getpid()}}"
    )
    worker.mine.__enter__()

def worker_exit(server, worker):
    worker.mine.close()
"""


class Gunicorn:
    """Two workers that fork from a master."""

    def __init__(self, folder: Path, registry: ScriptedRegistry, settings: str) -> None:
        self.port = free_port()
        where = {"url": registry.url + FAST, "port": self.port}
        Path(folder, "app.py").write_text(textwrap.dedent(APP).format(**where))
        Path(folder, "settings.py").write_text(textwrap.dedent(settings).format(**where))
        self.log = Path(folder, "log")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "-c", "settings.py", "-w", "2", "-b", f"127.0.0.1:{self.port}"),
                    *("--worker-tmp-dir", str(folder), "app:app"),
                ],
                cwd=folder, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "HOME": str(folder)},
            )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        """What one of the workers says; {} while none answers."""
        try:
            found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/", timeout=5.0).json()
        except httpx.HTTPError:
            assert self.process.poll() is None, self.log.read_text()
            return {}
        return found

    def workers_say(self, right: Callable[[dict[str, Any]], bool], count: int = 2) -> set[int]:
        """Wait until so many workers say what is right; their process ids."""
        seen: set[int] = set()

        def all_of_them() -> bool:
            answer = self.ask()
            if answer and right(answer):
                seen.add(answer["pid"])
            return len(seen) >= count

        wait_until(all_of_them, timeout=30, what=f"{count} workers' right answers")
        return seen

    def stop(self) -> int:
        """As a deployment does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """With all its workers."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(10)


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as found:
        yield found


@pytest.fixture
def start(registry: ScriptedRegistry, tmp_path: Path) -> Iterator[Callable[[str], Gunicorn]]:
    require_module("gunicorn")
    started: list[Gunicorn] = []

    def begin(settings: str) -> Gunicorn:
        started.append(Gunicorn(tmp_path, registry, settings))
        return started[-1]

    yield begin
    for gunicorn in started:
        gunicorn.kill()


def test_a_preloaded_master_registers_once_for_all_its_workers(
    registry: ScriptedRegistry, start: Callable[[str], Gunicorn]
) -> None:
    """The workers neither renew nor take out what is the master's; each fetches by one thread of its own."""
    gunicorn = start(FROM_THE_MASTER)
    name = f"127.0.0.1:producer:{gunicorn.port}"
    workers = gunicorn.workers_say(lambda said: said["ids"] == [name] and said["threads"] == 1)
    os.kill(min(workers), signal.SIGKILL)
    registry.put("producer", "another", 1)
    both = sorted([name, "another:producer:1"])
    assert gunicorn.workers_say(lambda said: said["ids"] == both and said["threads"] == 1) != workers
    assert [len(registry.seen(method)) for method in ("POST", "DELETE")] == [1, 0]
    renewals = len(registry.seen("PUT"))
    wait_until(lambda: len(registry.seen("PUT")) >= renewals + 2, what="the master's renewals")
    assert gunicorn.stop() == 0
    assert [len(registry.seen(method)) for method in ("POST", "DELETE")] == [1, 1]
    assert list(registry.listed) == [("PRODUCER", "another:producer:1")]


def test_workers_may_register_each_for_itself(registry: ScriptedRegistry, start: Callable[[str], Gunicorn]) -> None:
    """One that gunicorn replaces leaves, and the new one comes; at the end nobody is left."""
    gunicorn = start(FROM_EACH_WORKER)
    workers = gunicorn.workers_say(lambda said: len(said["ids"]) == 2)
    assert {name for _, name in registry.listed} == {f"worker-{pid}" for pid in workers}
    gone = min(workers)
    os.kill(gone, signal.SIGTERM)
    wait_until(
        lambda: ("PRODUCER", f"worker-{gone}") not in registry.listed and len(registry.listed) == 2,
        timeout=20, what="the new worker",
    )  # fmt: skip
    assert gunicorn.stop() == 0
    assert registry.listed == {}
