"""A real etcd, as a process of the test, on free ports of the loopback interface."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any, Self

import httpx

from tests.peers import require_command
from tests.scripted_registry import free_port
from tests.waiting import wait_until


class EtcdServer:
    """`with EtcdServer() as server: server.host`; killed and started again it knows nobody, unless it `keeps`."""

    def __init__(self, *, keeps: bool = False) -> None:
        self._command = require_command("etcd", package="etcd-server")
        self._keeps = keeps
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._client, self._peer = free_port(), free_port()
        self.host = f"127.0.0.1:{self._client}"
        self.token = ""

    def start(self) -> None:
        """Start it and wait until it leads itself."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="etcd-")
        client, peer = f"http://{self.host}", f"http://127.0.0.1:{self._peer}"
        self._process = subprocess.Popen(
            [
                *(self._command, f"--data-dir={self._folder.name}/data", "--unsafe-no-fsync"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                *(f"--initial-cluster=default={peer}", "--log-level=panic", "--heartbeat-interval=20"),
                "--election-timeout=200",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, timeout=20, what="etcd answering")

    def _answers(self) -> bool:
        try:
            self.ask("/v3/kv/range", {"key": encoded("x")})
        except httpx.HTTPStatusError:
            return True  # it asks who we are
        except httpx.HTTPError:
            return False
        return True

    def ask(self, path: str, body: object) -> Any:
        """What it answers.

        Raises:
            HTTPError: when it refuses or is not there.
        """
        headers = {"Authorization": self.token} if self.token else {}
        with httpx.Client(trust_env=False, timeout=5, headers=headers) as client:
            answer = client.post(f"http://{self.host}{path}", json=body)
            answer.raise_for_status()
            return answer.json()

    def put(self, key: str, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.ask("/v3/kv/put", {"key": encoded(key), "value": encoded(text)})

    def delete(self, key: str) -> None:
        self.ask("/v3/kv/deleterange", {"key": encoded(key)})

    def keys(self, prefix: str) -> list[str]:
        """Those that begin with it."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.ask("/v3/kv/range", {"key": encoded(prefix), "range_end": encoded(end)})
        return [base64.b64decode(pair["key"]).decode() for pair in found.get("kvs", [])]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if not self._keeps:
            self.forget()

    def forget(self) -> None:
        """Lose the data."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()
        self.forget()


def encoded(text: str) -> str:
    """As etcd's JSON wants it."""
    return base64.b64encode(text.encode()).decode()
