"""A demo from beginning to end: start, tour, stay until Ctrl-C, and leave nothing behind."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

from examples.support.processes import StartError
from examples.support.system import System

S = TypeVar("S", bound=System)

_HELD, _DID_NOT_HOLD = 0, 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM, or the terminal was closed; `status` is what a process ends with then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class Demo(Generic[S]):
    """What one application's demo says and does; each overrides it.

    Attributes:
        name: of the application, in one word.
        parts: what is started, for the first line.
    """

    name: str
    parts: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Options that only this demo has."""

    def system(self, logs: Path, arguments: argparse.Namespace) -> S:
        """The application, not yet started; its logs go to that folder."""
        raise NotImplementedError

    def addresses(self, system: S) -> Iterable[tuple[str, str]]:
        """What there is to look at: a name, and where it is."""
        raise NotImplementedError

    def front(self, system: S) -> str:
        """The address at which a user begins."""
        raise NotImplementedError

    def tour(self, system: S) -> bool:
        """Take the tour; whether everything held."""
        raise NotImplementedError

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the demo; its exit status: 0 all held, 1 something did not, 130 Ctrl-C during the tour, 143 SIGTERM."""
        arguments = self._arguments(argv)
        logs = Path(tempfile.mkdtemp(prefix=f"{self.name}-demo-"))
        status = _DID_NOT_HOLD
        try:
            with _interruptible():
                status = self._run(self.system(logs, arguments), arguments)
        except Interrupted as interrupted:
            status = interrupted.status
        except StartError as error:
            print(f"demo: {error}", file=sys.stderr)
        if status == _DID_NOT_HOLD:
            print(f"The logs of all processes are in {logs}.")
        else:
            shutil.rmtree(logs, ignore_errors=True)
        return status

    def _run(self, system: S, arguments: argparse.Namespace) -> int:
        try:
            print(f"Starting {self.parts} ...", flush=True)
            system.start()
            self._introduce(system, arguments)
            status = _HELD
            if not arguments.no_tour:
                status = _HELD if self.tour(system) else _DID_NOT_HOLD
            if arguments.no_tour or (_in_a_terminal() and not arguments.tour_only):
                self._stay(system)
            return status
        finally:
            _ignore_signals()  # stopping takes a moment, and ends by itself
            system.stop()
            print("Everything is stopped.", flush=True)

    def _introduce(self, system: S, arguments: argparse.Namespace) -> None:
        port = f"127.0.0.1:{arguments.registry_port}"
        taken = arguments.registry_port and not system.registry.address.endswith(f":{arguments.registry_port}")
        registry = f"{system.registry.address}/{f'   ({port} is taken)' if taken else ''}"
        print(f"The {self.name} application is up.")
        for name, address in (*self.addresses(system), ("The registry", registry)):
            print(f"  {name:15} {address}")
        sys.stdout.flush()

    def _stay(self, system: S) -> None:
        """Stay up until Ctrl-C, and tell when a process ends that should not."""
        print(f"\nThe application stays up: {self.front(system)}   Ctrl-C stops it.", flush=True)
        told: set[str] = set()
        try:
            while True:
                for service in system.ended():
                    if service.name not in told:
                        told.add(service.name)
                        print(f"The {service.name} has ended:\n{service.tail()}", flush=True)
                time.sleep(0.5)
        except Interrupted as interrupted:
            if interrupted.status != 128 + signal.SIGINT:
                raise
            print()

    def _arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog="run.py", description=__doc__.partition("\n")[0])
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--no-tour", action="store_true", help="only start the application, and stay until Ctrl-C")
        which.add_argument("--tour-only", action="store_true", help="end after the tour, in a terminal too")
        parser.add_argument("--registry-port", type=int, default=8761, metavar="PORT", help="default 8761; 0: any")
        self.add_arguments(parser)
        return parser.parse_args(argv)


def _in_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Interrupted for each way in which somebody may want the demo to end."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()  # once is enough: what follows is the stopping
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
