"""The command `resilient`."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilient.registry_server import RegistryServer

_OK, _FAILED, _USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed, 2 not understood.

    Args:
        argv: the arguments, default those of the process.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return _USAGE
    return _registry(args.host, args.port, args.eviction_interval)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resilient", description="Resilience for services that call services.")
    parser.add_argument("--version", action="version", version=f"resilient {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    registry = commands.add_parser(
        "registry",
        help="run a small Eureka-compatible service registry",
        description="Run a small Eureka-compatible service registry: in memory, one node, a status page at /. "
        "For development, tests and small fleets.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    registry.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no authentication")
    registry.add_argument("--port", type=_port, default=8761, help="port to listen on; 0 picks a free one")
    registry.add_argument(
        "--eviction-interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="time between two looks for instances that no longer renew",
    )
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("resilient-patterns")
    except PackageNotFoundError:
        return "(not installed)"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"seconds are a number more than 0, not {text!r}")
    return seconds


def _registry(host: str, port: int, eviction_interval: float) -> int:
    asked = threading.Event()
    server: RegistryServer | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:  # never raises: an import in progress may swallow that
        asked.set()
        if server is not None:
            server.ask_to_stop()

    signal.signal(signal.SIGINT, stop)  # before the imports that take time: Ctrl-C is quiet from the first moment
    signal.signal(signal.SIGTERM, stop)
    from resilient.errors import ConfigError
    from resilient.registry_server import RegistryServer

    try:
        server = RegistryServer(host, port, eviction_interval=eviction_interval)
        server.start()
    except (ImportError, ConfigError, RuntimeError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot listen on {host} port {port}: {error.strerror or error}")
    if asked.is_set():
        server.ask_to_stop()  # the signal came before there was a server to tell
    else:
        print(  # noqa: T201  # this line is what the command says
            f"registry listening on {server.http}/eureka (status page: {server.http}/)", flush=True
        )
    server.join()
    return _OK if asked.is_set() else _fail("the registry ended unexpectedly")


def _fail(sentence: str) -> int:
    print(f"resilient: {sentence}", file=sys.stderr)  # noqa: T201
    return _FAILED
