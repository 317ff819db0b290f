"""Metrics of prefork servers: real workers, one of which is scraped; some of them die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.telemetry.scrapes import samples
from tests.waiting import wait_until

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]
CALLS = ("resilient_circuitbreaker_calls_total", frozenset({("name", "db"), ("kind", "successful")}))
CLOSED = ("resilient_circuitbreaker_state", frozenset({("name", "db"), ("state", "closed")}))
_NAMES = {"calls": CALLS, "closed": CLOSED}
BEFORE = 2.0  # calls of the parent


class Prefork:
    """The server, as a process."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.telemetry.prefork", str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONWARNINGS": "default"},
            text=True,
        )
        self.http = httpx.Client(trust_env=False, timeout=10.0)
        self.workers: list[tuple[int, str]] = []
        for _ in range(workers):
            self._started()

    def _started(self) -> None:
        assert self._process.stdout is not None
        pid, port = self._process.stdout.readline().split()
        self.workers.append((int(pid), f"http://127.0.0.1:{port}"))
        wait_until(lambda: self._answers(self.workers[-1][1]), what="the worker's start")

    def _answers(self, address: str) -> bool:
        try:
            return self.http.get(f"{address}/actuator/health/liveness").status_code == 200
        except httpx.TransportError:
            return False

    def fork(self) -> None:
        """One more worker."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._started()

    def call(self, worker: int, times: int) -> None:
        """So many calls in a worker."""
        assert self.http.get(f"{self.workers[worker][1]}/call", params={"times": times}).status_code == 200

    def scrape(self, worker: int) -> Page:
        """What one of them says of all."""
        answer = self.http.get(f"{self.workers[worker][1]}/actuator/prometheus")
        assert answer.status_code == 200, answer.text
        return samples(answer.text)

    def wait_for(self, worker: int, **wanted: float) -> Page:
        """The page of a worker, once it has these values: `calls`, `closed`."""
        found: list[Page] = []

        def there() -> bool:
            found.append(self.scrape(worker))
            return {name: found[-1].get(_NAMES[name]) for name in wanted} == wanted

        wait_until(there, what=f"{wanted} in worker {worker}")
        return found[-1]

    def kill(self, worker: int) -> None:
        """As a crash would."""
        os.kill(self.workers.pop(worker)[0], signal.SIGKILL)

    def stop(self) -> int:
        """End all; the status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return self._process.wait(15.0)
        finally:
            self._process.kill()
            self._process.stdout.close()
            self.http.close()


@pytest.fixture
def prefork(tmp_path: Path) -> Iterator[Prefork]:
    """Three workers."""
    server = Prefork(tmp_path / "metrics", 3)
    yield server
    for pid, _ in server.workers:
        os.kill(pid, signal.SIGTERM)
    server.stop()


def test_whoever_is_scraped_tells_what_all_have_counted(prefork: Prefork) -> None:
    """The workers' calls, and the parent's once; breakers are as many as there are; requests are added up, too."""
    for worker, times in enumerate((3, 5, 7)):
        prefork.call(worker, times)
    for worker in range(3):
        prefork.wait_for(worker, calls=15 + BEFORE, closed=4)  # three workers and the parent
    page = prefork.scrape(0)
    requests = [value for (name, labels), value in page.items() if _is_count_of_calls(name, labels)]
    assert sum(requests) == 3
    assert any(name == "http_server_requests_seconds_max" for name, _ in page)


def _is_count_of_calls(name: str, labels: frozenset[tuple[str, str]]) -> bool:
    return name == "http_server_requests_seconds_count" and ("uri", "/call") in labels


def test_a_worker_that_dies_leaves_what_it_has_counted_and_takes_what_it_showed(prefork: Prefork) -> None:
    """Nobody has to be told; the one that is forked in its place begins at 0."""
    prefork.call(0, 100)
    prefork.wait_for(1, calls=100 + BEFORE)
    prefork.kill(0)
    prefork.wait_for(0, calls=100 + BEFORE, closed=3)
    prefork.fork()
    prefork.call(2, 1)
    assert prefork.scrape(2)[CALLS] == 101 + BEFORE
    prefork.wait_for(0, calls=101 + BEFORE, closed=4)


def test_no_counter_goes_back_whoever_is_scraped_while_all_are_busy_and_one_dies(prefork: Prefork) -> None:
    """To Prometheus a smaller value is a restart, and it would count everything again."""
    over = threading.Event()

    def busy(worker: int) -> None:
        with httpx.Client(trust_env=False) as client:
            address = prefork.workers[worker][1]
            while not over.is_set():
                client.get(f"{address}/call", params={"times": 10})

    threads = [threading.Thread(target=busy, args=(worker,)) for worker in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        prefork.call(0, 50)
        prefork.scrape(0)
        seen = [prefork.scrape(number % 3)[CALLS] for number in range(30)]
        prefork.kill(0)
        seen += [prefork.scrape(number % 2)[CALLS] for number in range(30)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_workers_that_end_in_peace_write_their_last_calls(tmp_path: Path) -> None:
    """What was counted in the last second is there for the next server in the same folder."""
    first = Prefork(tmp_path, 1)
    first.call(0, 9)
    assert first.stop() == 0
    second = Prefork(tmp_path, 1)
    try:
        second.wait_for(0, calls=9 + BEFORE + BEFORE, closed=2)
    finally:
        assert second.stop() == 0
