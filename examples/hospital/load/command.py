"""The command line of the load generator."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from examples.hospital.load.generator import run
from examples.hospital.load.plan import ARRIVALS, Plan
from examples.hospital.load.progress import Progress
from examples.hospital.load.report import milliseconds, print_report
from examples.hospital.load.result import Result
from resilient import ConfigError
from resilient.transport import AsyncResilientTransport

_HELD, _DID_NOT_HOLD, _INTERRUPTED = 0, 1, 130
_BODY_MOST: Final = 10 * 2**20  # bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        plan = _plan(arguments)
        transport = AsyncResilientTransport(arguments.registry, trust_env=False) if arguments.registry else None
    except ConfigError as error:
        parser.error(str(error).removeprefix("Plan: "))
    result = asyncio.run(_run(plan, transport))
    console = Console(highlight=False)
    if arguments.json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print_report(result, console, with_plot=not arguments.no_plot)
    if result.interrupted:
        return _INTERRUPTED
    broken = list(_broken_limits(result, arguments.max_errors, arguments.max_p99))
    for sentence in broken:
        print(f"load: {sentence}", file=sys.stderr)
    return _DID_NOT_HOLD if broken else _HELD


async def _run(plan: Plan, transport: httpx.AsyncBaseTransport | None) -> Result:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with Progress(Console(stderr=True, highlight=False)) as progress:
        return await run(plan, transport=transport, stop=stop, progress=progress)


def _broken_limits(result: Result, max_errors: float, max_p99: float | None) -> list[str]:
    found = []
    if result.error_ratio > max_errors:
        found.append(f"{result.failed} of {result.due} requests failed, more than {max_errors:.2%}")
    p99 = result.latency.at(99)
    if max_p99 is not None and p99 > max_p99:
        found.append(f"p99 was {milliseconds(p99)}, more than {milliseconds(max_p99)}")
    return found


def _plan(arguments: argparse.Namespace) -> Plan:
    return Plan(
        tuple(arguments.urls),
        rate=arguments.rate,
        duration=arguments.duration,
        users=arguments.users,
        requests=arguments.requests,
        arrivals=arguments.arrivals,
        method=arguments.method.upper(),
        headers=dict(arguments.header),
        body=arguments.data,
        timeout=arguments.timeout,
        seed=arguments.seed,
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable() or not text.isascii():
        raise argparse.ArgumentTypeError(f"a header is written 'Name: value', not {text!r}")
    return name.strip(), value.strip()


def _data(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    try:
        with Path(text[1:]).open("rb") as file:
            body = file.read(_BODY_MOST + 1)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {error.strerror or error}") from None
    if len(body) > _BODY_MOST:
        raise argparse.ArgumentTypeError(f"{text[1:]} is larger than {_BODY_MOST} bytes")
    return body


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise argparse.ArgumentTypeError(f"a ratio is a number from 0 to 1, not {text!r}")
    return ratio


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="load",
        usage="python -m examples.hospital.load URL ... [options]",
        description="An open-loop load generator: latencies count from when a request was due.",
        epilog="Ends with 0 when all limits held, 1 when one did not, 2 when it was not understood, 130 after Ctrl-C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("urls", metavar="URL", nargs="+", help="asked in turn when there are several")
    parser.add_argument("--users", type=int, default=50, help="requests under way at once, at most")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second, in all")
    parser.add_argument("--duration", type=float, default=30.0, metavar="SECONDS", help="at most 3600")
    parser.add_argument("--requests", type=int, metavar="COUNT", help="at most so many")
    parser.add_argument("--arrivals", choices=ARRIVALS, default="poisson", help="how requests become due")
    parser.add_argument("--method", default="GET", help="the method of every request")
    parser.add_argument("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'", help="repeat")
    parser.add_argument("--data", type=_data, metavar="TEXT|@FILE", help="the body of every request")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="of a request")
    parser.add_argument("--seed", type=int, help="of the arrivals, to have the same again")
    parser.add_argument("--registry", metavar="URL", help="where services are found by name, without the gateway")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-plot", action="store_true", help="print the table only")
    parser.add_argument("--max-errors", type=_ratio, default=0.0, metavar="RATIO", help="end with 1 when more failed")
    parser.add_argument("--max-p99", type=float, metavar="SECONDS", help="end with 1 when p99 was more")
    return parser
