"""librdkafka's mock cluster as a process: the real protocol, groups and offsets, in memory.

`python -m tests.hospital_messages.kafka_cluster` prints where it listens, and ends when its standard input does.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_ROOT = Path(__file__).resolve().parents[2]


class KafkaCluster:
    """`with KafkaCluster() as cluster: cluster.url`; one server. What it holds is gone when it ends."""

    def __init__(self) -> None:
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hospital_messages.kafka_cluster"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"kafka://{self._process.stdout.readline().strip()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Be the cluster."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1})
    (server,) = producer.list_topics(timeout=20.0).brokers.values()
    print(f"{server.host}:{server.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
