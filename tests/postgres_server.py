"""A real PostgreSQL, as a process of the test, on a free port of the loopback interface."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers import require
from tests.waiting import wait_until

_USER = "nobody"  # PostgreSQL refuses to run as root


class PostgresProcess:
    """`with PostgresProcess() as server: server.url`; `kill()` and `start()` for the bad days."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._as: dict[str, Any] = {"user": _USER, "group": "nogroup"} if os.geteuid() == 0 else {}
        self._folder = tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp")
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"postgresql://hospital@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it with what it has, and wait until it answers."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self._port), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                **self._as,
            )
        wait_until(self._answers, timeout=20.0, what="PostgreSQL answering")

    def kill(self) -> None:
        """As a crash would; its children notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def _data(self) -> str:
        return f"{self._folder.name}/data"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (Path(self._folder.name) / "log").read_text()
        asked: list[str | Path] = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run(asked, check=False, timeout=10).returncode == 0

    def __enter__(self) -> Self:
        if self._as:
            shutil.chown(self._folder.name, **self._as)
        subprocess.run(
            [self._binaries / "initdb", "-D", self._data, "-U", "hospital", "--auth=trust", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=50,
            cwd="/",
            **self._as,
        )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20.0)
        self._folder.cleanup()


def _binaries() -> Path:
    """Where they are; Debian keeps them out of the PATH, because several versions may be installed."""
    found = [Path(one).resolve().parent for one in [shutil.which("postgres")] if one]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    require(found, "PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[0]
