"""The demo from beginning to end: start, tour, stay until Ctrl-C, and leave nothing behind."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from examples.weather.browser import Browser
from examples.weather.processes import StartError
from examples.weather.steps import steps
from examples.weather.system import Options, WeatherSystem
from examples.weather.tour import Tour

_HELD, _DID_NOT_HOLD = 0, 1


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM, or the terminal was closed; `status` is what a process ends with then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its exit status: 0 all held, 1 something did not, 130 Ctrl-C during the tour, 143 SIGTERM."""
    arguments = _arguments(argv)
    logs = Path(tempfile.mkdtemp(prefix="weather-demo-"))
    options = Options(logs=logs, registry_port=arguments.registry_port, redis=arguments.redis)
    status = _DID_NOT_HOLD
    try:
        with _interruptible():
            status = _run(WeatherSystem(options), arguments)
    except Interrupted as interrupted:
        status = interrupted.status
    except StartError as error:
        print(f"demo: {error}", file=sys.stderr)
    if status == _DID_NOT_HOLD:
        print(f"The logs of all processes are in {logs}.")
    else:
        shutil.rmtree(logs, ignore_errors=True)
    return status


def _run(system: WeatherSystem, arguments: argparse.Namespace) -> int:
    try:
        print("Starting the registry, OpenWeatherMap, two producers and a consumer ...", flush=True)
        system.start()
        _introduce(system, arguments)
        status = _HELD
        if not arguments.no_tour:
            status = _take_the_tour(system)
        if arguments.no_tour or (_in_a_terminal() and not arguments.tour_only):
            _stay(system)
        return status
    finally:
        _ignore_signals()  # stopping takes a moment, and ends by itself
        system.stop()
        print("Everything is stopped.", flush=True)


def _introduce(system: WeatherSystem, arguments: argparse.Namespace) -> None:
    port = f"127.0.0.1:{arguments.registry_port}"
    taken = arguments.registry_port and not system.registry.address.endswith(f":{arguments.registry_port}")
    print("The weather application is up.")
    print(f"  The page        {system.consumer.address}/")
    print(f"  The registry    {system.registry.address}/{f'   ({port} is taken)' if taken else ''}")
    if system.openweathermap:
        print(f"  OpenWeatherMap  {system.openweathermap.address}   (local; OPENWEATHERMAP_API_KEY takes the real one)")
    else:
        print("  OpenWeatherMap  the real one, with your key")
    sys.stdout.flush()


def _take_the_tour(system: WeatherSystem) -> int:
    browser = Browser(system.consumer.address)
    try:
        tour = Tour(system, browser, out=lambda line: print(line, flush=True))
        return _HELD if tour.run(steps(shared=system.shares)) else _DID_NOT_HOLD
    finally:
        browser.close()


def _stay(system: WeatherSystem) -> None:
    """Stay up until Ctrl-C, and tell when a process ends that should not."""
    print(f"\nThe application stays up: {system.consumer.address}/   Ctrl-C stops it.", flush=True)
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


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-tour", action="store_true", help="only start the application, and stay up until Ctrl-C")
    which.add_argument("--tour-only", action="store_true", help="end after the tour, in a terminal too")
    parser.add_argument("--redis", metavar="URL", help="producers share what they know through this Redis")
    parser.add_argument("--registry-port", type=int, default=8761, metavar="PORT", help="default 8761; 0: any free one")
    return parser.parse_args(argv)
