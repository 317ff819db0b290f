"""A real Redis, as a process of the test, on a socket file of its own."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from tests.peers import require_command
from tests.waiting import wait_until


class RedisProcess:
    """`with RedisProcess() as server: server.url`; `kill()` and `start()` for the bad days."""

    def __init__(self) -> None:
        self._command = require_command("redis-server", package="redis-server")
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._socket = Path(self._folder.name) / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        arguments = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._command, *arguments, "--dir", self._folder.name], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, what="Redis answering")

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()
        self._folder.cleanup()
