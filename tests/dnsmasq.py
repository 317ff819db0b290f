"""A real nameserver, dnsmasq, as a process of the test, on a free port of the loopback interface."""

from __future__ import annotations

import getpass
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.exception
import dns.message
import dns.query

from tests.peers import require_command
from tests.scripted_registry import free_port
from tests.waiting import wait_until


class Dnsmasq:
    """`with Dnsmasq(["--host-record=a.ex.test,127.0.0.1"]) as server: server.address`; it knows ex.test alone."""

    def __init__(self, records: Sequence[str] = (), *, ttl: int = 0) -> None:
        self._command = require_command("dnsmasq", package="dnsmasq-base")
        self._folder = tempfile.TemporaryDirectory(prefix="dnsmasq-")
        self._hosts = Path(self._folder.name) / "hosts"
        self._hosts.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._ttl = ttl
        self.records = list(records)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(self._command, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="),
                *(f"--user={getpass.getuser()}", f"--port={self.port}", "--listen-address=127.0.0.1"),
                *("--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/ex.test/", f"--local-ttl={self._ttl}"),
                *(f"--addn-hosts={self._hosts}", "--log-facility=/dev/null", *self.records),
            ]
        )
        wait_until(self._answers, what="dnsmasq answering")

    def _answers(self) -> bool:
        question = dns.message.make_query("up.ex.test", "A")
        try:
            dns.query.udp(question, "127.0.0.1", timeout=0.2, port=self.port)
        except (OSError, dns.exception.DNSException):
            return False
        return True

    def hosts(self, lines: Sequence[str]) -> None:
        """Serve these lines of a hosts file from now on."""
        self._hosts.write_text("".join(f"{line}\n" for line in lines))
        self.signal(signal.SIGHUP)

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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()
        self._folder.cleanup()


class ScriptedNameserver:
    """A socket that answers a question as told: bytes of its own, or nothing.

    Attributes:
        reply: from the question's bytes to the answer's, or None for silence; counts what it saw.
    """

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self.reply: Callable[[bytes], bytes | None] = lambda question: question
        self.seen = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                question, sender = self._sock.recvfrom(65_535)
            except OSError:
                return
            if sender == self._sock.getsockname():
                return
            self.seen += 1
            answer = self.reply(question)
            if answer is not None:
                self._sock.sendto(answer, sender)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self._sock.sendto(b"end", self._sock.getsockname())
        self._thread.join(5)
        self._sock.close()
